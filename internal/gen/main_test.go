package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
)

func TestGeneratedFilesAreFresh(t *testing.T) {
	require.NoError(t, run(t.Context(), io.Discard, true))
}

func compiled(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	text, err := schemas.Files.ReadFile(name)
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource(name, doc))
	schema, err := c.Compile(name)
	require.NoError(t, err)
	return schema
}

func instance(t *testing.T, json []byte) any {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(json))
	require.NoError(t, err)
	return value
}

// What the product accepts as a configuration is what the schema accepts.
func TestConfigurationSchema(t *testing.T) {
	schema := compiled(t, "configuration.schema.json")
	text, err := os.ReadFile(filepath.Join("..", "config", "testdata", "full.good.yaml"))
	require.NoError(t, err)
	json, err := yaml.YAMLToJSON(text)
	require.NoError(t, err)
	require.NoError(t, schema.Validate(instance(t, json)))
	for _, bad := range []string{`{"cache":{"ttll":"1h"}}`, `{"cache":{"ttl":"1 hour"}}`, `{"streams":{"dead":{"max_bytes":"1XB"}}}`, `{"score":{"metrics":"relevance"}}`} {
		require.Error(t, schema.Validate(instance(t, []byte(bad))), bad)
	}
}

func TestWireSchemas(t *testing.T) {
	request := compiled(t, "request.schema.json")
	require.NoError(t, request.Validate(instance(t, []byte(`{"model":"m","odd":1,"messages":[{"role":"user","content":"x","name":"n"}],"processor":{"priority":"batch"}}`))))
	require.Error(t, request.Validate(instance(t, []byte(`{"messages":[{"content":"x"}]}`))))
	require.Error(t, request.Validate(instance(t, []byte(`{"messages":[],"processor":{"prioritty":"batch"}}`))))

	failure := schemas.ErrorResponse(&schemas.State{ID: "a", Tenant: "t"}, "generate", schemas.Invalid(schemas.CodeMissingField, "messages", "is missing"))
	require.NoError(t, compiled(t, "error.schema.json").Validate(instance(t, failure)))

	answer, err := schemas.AnswerResponse(&schemas.Handoff{
		State:  schemas.State{ID: "a", Tenant: "t", Model: "m", Cache: "miss", Stages: schemas.Timings{{Stage: "compress", QueuedMS: 1, RanMS: 2}}},
		Answer: []byte(`{"object":"chat.completion","choices":[]}`),
	})
	require.NoError(t, err)
	require.NoError(t, compiled(t, "response.schema.json").Validate(instance(t, answer)))
}
