package structure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a JSON value that is checked against a schema.
const (
	maxTreeBytes = 1 << 20
	maxTreeNodes = 1 << 17
	maxTreeDepth = 64
	maxExponent  = 400 // of a number: the validator writes numbers out in full
	maxNumber    = 400 // bytes of a number
)

var (
	errTreeBytes = fmt.Errorf("over %d bytes are too much to be checked", maxTreeBytes)
	errTreeNodes = fmt.Errorf("over %d values are too much to be checked", maxTreeNodes)
	errTreeDepth = fmt.Errorf("nested deeper than %d levels", maxTreeDepth)
	errNumber    = errors.New("a number is too large to be checked")
	errTrailing  = errors.New("more text after the JSON value")
)

// Tree is a JSON value as the schema validator wants it, and how many values it holds.
type Tree struct {
	Value any // map[string]any, []any, string, json.Number, bool or nil
	nodes int
}

// ParseTree reads one JSON value, strictly: names may not repeat, and nothing may follow.
// It must be at most 1 MB, 131,072 values and 64 levels, with numbers that can be written out.
// Its error wraps io.ErrUnexpectedEOF if the text ends too early.
func ParseTree(text []byte) (Tree, error) {
	if len(text) > maxTreeBytes {
		return Tree{}, errTreeBytes
	}
	r := treeReader{dec: jsontext.NewDecoder(bytes.NewBuffer(text))}
	v, err := r.value(0)
	if errors.Is(err, io.EOF) { // no value at all
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return Tree{}, err
	}
	if _, err := r.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return Tree{}, errTrailing
	}
	return Tree{v, r.nodes}, nil
}

type treeReader struct {
	dec   *jsontext.Decoder
	nodes int
}

func (r *treeReader) value(depth int) (any, error) {
	if r.nodes++; r.nodes > maxTreeNodes {
		return nil, errTreeNodes
	}
	if depth > maxTreeDepth {
		return nil, errTreeDepth
	}
	token, err := r.dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case '{':
		return r.object(depth)
	case '[':
		return r.array(depth)
	case '"':
		return token.String(), nil
	case '0':
		return parseNumber(token.String())
	case 't', 'f':
		return token.Bool(), nil
	}
	return nil, nil
}

func (r *treeReader) object(depth int) (any, error) {
	object := map[string]any{}
	for r.dec.PeekKind() == '"' {
		name, err := r.dec.ReadToken()
		if err != nil {
			return nil, err
		}
		key := name.String()
		if object[key], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	_, err := r.dec.ReadToken()
	return object, err
}

func (r *treeReader) array(depth int) (any, error) {
	array := []any{}
	for k := r.dec.PeekKind(); k != ']' && k != 0; k = r.dec.PeekKind() {
		v, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		array = append(array, v)
	}
	_, err := r.dec.ReadToken()
	return array, err
}

// parseNumber refuses what would be gigabytes of digits when written out.
func parseNumber(raw string) (any, error) {
	if len(raw) > maxNumber {
		return nil, errNumber
	}
	for i := range len(raw) {
		if raw[i] != 'e' && raw[i] != 'E' {
			continue
		}
		if exponent, err := strconv.Atoi(raw[i+1:]); err != nil || exponent > maxExponent || exponent < -maxExponent {
			return nil, errNumber
		}
	}
	return json.Number(raw), nil
}
