package page

import (
	"fmt"
	"text/template"
	"text/template/parse"
)

// safeHTML is HTML of ours. Every other value is a text, whoever it comes from, and is escaped.
type safeHTML string

// escapeAll makes every action of the templates end with escape, so that none can be forgotten. In our templates values stand
// in text and in quoted attributes only, where that is enough; TestTemplatesAgreeWithHTMLTemplate holds it against html/template,
// which is not used because it adds a quarter of a megabyte to the program.
func escapeAll(set *template.Template) *template.Template {
	for _, t := range set.Templates() {
		if t.Tree != nil {
			escapeNode(t.Tree, t.Root)
		}
	}
	return set
}

func escapeNode(tree *parse.Tree, node parse.Node) {
	branch := func(b parse.BranchNode) {
		escapeNode(tree, b.List)
		if b.ElseList != nil {
			escapeNode(tree, b.ElseList)
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		for _, one := range n.Nodes {
			escapeNode(tree, one)
		}
	case *parse.IfNode:
		branch(n.BranchNode)
	case *parse.RangeNode:
		branch(n.BranchNode)
	case *parse.WithNode:
		branch(n.BranchNode)
	case *parse.ActionNode:
		if len(n.Pipe.Decl) == 0 { // it writes its value
			name := parse.NewIdentifier("escape").SetTree(tree).SetPos(n.Pos)
			n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{name}})
		}
	}
}

// escape is the last function of each action.
func escape(value any) string {
	switch v := value.(type) {
	case safeHTML:
		return string(v)
	case string:
		return template.HTMLEscapeString(v)
	}
	return template.HTMLEscapeString(fmt.Sprint(value))
}
