package main

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

const dialect = "https://json-schema.org/draft/2020-12/schema"

// wire lists the schemas that are made from Go types alone. Open types are
// OpenAI's: they have members that the product does not read.
var wire = []struct {
	name, title string
	of          reflect.Type
	open        bool
}{
	{"request", "The body of a request", reflect.TypeFor[schemas.Request](), true},
	{"response", "The body of an answer", reflect.TypeFor[schemas.Response](), true},
	{"error", "The body of an error response", reflect.TypeFor[schemas.ErrorBody](), false},
	{"dead_letter", "A dead letter, as its headers say and dead list --json prints", reflect.TypeFor[streams.DeadLetter](), false},
	{"batch_line", "A line of a batch file", reflect.TypeFor[schemas.BatchLine](), true},
	{"replay_report", "The report of a replay, as --report-json writes it", reflect.TypeFor[evaluate.Report](), false},
	{"batch_result", "A line of a batch's output or error file", reflect.TypeFor[schemas.BatchResult](), false},
}

func wireSchemas() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, w := range wire {
		schema, err := jsonschema.ForType(w.of, &jsonschema.ForOptions{TypeSchemas: typeSchemas()})
		if err != nil {
			return nil, fmt.Errorf("making the schema of %s: %w", w.name, err)
		}
		schema.Title, schema.Schema = w.title, dialect
		if w.open {
			schema.AdditionalProperties = nil
			if messages := schema.Properties["messages"]; messages != nil {
				messages.Items.AdditionalProperties = nil
			}
		}
		if files["schemas/"+w.name+".schema.json"], err = render(schema); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// typeSchemas are the types whose JSON is not what their Go form suggests.
func typeSchemas() map[reflect.Type]*jsonschema.Schema {
	number := &jsonschema.Schema{Type: "number"}
	return map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[jsontext.Value](): {},
		reflect.TypeFor[time.Time]():      {Type: "string", Format: "date-time"},
		reflect.TypeFor[schemas.Class]():  {Type: "string", Enum: []any{"interactive", "batch"}},
		reflect.TypeFor[map[string]any](): {Type: "object"},
		reflect.TypeFor[schemas.StageTimes](): {Type: "object", AdditionalProperties: &jsonschema.Schema{
			Type: "object", Properties: map[string]*jsonschema.Schema{"queued_ms": number, "ran_ms": number.CloneSchemas()},
			Required: []string{"queued_ms", "ran_ms"},
		}},
	}
}

func render(schema *jsonschema.Schema) ([]byte, error) {
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the schema %q: %w", schema.Title, err)
	}
	return append(text, '\n'), nil
}
