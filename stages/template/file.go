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
