package compress

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// The table form of JSON. An array of objects that have the same members in the
// same order is written as
//
//	[3]{id	name}:
//	1	build
//	2	"4"
//	3	{"first":"a"}
//
// with tabs between the cells. A cell is a JSON literal, or the text of a string that cannot be taken for
// one. Where such arrays are part of a larger value, the value comes first with
// "@table1" in the place of the array, and "@table1[3]{id name}:" starts the
// rows. Numbers and strings keep the spelling that they had.

const (
	// cellEnd parts the cells. JSON strings never hold a tab that is not
	// escaped, so no cell has to be quoted for its sake.
	cellEnd  = '\t'
	tableRef = "@table"
)

// foundTable is a uniform array in a compact JSON text.
type foundTable struct {
	start, end int
	names      [][]byte // raw, in quotes
	rows       int
}

// encodeTables writes the uniform arrays of a compact JSON value as tables. It
// reports false when there are none.
func encodeTables(value []byte) (string, bool) {
	if bytes.Contains(value, []byte(tableRef)) {
		return "", false // a reference could not be told from the text
	}
	var found []foundTable
	findTables(value, 0, 0, &found)
	if len(found) == 0 {
		return "", false
	}
	var b strings.Builder
	b.Grow(len(value))
	if len(found) == 1 && found[0].end == len(value) && found[0].start == 0 {
		writeTable(&b, value, found[0])
		return b.String(), true
	}
	at := 0
	for i, t := range found {
		b.Write(value[at:t.start])
		fmt.Fprintf(&b, `"%s%d"`, tableRef, i+1)
		at = t.end
	}
	b.Write(value[at:])
	for i, t := range found {
		fmt.Fprintf(&b, "\n%s%d", tableRef, i+1)
		writeTable(&b, value, t)
	}
	return b.String(), true
}

// findTables walks the value at v[i] and gives the index behind it.
func findTables(v []byte, i, depth int, found *[]foundTable) {
	if depth > maxTableDepth {
		return
	}
	switch v[i] {
	case '{':
		eachMember(v, i, func(_ []byte, start, _ int) bool {
			findTables(v, start, depth+1, found)
			return true
		})
	case '[':
		if t, ok := uniform(v, i); ok {
			*found = append(*found, t)
			return
		}
		eachElement(v, i, func(start, _ int) bool {
			findTables(v, start, depth+1, found)
			return true
		})
	}
}

// uniform reports whether the array at v[i] holds at least minRows objects with
// the same members in the same order, and no member twice.
func uniform(v []byte, i int) (foundTable, bool) {
	t := foundTable{start: i}
	if i+1 >= len(v) || v[i+1] != '{' {
		return t, false
	}
	t.end = eachElement(v, i, func(start, _ int) bool {
		if v[start] != '{' {
			return false
		}
		column := 0
		end := eachMember(v, start, func(name []byte, _, _ int) bool {
			column++
			if t.rows == 0 {
				t.names = append(t.names, name)
				return true
			}
			return column <= len(t.names) && bytes.Equal(t.names[column-1], name)
		})
		t.rows++
		return end > 0 && column == len(t.names)
	})
	return t, t.end > 0 && t.rows >= minRows && len(t.names) > 0
}

func writeTable(b *strings.Builder, v []byte, t foundTable) {
	fmt.Fprintf(b, "[%d]{", t.rows)
	for i, name := range t.names {
		if i > 0 {
			b.WriteByte(cellEnd)
		}
		b.Write(bareName(name))
	}
	b.WriteString("}:")
	eachElement(v, t.start, func(start, _ int) bool {
		b.WriteByte('\n')
		first := true
		eachMember(v, start, func(_ []byte, start, end int) bool {
			if !first {
				b.WriteByte(cellEnd)
			}
			first = false
			b.Write(bareCell(v[start:end]))
			return true
		})
		return true
	})
}

// bareName takes the quotes off a member name that needs none in a header.
func bareName(raw []byte) []byte {
	inner := raw[1 : len(raw)-1]
	if len(inner) == 0 || bytes.ContainsAny(inner, "\\[]{}") {
		return raw
	}
	return inner
}

// bareCell takes the quotes off a string that cannot be taken for a literal.
func bareCell(raw []byte) []byte {
	if raw[0] != '"' {
		return raw
	}
	inner := raw[1 : len(raw)-1]
	if len(inner) == 0 || bytes.ContainsAny(inner, "\\") || bytes.Contains(inner, twoBlanks) || strings.IndexByte(`"{[ `, inner[0]) >= 0 ||
		inner[len(inner)-1] == ' ' || isLiteral(inner) {
		return raw
	}
	return inner
}

// isLiteral reports whether a text is a JSON number, true, false or null.
func isLiteral(text []byte) bool {
	switch text[0] {
	case 't', 'f', 'n':
		s := string(text)
		return s == "true" || s == "false" || s == "null"
	}
	return isNumber(text)
}

