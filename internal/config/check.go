package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/adpa/processor/internal/near"
	"github.com/adpa/processor/internal/units"
)

// misfit is a place in the file that is not what it should be.
type misfit struct {
	node    ast.Node
	key     string
	problem string
}

// check compares a node of the file with what the configuration takes there,
// and gives the first misfit. The YAML decoder alone would name Go types, or
// convert silently.
func check(node ast.Node, f *Field, path string) *misfit {
	wrong := func(problem string) *misfit { return &misfit{node, path, problem} }
	switch n := node.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return nil // as if it were not there
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		return wrong("anchors, aliases and tags are not taken; write the value itself")
	case *ast.MappingNode:
		return checkMapping(n, n.Values, f, path)
	case *ast.MappingValueNode:
		return checkMapping(n, []*ast.MappingValueNode{n}, f, path)
	case *ast.SequenceNode:
		if f.Kind != List {
			return wrong("is a list, it must be " + article(f.Kind))
		}
		for i, value := range n.Values {
			if m := check(value, f.Elem, path+"["+strconv.Itoa(i)+"]"); m != nil {
				return m
			}
		}
		return nil
	}
	if problem := checkScalar(node, f); problem != "" {
		return wrong(problem)
	}
	return nil
}

func checkMapping(node ast.Node, values []*ast.MappingValueNode, f *Field, path string) *misfit {
	if f.Kind != Section && f.Kind != Map {
		return &misfit{node, path, "is a section of keys, it must be " + article(f.Kind)}
	}
	seen := map[string]bool{}
	for _, v := range values {
		name, ok := keyText(v.Key)
		key := strings.TrimPrefix(path+"."+name, ".")
		if !ok {
			return &misfit{v.Key, path, "has a key that is not a plain name"}
		}
		if seen[name] {
			return &misfit{v.Key, key, "stands twice; keep one"}
		}
		seen[name] = true
		member := f.Elem
		if f.Kind == Section {
			if member = f.find(name); member == nil {
				return &misfit{v.Key, key, unknown(f, path, name)}
			}
		}
		if m := check(v.Value, member, key); m != nil {
			return m
		}
	}
	return nil
}

func keyText(key ast.MapKeyNode) (string, bool) {
	switch k := key.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode:
		return k.GetToken().Value, true
	}
	return "", false
}

func unknown(f *Field, path, name string) string {
	where := path
	if where == "" {
		where = "the configuration"
	}
	hint := ""
	if known := nearest(name, f.names()); known != "" {
		hint = "; did you mean " + known + "?"
	}
	return fmt.Sprintf("is not known%s (%s takes %s)", hint, where, strings.Join(f.names(), ", "))
}

// checkScalar gives what is wrong with a value, or "".
func checkScalar(node ast.Node, f *Field) string {
	text, isText := scalarText(node)
	found := "a text"
	switch node.(type) {
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		found = "a number"
	case *ast.BoolNode:
		found = "true or false"
	}
	switch f.Kind {
	case Text:
		if isText {
			return ""
		}
		return "is " + found + ", it must be a text: put it in quotes"
	case Boolean:
		if _, ok := node.(*ast.BoolNode); ok {
			return ""
		}
	case Whole:
		if n, ok := node.(*ast.IntegerNode); ok {
			if _, fits := n.GetValue().(uint64); fits {
				return ""
			}
			if _, fits := n.GetValue().(int64); fits {
				return ""
			}
		}
	case Number:
		switch node.(type) {
		case *ast.IntegerNode, *ast.FloatNode:
			return ""
		}
	case Size:
		if isText || found == "a number" {
			if _, err := units.ParseBytes(text); err != nil {
				return "is no size: " + err.Error()
			}
			return ""
		}
	case Duration:
		if isText || found == "a number" {
			if _, err := units.ParseDuration(text); err != nil {
				return "is no duration: " + err.Error()
			}
			return ""
		}
	}
	problem := "is " + found + ", it must be " + article(f.Kind)
	if strings.Contains(text, "${") {
		problem += "; ${NAME} is taken in texts only"
	}
	return problem
}

// scalarText gives the text of a scalar, and whether it is a text and not a
// number, a boolean or a date.
func scalarText(node ast.Node) (text string, isText bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return node.GetToken().Value, false
}

func article(k Kind) string {
	switch k {
	case Section:
		return "a section of keys"
	case Map:
		return "a section of names and values"
	case Boolean:
		return "true or false"
	case Size:
		return "a size like 256MB or 4GB"
	case Duration:
		return "a duration like 30s, 5m or 168h"
	}
	return "a " + string(k)
}

// nearest gives the name that is at most two edits away from what was written, or "".
func nearest(written string, names []string) string {
	best, least := "", 3
	for _, name := range names {
		if d := near.Distance(written, name); d < least && d < len(name) {
			best, least = name, d
		}
	}
	return best
}
