package naming

import "strings"

// The rule, for words of letters, digits and _:
//
//	word                          becomes             where
//	reactor                       the schema          a dot follows, and no white space behind that: reactor.lanes
//	                                                  it is a whole literal, or the beginning of a key: 'reactor', 'reactor key '
//	                                                  SCHEMA is in front, in any case: CREATE SCHEMA reactor
//	reactor_…                     <schema>_…          everywhere: channels, publications, triggers, slots
//	jobs                          the table           "I." or "%." is in front: %I.jobs, %1$I.jobs, %.jobs
//	                                                  it is a whole literal: 'jobs'
//	                                                  TABLE, ON or EXISTS is in front: ALTER TABLE jobs
//	jobs_…                        <table>_…           everywhere, except jobs_schema and jobs_table: indexes, partitions
//
// All other words stay: the command `reactor`, the application_name reactor-…, the variable jobs of a
// function. So does everything in double quotes, where the names of others stand. Comments follow the
// same rule; what becomes of them does not matter.

// kept are columns that begin like a name that is derived from the table's.
var kept = map[string]bool{"jobs_schema": true, "jobs_table": true}

// rewrite applies the rule. Its time is linear in the text.
func (n Names) rewrite(text string) string {
	var b strings.Builder
	b.Grow(len(text) + len(text)/8)
	before := "" // the word in front, if only spaces are between
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '"':
			end := strings.IndexByte(text[i+1:], '"')
			if end < 0 {
				b.WriteString(text[i:])
				return b.String()
			}
			b.WriteString(text[i : i+end+2])
			i += end + 2
			before = ""
		case isWord(c):
			end := i + 1
			for end < len(text) && isWord(text[end]) {
				end++
			}
			word := text[i:end]
			b.WriteString(n.word(word, text[:i], before, text[end:]))
			i, before = end, word
		default:
			b.WriteByte(c)
			if c != ' ' {
				before = ""
			}
			i++
		}
	}
	return b.String()
}

// word returns what a word becomes. front and behind are the text around it, and before is the word in
// front.
func (n Names) word(word, front, before, behind string) string {
	switch {
	case word == DefaultSchema:
		if len(behind) > 1 && behind[0] == '.' && behind[1] != ' ' && behind[1] != '\n' ||
			strings.HasSuffix(front, "'") && (strings.HasPrefix(behind, "'") || strings.HasPrefix(behind, " key ")) || strings.EqualFold(before, "schema") {
			return n.Schema()
		}
	case word == DefaultTable:
		if strings.HasSuffix(front, "I.") || strings.HasSuffix(front, "%.") || strings.HasSuffix(front, "'") && strings.HasPrefix(behind, "'") ||
			before == "TABLE" || before == "ON" || before == "EXISTS" {
			return n.Table()
		}
	case strings.HasPrefix(word, DefaultSchema+"_"):
		return n.Schema() + word[len(DefaultSchema):]
	case strings.HasPrefix(word, DefaultTable+"_") && !kept[word]:
		return n.Table() + word[len(DefaultTable):]
	}
	return word
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c >= 0x80
}
