package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/adpa/processor/schemas"
)

// File gives the document that a file holds, as JSON: JSON or YAML by the ending
// of its name, else the text of a template. A line break at the end of a text is
// that of the file and no part of it. The document may still be no template: see Parse.
func File(name string, data []byte) ([]byte, error) {
	if len(data) > MaxDocument {
		return nil, fmt.Errorf("the file has %d bytes, a template may have %d", len(data), MaxDocument)
	}
	switch strings.ToLower(filepath.Ext(name)) {
	case ".json":
		return data, nil
	case ".yaml", ".yml":
		return fromYAML(data)
	}
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	return json.Marshal(map[string]string{"text": text})
}

func fromYAML(data []byte) ([]byte, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var value any
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	var more any
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading YAML: there is more than one document; a template is one")
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("reading YAML: %w", err)
	}
	return out.Bytes(), nil
}

// YAML writes a document for people to read and change. A document that would not
// come back as it is, which may be the fault of the YAML library, is written as JSON.
func YAML(document []byte) ([]byte, error) {
	var value any
	if err := yaml.UnmarshalWithOptions(document, &value, yaml.UseOrderedMap()); err == nil {
		out, err := yaml.MarshalWithOptions(value, yaml.UseLiteralStyleIfMultiline(true), yaml.IndentSequence(true))
		if err == nil {
			if back, err := fromYAML(out); err == nil && equal(back, document) {
				return out, nil
			}
		}
	}
	var out bytes.Buffer
	if err := json.Indent(&out, document, "", "  "); err != nil {
		return nil, fmt.Errorf("reading the template: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

func equal(a, b []byte) bool {
	return bytes.Equal(schemas.AppendCanonical(nil, a), schemas.AppendCanonical(nil, b))
}
