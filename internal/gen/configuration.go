package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/adpa/processor/internal/config"
)

// defaults gives the configuration that holds where nothing is said.
func defaults() (map[string]any, error) {
	cfg := config.Default()
	text, err := cfg.Show()
	if err != nil {
		return nil, err
	}
	var values map[string]any
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		return nil, fmt.Errorf("reading the defaults: %w", err)
	}
	return values, nil
}

// within gives the value of a key, nil where there is none.
func within(value any, name string) any {
	if section, ok := value.(map[string]any); ok {
		return section[name]
	}
	return nil
}

func configurationSchema(docs comments) ([]byte, error) {
	values, err := defaults()
	if err != nil {
		return nil, err
	}
	schema, err := fieldSchema(docs, config.Describe(), values)
	if err != nil {
		return nil, err
	}
	schema.Title, schema.Schema = "The configuration of processor", dialect
	return render(schema)
}

func fieldSchema(docs comments, f *config.Field, value any) (*jsonschema.Schema, error) {
	s, err := formSchema(docs, f, value)
	if err != nil || f.Owner == nil {
		return s, err
	}
	if s.Description, err = docs.of(f.Owner, f.GoName); err != nil {
		return nil, err
	}
	if f.Kind != config.Section && value != nil {
		if s.Default, err = json.Marshal(value); err != nil {
			return nil, fmt.Errorf("encoding the default of %s: %w", f.Name, err)
		}
	}
	return s, nil
}

func formSchema(docs comments, f *config.Field, value any) (s *jsonschema.Schema, err error) {
	s = &jsonschema.Schema{}
	switch f.Kind {
	case config.Section:
		s.Type, s.Properties = "object", map[string]*jsonschema.Schema{}
		s.AdditionalProperties = &jsonschema.Schema{Not: &jsonschema.Schema{}}
		for _, member := range f.Fields {
			if s.Properties[member.Name], err = fieldSchema(docs, member, within(value, member.Name)); err != nil {
				return nil, err
			}
			s.PropertyOrder = append(s.PropertyOrder, member.Name)
		}
	case config.List:
		s.Type = "array"
		s.Items, err = fieldSchema(docs, f.Elem, nil)
	case config.Map:
		s.Type = "object"
		s.AdditionalProperties, err = fieldSchema(docs, f.Elem, nil)
	case config.Text:
		s.Type = "string"
	case config.Boolean:
		s.Type = "boolean"
	case config.Whole:
		s.Type = "integer"
	case config.Number:
		s.Type = "number"
	case config.Size:
		s.Types = []string{"string", "integer"}
		s.Pattern = `^ *[0-9]+(\.[0-9]+)? *([KkMmGgTt]?[Ii]?[Bb])? *$`
	case config.Duration:
		s.Types = []string{"string", "integer"}
		s.Pattern = `^ *(0|([0-9]*\.?[0-9]+(ns|us|µs|ms|s|m|h))+) *$`
	}
	return s, err
}

func configurationGuide(docs comments) ([]byte, error) {
	values, err := defaults()
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString("# Configuration\n\nMade by `go run ./internal/gen` from the types that read it; do not edit.\n\n" +
		"One YAML file, `processor.yaml` in the working directory or what `--config` names. Everything has a default, so the file may be missing. " +
		"It is read strictly: an unknown key or a wrong form is an error that shows the line. " +
		"`${NAME}` in a text takes the variable NAME of the environment, for secrets; it is never shown. " +
		"Sizes are like `512KB`, `256MB`, `4GB` (steps of 1,024) or a number of bytes; durations like `500ms`, `30s`, `5m`, `168h`.\n\n" +
		"`processor config check` checks a file, `config show` prints what is in force, `config schema` prints a JSON Schema for editors.\n")
	for _, section := range config.Describe().Fields {
		if err := writeSection(&b, docs, section, within(values, section.Name)); err != nil {
			return nil, err
		}
	}
	return []byte(b.String()), nil
}

func writeSection(b *strings.Builder, docs comments, section *config.Field, value any) error {
	text, err := docs.of(section.Owner, section.GoName)
	if err != nil {
		return err
	}
	fields := section
	if section.Kind == config.List {
		fields = section.Elem
		text += " A list, empty by default; each entry has:"
	}
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n| key | form | default | meaning |\n| --- | --- | --- | --- |\n", section.Name, text)
	return writeRows(b, docs, fields, "", value)
}

func writeRows(b *strings.Builder, docs comments, section *config.Field, prefix string, value any) error {
	for _, f := range section.Fields {
		text, err := docs.of(f.Owner, f.GoName)
		if err != nil {
			return err
		}
		key, inside := prefix+f.Name, within(value, f.Name)
		if f.Kind == config.Section {
			fmt.Fprintf(b, "| `%s` | section | | %s |\n", key, cell(text))
			if err := writeRows(b, docs, f, key+".", inside); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", key, form(f), shown(inside), cell(text))
	}
	return nil
}

func form(f *config.Field) string {
	switch f.Kind {
	case config.List:
		return "list of " + form(f.Elem) + "s"
	case config.Map:
		return "names to " + form(f.Elem) + "s"
	}
	return string(f.Kind)
}

// shown writes a default; entries of lists have theirs in their text.
func shown(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		if v == "" {
			return "empty"
		}
		return "`" + v + "`"
	}
	text, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	if string(text) == "[]" {
		return "empty"
	}
	return "`" + strings.ReplaceAll(string(text), `"`, "") + "`"
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
