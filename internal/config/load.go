package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Bounds of the configuration file. The YAML library needs time and memory that
// grow with the square of the depth.
const (
	maxFile  = 256 << 10 // bytes
	maxDepth = 40        // brackets or dashes that are open at a time
)

// Error is a configuration that cannot be used.
type Error struct {
	File    string // as it was given
	Line    int    // from 1; 0 where no line is at fault
	Column  int    // from 1
	Key     string // such as cache.ttl; may be empty
	Problem string // what is wrong and what is allowed
	Source  string // the line, without secrets
}

// Error gives file, line, column, key and problem in one line, and below it the
// line of the file with a caret at the column.
func (e *Error) Error() string {
	text := e.File
	if e.Line > 0 {
		text += fmt.Sprintf(":%d:%d", e.Line, e.Column)
	}
	if e.Key != "" {
		text += ": " + e.Key
	}
	text += ": " + e.Problem
	if e.Line > 0 {
		number := fmt.Sprintf("%5d | ", e.Line)
		text += "\n" + number + e.Source + "\n" + strings.Repeat(" ", len(number)+e.Column-1) + "^"
	}
	return text
}

// Load reads the file at path, or takes the defaults where path is empty, applies
// the overrides in order, and validates the result. What is wrong with the file
// or with a setting is an *Error.
func Load(path string, overrides ...func(*Config) error) (Config, error) {
	if path == "" {
		return load("the configuration", nil, os.LookupEnv, overrides)
	}
	text, err := readFile(path)
	if err != nil {
		return Config{}, err
	}
	return load(path, text, os.LookupEnv, overrides)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if errors.Is(err, syscall.EISDIR) {
		return nil, &Error{File: path, Problem: "is a directory, it must be a YAML file"}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if len(text) > maxFile {
		return nil, &Error{File: path, Problem: fmt.Sprintf("is larger than %d bytes; is it a configuration?", maxFile)}
	}
	return text, nil
}

func load(file string, text []byte, lookup func(string) (string, bool), overrides []func(*Config) error) (Config, error) {
	source := source{file: file, text: text}
	cfg, err := source.decode()
	if err != nil {
		return Config{}, err
	}
	if err := cfg.expand(lookup); err != nil {
		return Config{}, source.locate(err.Error())
	}
	for _, override := range overrides {
		if err := override(&cfg); err != nil {
			return Config{}, err
		}
	}
	cfg.complete()
	if err := cfg.Validate(); err != nil {
		return Config{}, source.locate(cfg.scrub(err.Error()))
	}
	return cfg, nil
}

// source is the file while it is read.
type source struct {
	file string
	text []byte
	root ast.Node
}

func (s *source) decode() (Config, error) {
	cfg := Default()
	if line := tooDeep(s.text); line > 0 {
		return Config{}, &Error{File: s.file, Line: line, Column: 1, Problem: "is nested too deep; a configuration needs a few levels"}
	}
	tree, err := parser.ParseBytes(s.text, 0)
	if err != nil {
		return Config{}, s.syntax(err)
	}
	if len(tree.Docs) > 1 {
		return Config{}, s.at(tree.Docs[1].Body, "", "the file holds a second document; it must be one")
	}
	if len(tree.Docs) == 0 || tree.Docs[0].Body == nil {
		return cfg, nil
	}
	s.root = tree.Docs[0].Body
	if m := check(s.root, Describe(), ""); m != nil {
		if m.node == s.root {
			m.problem = "the file " + m.problem + ", as in nats: {url: \"nats://127.0.0.1:4222\"}"
		}
		return Config{}, s.at(m.node, m.key, m.problem)
	}
	if err := yaml.NewDecoder(bytes.NewReader(s.text), yaml.Strict()).Decode(&cfg); err != nil && !errors.Is(err, io.EOF) {
		return Config{}, s.syntax(err)
	}
	return cfg, nil
}

// tooDeep gives the first line at which more brackets are open than any
// configuration needs, or more blanks and dashes stand in one line, or 0. It may
// count what stands in quotes, which is why its bound is generous.
func tooDeep(text []byte) int {
	open, inLine, line := 0, 0, 1
	for _, c := range text {
		switch c {
		case '\n':
			line, inLine = line+1, 0
		case '[', '{':
			open++
		case ']', '}':
			open = max(open-1, 0)
		case '-', ' ', '\t', '?':
			inLine++
		}
		if open > maxDepth || inLine > 100*maxDepth {
			return line
		}
	}
	return 0
}

// syntax makes the error for what the YAML library found wrong. Its own text
// shows the lines around, which may hold secrets.
func (s *source) syntax(err error) error {
	var y yaml.Error
	if !errors.As(err, &y) {
		return &Error{File: s.file, Problem: "is not valid YAML"}
	}
	e := &Error{File: s.file, Problem: y.GetMessage()}
	if token := y.GetToken(); token != nil && token.Position != nil {
		e.Line, e.Column = token.Position.Line, token.Position.Column
		e.Source, e.Column = maskLine(s.line(e.Line), e.Column)
	}
	return e
}

// at makes the error for a node of the file.
func (s *source) at(node ast.Node, key, problem string) error {
	e := &Error{File: s.file, Key: key, Problem: problem}
	if node == nil {
		return e
	}
	if v, ok := node.(*ast.MappingValueNode); ok {
		node = v.Key
	}
	if m, ok := node.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		node = m.Values[0].Key
	}
	position := node.GetToken().Position
	e.Line, e.Column = position.Line, position.Column
	e.Source, e.Column = maskLine(s.line(e.Line), e.Column)
	return e
}

// locate makes the error for a text that begins with a key and a colon. It
// shows the deepest part of the key that the file has.
func (s *source) locate(text string) error {
	key, problem, ok := strings.Cut(text, ": ")
	if !ok || s.root == nil {
		return &Error{File: s.file, Problem: text}
	}
	node := ast.Node(nil)
	for at, path := s.root, key; path != ""; {
		var name string
		name, path = cutPath(path)
		if at = child(at, name); at == nil {
			break
		}
		node = at
	}
	return s.at(node, key, problem)
}

// cutPath splits a key like models[2].price at its first part.
func cutPath(path string) (name, rest string) {
	path = strings.TrimPrefix(path, ".")
	if strings.HasPrefix(path, "[") {
		name, rest, _ = strings.Cut(path[1:], "]")
		return name, rest
	}
	if i := strings.IndexAny(path, ".["); i >= 0 {
		return path[:i], path[i:]
	}
	return path, ""
}

// child gives the member or the element of a node by its name or number.
func child(node ast.Node, name string) ast.Node {
	switch n := node.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			if found := child(v, name); found != nil {
				return found
			}
		}
	case *ast.MappingValueNode:
		if key, ok := keyText(n.Key); ok && key == name {
			return n.Value
		}
	case *ast.SequenceNode:
		for i, v := range n.Values {
			if strconv.Itoa(i) == name {
				return v
			}
		}
	}
	return nil
}

func (s *source) line(number int) string {
	lines := bytes.Split(s.text, []byte("\n"))
	if number < 1 || number > len(lines) {
		return ""
	}
	line := strings.TrimRight(strings.ReplaceAll(string(lines[number-1]), "\t", " "), "\r")
	if len(line) > 160 {
		line = line[:160]
	}
	return line
}
