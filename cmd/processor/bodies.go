package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

const (
	// maxText bounds a text that a command reads as a whole.
	maxText = 256 << 20
	// maxFileLine bounds a line of a .jsonl file.
	maxFileLine = 64 << 20
)

// source is an input of a command: a file, or standard input as "-".
type source struct {
	name   string
	reader io.ReadCloser
}

func (a *app) openSource(name string) (source, error) {
	if name == "" || name == "-" {
		return source{"-", io.NopCloser(a.stdin)}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return source{}, wrongUse(fmt.Errorf("opening the input: %w", err), "name an existing file, or - for standard input")
	}
	return source{name, f}, nil
}

// lines reports whether the input holds a request a line.
func (s source) lines() bool { return strings.HasSuffix(s.name, ".jsonl") }

func (s source) text() (string, error) {
	text, err := io.ReadAll(io.LimitReader(s.reader, maxText+1))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", s.name, err)
	}
	if len(text) > maxText {
		return "", hint(fmt.Errorf("%s is larger than %d bytes", s.name, maxText), "split it")
	}
	return string(text), nil
}

// entry is a line of a .jsonl file.
type entry struct {
	number int
	text   []byte
}

// each calls f with each line that is not empty. The first error of f ends it.
func (s source) each(f func(entry) error) error {
	reader := lineReader(s.reader, 256<<10)
	for number := 1; ; number++ {
		text, length, err := readLine(reader, maxFileLine)
		if errors.Is(err, io.EOF) && length == 0 {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading %s: %w", s.name, err)
		}
		if length > maxFileLine {
			return fmt.Errorf("%s:%d: the line is longer than %d bytes", s.name, number, maxFileLine)
		}
		if len(text) > 0 {
			if err := f(entry{number, text}); err != nil {
				return err
			}
		}
	}
}

// asked is a request of a .jsonl file: a line of OpenAI's batch format, or a
// body alone.
type asked struct {
	CustomID string         `json:"custom_id"`
	Body     jsontext.Value `json:"body"`
	Response jsontext.Value `json:"response"`

	parsed schemas.Parsed
}

// readAsked reads a request and checks it as the pipeline would.
func readAsked(text []byte) (asked, error) {
	var line asked
	if _, wrapped := schemas.Member(text, "body"); wrapped {
		if schemas.Depth(text) > schemas.MaxDepth {
			return asked{}, schemas.Invalid(schemas.CodeInvalidJSON, "", "the line is nested deeper than %d levels", schemas.MaxDepth)
		}
		if err := json.Unmarshal(text, &line); err != nil {
			return line, schemas.Invalid(schemas.CodeInvalidField, "custom_id", "the line is no JSON object with a body and a custom_id that is a string")
		}
	} else {
		line.Body = text
	}
	var err error
	line.parsed, err = schemas.Parse(line.Body)
	return line, err
}