// isNumber follows the grammar of RFC 8259, section 6.
func isNumber(text []byte) bool {
	i := 0
	if i < len(text) && text[i] == '-' {
		i++
	}
	whole := i
	i = skipDigits(text, i)
	if i == whole || text[whole] == '0' && i > whole+1 {
		return false
	}
	if i < len(text) && text[i] == '.' {
		start := i + 1
		if i = skipDigits(text, start); i == start {
			return false
		}
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		if i++; i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		start := i
		if i = skipDigits(text, start); i == start {
			return false
		}
	}
	return i == len(text)
}

func skipDigits(text []byte, i int) int {
	for i < len(text) && text[i] >= '0' && text[i] <= '9' {
		i++
	}
	return i
}

var errTable = errors.New("not the table form of JSON")

// DecodeTables gives back the compact JSON value whose uniform arrays were
// written as tables, byte for byte.
func DecodeTables(text string) ([]byte, error) {
	head, rest, _ := bytes.Cut([]byte(text), newline)
	if array, err := decodeLone(head, rest); err == nil {
		return array, nil
	}
	var out []byte
	for n := 1; len(rest) > 0; n++ {
		array, after, err := decodeReferenced(rest, n)
		if err != nil {
			return nil, err
		}
		rest = after
		before, behind, ok := bytes.Cut(head, fmt.Appendf(nil, `"%s%d"`, tableRef, n))
		if !ok {
			return nil, fmt.Errorf("%w: table %d has no place in the value", errTable, n)
		}
		out = append(append(out, before...), array...)
		head = behind
	}
	out = append(out, head...)
	if !jsontext.Value(out).IsValid(jsontext.AllowDuplicateNames(true)) {
		return nil, errTable
	}
	return out, nil
}

var newline = []byte("\n")
var twoBlanks = []byte("  ")

func decodeLone(head, rest []byte) ([]byte, error) {
	names, rows, err := decodeHeader(head)
	if err != nil {
		return nil, err
	}
	array, after, err := decodeRows(names, rows, rest)
	if err == nil && len(after) > 0 {
		err = fmt.Errorf("%w: text behind the last row", errTable)
	}
	return array, err
}

func decodeReferenced(text []byte, n int) (array, after []byte, err error) {
	head, rest, _ := bytes.Cut(text, newline)
	header, ok := bytes.CutPrefix(head, fmt.Appendf(nil, "%s%d", tableRef, n))
	if !ok {
		return nil, nil, fmt.Errorf("%w: want %s%d", errTable, tableRef, n)
	}
	names, rows, err := decodeHeader(header)
	if err != nil {
		return nil, nil, err
	}
	return decodeRows(names, rows, rest)
}

// decodeHeader reads "[rows]{name name}:". Names come back as JSON strings.
func decodeHeader(line []byte) (names [][]byte, rows int, err error) {
	number, list, ok := bytes.Cut(line, []byte("]{"))
	if !ok || len(number) == 0 || number[0] != '[' || !bytes.HasSuffix(list, []byte("}:")) {
		return nil, 0, fmt.Errorf("%w: no header", errTable)
	}
	if rows, err = strconv.Atoi(string(number[1:])); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errTable, err)
	}
	list = list[:len(list)-2]
	for more := true; more; {
		var cell []byte
		if cell, list, more = cutCell(list); len(cell) == 0 {
			return nil, 0, fmt.Errorf("%w: empty name", errTable)
		}
		if cell[0] != '"' {
			cell = quoted(cell)
		}
		names = append(names, cell)
	}
	return names, rows, nil
}

func decodeRows(names [][]byte, rows int, text []byte) (array, after []byte, err error) {
	array = append(array, '[')
	for row := range rows {
		line, rest, _ := bytes.Cut(text, newline)
		text = rest
		if row > 0 {
			array = append(array, ',')
		}
		more := true
		for i, name := range names {
			var cell []byte
			if cell, line, more = cutCell(line); len(cell) == 0 {
				return nil, nil, fmt.Errorf("%w: row %d: cell %d is missing", errTable, row+1, i+1)
			}
			array = append(array, "{,"[min(i, 1)])
			array = append(append(array, name...), ':')
			array = appendCell(array, cell)
		}
		if more {
			return nil, nil, fmt.Errorf("%w: row %d: more than %d cells", errTable, row+1, len(names))
		}
		array = append(array, '}')
	}
	return append(array, ']'), text, nil
}

// cutCell gives the first cell of a line as it is written, and what follows.
func cutCell(line []byte) (cell, rest []byte, more bool) {
	var end int
	if len(line) > 0 && (line[0] == '"' || line[0] == '{' || line[0] == '[') {
		if end = skipValue(line, 0); end < 0 || end < len(line) && line[end] != cellEnd {
			return nil, nil, false
		}
	} else if end = bytes.IndexByte(line, cellEnd); end < 0 {
		end = len(line)
	}
	if end == len(line) {
		return line, nil, false
	}
	return line[:end], line[end+1:], true
}

func appendCell(dst, cell []byte) []byte {
	if c := cell[0]; c == '"' || c == '{' || c == '[' || isLiteral(cell) {
		return append(dst, cell...)
	}
	return append(append(append(dst, '"'), cell...), '"')
}

func quoted(text []byte) []byte {
	return append(append([]byte{'"'}, text...), '"')
}
