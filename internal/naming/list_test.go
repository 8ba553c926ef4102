package naming_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/job-publisher/reactor/internal/naming"
)

// sqlTexts returns every text of SQL in the program: the files of package sql, and the literals of
// pgsource and producer that look like SQL, by the place where they are.
func sqlTexts(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	files, err := filepath.Glob("../../sql/*.sql")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files of SQL, %v", len(files), err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(file)] = string(text)
	}
	for _, folder := range []string{"pgsource", "producer"} {
		files, err := filepath.Glob("../../" + folder + "/*.go")
		if err != nil || len(files) < 5 {
			t.Fatalf("%d files in %s, %v", len(files), folder, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			set := token.NewFileSet()
			parsed, err := parser.ParseFile(set, file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				if _, ok := n.(*ast.ImportSpec); ok {
					return false
				}
				literal, ok := n.(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				if isSQL.MatchString(text) {
					texts[folder+"/"+filepath.Base(file)+":"+strconv.Itoa(set.Position(literal.Pos()).Line)] = text
				}
				return true
			})
		}
	}
	return texts
}

// isSQL tells SQL from messages: it has words in capitals, or begins like a part of a statement.
var isSQL = regexp.MustCompile(`\b(SELECT|INSERT|UPDATE|DELETE|FROM|WHERE|JOIN|TABLE|SET|INDEX|EXISTS|AND|CASE|LISTEN|LOCK|GRANT|EXECUTE)\b|^reactor[._]`)

// The words that could be a name of the deployment, and where they are none. Whoever adds a text to which
// neither the rule of rewrite.go nor one of these applies, decides here which it is.
var (
	suspicious = regexp.MustCompile(`\b(?:reactor|jobs)(?:_\w*)?\b`)
	harmless   = []*regexp.Regexp{
		regexp.MustCompile(`\bjobs_(?:schema|table)\b`), // the columns of deployment
		regexp.MustCompile(`\{jobs\}`),                  // replaced by the table that the deployment records
		// A variable of a function that has the name of the table, with its schema.
		regexp.MustCompile(`\|\| jobs \|\||(?m:^ +jobs +text := )|given', jobs USING HINT|processed', jobs\)`),
		// The program, and prose about jobs.
		regexp.MustCompile("`reactor [a-z]|reactor''s|'reactor before version|give reactor a schema|run as reactor|when reactor claims"),
		regexp.MustCompile(`table of jobs|ids of jobs|those jobs|and jobs without|copy the jobs|may not (?:change|make|delete) jobs|'jobs were not deleted`),
		regexp.MustCompile(`^(?:SELECT (?:pg_catalog\.to_regclass\(')?)?reactor\.$`), // the name of a function or a table follows
	}
	comment = regexp.MustCompile(`(?m)--.*$`)
)

// TestEveryTextIsRewritten: with other names no text mentions the default ones any more, except where they
// are no names. A text that is new and not covered by the rule fails here.
func TestEveryTextIsRewritten(t *testing.T) {
	n, err := naming.New("zq", "zt")
	if err != nil {
		t.Fatal(err)
	}
	texts := sqlTexts(t)
	if len(texts) < 100 {
		t.Fatalf("only %d texts were found", len(texts))
	}
	replaced := 0
	for place, text := range texts {
		if strings.HasSuffix(place, ".sql") {
			text = comment.ReplaceAllString(text, "")
		}
		rewritten := n.In(text)
		if rewritten != text {
			replaced++
		}
		for _, ok := range harmless {
			rewritten = ok.ReplaceAllString(rewritten, "")
		}
		for _, at := range suspicious.FindAllStringIndex(rewritten, -1) {
			t.Errorf("%s: is this a name of the deployment? …%s…", place, rewritten[max(0, at[0]-40):min(len(rewritten), at[1]+40)])
		}
	}
	if replaced < 80 {
		t.Errorf("only %d texts have changed", replaced)
	}
}

// TestQuotesAreClosed: what is between double quotes is never rewritten, so each text closes those that
// it opens. A text of which only a part closes them would hide the names behind it.
func TestQuotesAreClosed(t *testing.T) {
	for place, text := range sqlTexts(t) {
		if strings.Count(text, `"`)%2 != 0 {
			t.Errorf("%s has an odd number of double quotes", place)
		}
	}
}
