package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
)

const module = "github.com/adpa/processor/"

// comments finds the doc comments of struct fields in the module's source.
type comments struct{ root string }

// of gives the comment of a field as one line, without the "Name is" that
// Go comments begin with.
func (c comments) of(owner reflect.Type, field string) (string, error) {
	dir := filepath.Join(c.root, filepath.FromSlash(strings.TrimPrefix(owner.PkgPath(), module)))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("reading the source of %s: %w", owner, err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.ParseComments)
		if err != nil {
			return "", fmt.Errorf("reading the source of %s: %w", owner, err)
		}
		if text, ok := fieldComment(file, owner.Name(), field); ok {
			return tidy(text, field), nil
		}
	}
	return "", fmt.Errorf("%s.%s has no comment, which its documentation is made from", owner, field)
}

func fieldComment(file *ast.File, owner, field string) (text string, found bool) {
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != owner {
			return !found
		}
		structure, ok := spec.Type.(*ast.StructType)
		if !ok {
			return false
		}
		group := ""
		for _, f := range structure.Fields.List {
			if f.Doc != nil {
				group = f.Doc.Text()
			}
			for _, name := range f.Names {
				if name.Name != field {
					continue
				}
				// A comment above the first of some fields holds for all of them.
				if text = group; f.Comment != nil {
					text = f.Comment.Text()
				}
				found = strings.TrimSpace(text) != ""
			}
		}
		return false
	})
	return text, found
}

// tidy makes a sentence for readers of the file: they do not see Go names.
func tidy(text, field string) string {
	text = strings.Join(strings.Fields(text), " ")
	for _, verb := range []string{" is ", " are ", " means that ", " says ", " holds ", " names "} {
		if rest, ok := strings.CutPrefix(text, field+verb); ok {
			switch verb {
			case " is ", " are ", " means that ":
				text = rest
			default:
				text = strings.TrimSpace(verb) + " " + rest
			}
			break
		}
	}
	text = strings.TrimPrefix(text, field+" ")
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
