package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// markdownCmd prints the command line as Markdown, for docs/cli.md.
type markdownCmd struct{}

// Run walks the commands in the order in which they are declared.
func (markdownCmd) Run(a *app, parser *kong.Kong) error {
	w := a.stdout
	fmt.Fprint(w, "# The command line\n\nMade by `go run ./internal/gen` from the commands themselves; do not edit.\n\n")
	fmt.Fprintln(w, parser.Model.Help)
	fmt.Fprint(w, "\nExit status: 0 done, 1 failed, 2 wrong use. An error says what was wrong, and on a second line what to try.\n\nEvery command takes:\n\n")
	writeFlags(w, parser.Model.Node)
	for _, command := range parser.Model.Leaves(true) {
		writeCommand(w, command)
	}
	return nil
}

func writeCommand(w io.Writer, n *kong.Node) {
	name := strings.TrimPrefix(n.FullPath(), "processor ")
	fmt.Fprintf(w, "\n## %s\n\n%s\n\n    processor %s", name, n.Help, name)
	for _, p := range n.Positional {
		fmt.Fprintf(w, " %s", p.Summary())
	}
	fmt.Fprint(w, " [flags]\n\n")
	if n.Detail != "" {
		fmt.Fprintf(w, "%s\n\n", n.Detail)
	}
	for _, p := range n.Positional {
		fmt.Fprintf(w, "- `%s`: %s\n", p.Summary(), p.Help)
	}
	writeFlags(w, n)
}

func writeFlags(w io.Writer, n *kong.Node) {
	for _, f := range n.Flags {
		if f.Hidden || f.Name == "help" {
			continue
		}
		name := "--" + f.Name
		if f.Short != 0 {
			name = "-" + string(f.Short) + ", " + name
		}
		if !f.IsBool() {
			name += "=" + f.FormatPlaceHolder()
		}
		fmt.Fprintf(w, "- `%s`: %s\n", name, f.Help)
	}
}
