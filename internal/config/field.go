package config

import (
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv/budget"
)

// Kind is the form of a setting in the file.
type Kind string

// The forms. A size is a text such as 4GB or a number of bytes.
const (
	Section  Kind = "section"
	List     Kind = "list"
	Map      Kind = "map"
	Text     Kind = "text"
	Boolean  Kind = "boolean"
	Whole    Kind = "whole number"
	Number   Kind = "number"
	Size     Kind = "size"
	Duration Kind = "duration"
)

// Field describes one setting, for checks, schemas and documentation alike.
type Field struct {
	Name   string       // the key; empty for the elements of lists and maps
	Kind   Kind         // its form
	Fields []*Field     // of a section, in the order of the Go type
	Elem   *Field       // of a list or a map
	Owner  reflect.Type // the struct that has the setting
	GoName string       // its name there
}

// Describe gives the description of the whole configuration. It is shared and
// must not be changed.
var Describe = sync.OnceValue(func() *Field { return describe(reflect.TypeFor[Config]()) })

func describe(t reflect.Type) *Field {
	switch {
	case t == reflect.TypeFor[units.Bytes]():
		return &Field{Kind: Size}
	case t == reflect.TypeFor[units.Duration]() || t == reflect.TypeFor[time.Duration]():
		return &Field{Kind: Duration}
	case t == reflect.TypeFor[budget.USD]():
		return &Field{Kind: Number}
	}
	switch t.Kind() {
	case reflect.Struct:
		return describeStruct(t)
	case reflect.Slice:
		return &Field{Kind: List, Elem: describe(t.Elem())}
	case reflect.Map:
		return &Field{Kind: Map, Elem: describe(t.Elem())}
	case reflect.Pointer:
		return describe(t.Elem())
	case reflect.String:
		return &Field{Kind: Text}
	case reflect.Bool:
		return &Field{Kind: Boolean}
	case reflect.Float32, reflect.Float64:
		return &Field{Kind: Number}
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Uint64:
		return &Field{Kind: Whole}
	}
	panic("config: no form in the file for the type " + t.String())
}

func describeStruct(t reflect.Type) *Field {
	section := &Field{Kind: Section}
	for field := range t.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		if !field.IsExported() || name == "-" {
			continue
		}
		if options == "inline" {
			section.Fields = append(section.Fields, describe(field.Type).Fields...)
			continue
		}
		if name == "" {
			panic("config: the field " + t.String() + "." + field.Name + " has no yaml tag")
		}
		f := describe(field.Type)
		f.Name, f.Owner, f.GoName = name, t, field.Name
		section.Fields = append(section.Fields, f)
	}
	return section
}

// find gives the setting of a section by its key.
func (f *Field) find(name string) *Field {
	for _, member := range f.Fields {
		if member.Name == name {
			return member
		}
	}
	return nil
}

// names lists the keys of a section.
func (f *Field) names() []string {
	var names []string
	for _, member := range f.Fields {
		names = append(names, member.Name)
	}
	return names
}
