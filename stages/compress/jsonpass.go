package compress

import (
	"bytes"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

const (
	// minJSON is the size in bytes under which JSON is left as it is.
	minJSON = 32
	// minRows is how many rows an array must have to become a table.
	minRows = 3
	// maxTableDepth is how deep arrays are looked for.
	maxTableDepth = 16
)

// jsonEdits finds JSON in fences, standing alone, or in paragraphs of its own,
// and writes it without white space. Uniform arrays of objects become a header
// and rows, but not in what the application or the model wrote as an example of
// its answers: a model imitates those.
func jsonEdits(text string, from role) []edit {
	var edits []edit
	tables := from != roleSystem && from != roleAssistant
	for _, r := range regions(text) {
		switch {
		case !r.fence:
			edits = append(edits, looseJSON(text, r, tables)...)
		case r.closed && (r.info == "json" || r.info == ""):
			edits = append(edits, fencedJSON(text, r, tables)...)
		}
	}
	return edits
}

func fencedJSON(text string, r region, tables bool) []edit {
	with, isTable, ok := rewriteJSON(text[r.start:r.end], tables)
	if !ok {
		return nil
	}
	start := r.start
	if isTable && r.info == "json" { // the body is no longer JSON
		start = r.open + strings.LastIndex(strings.ToLower(text[r.open:r.start]), "json")
		with = "\n" + with
	}
	return []edit{{start, r.end, with + "\n"}}
}

// looseJSON finds values that start at the beginning of a line and end at the
// end of one. The work is bounded: brackets that match nothing may be searched
// for only until the text was scanned a few times.
func looseJSON(text string, r region, tables bool) []edit {
	var edits []edit
	raw := []byte(text[r.start:r.end])
	budget := 4 * len(raw)
	for at := 0; at < len(raw) && budget > 0; {
		if c := raw[at]; c == '{' || c == '[' {
			end := skipValue(raw, at)
			if end < 0 {
				budget -= len(raw) - at
			} else {
				budget -= end - at
				if e, ok := looseEdit(text, r.start+at, r.start+end, tables); ok {
					edits = append(edits, e)
					at = end
				}
			}
		}
		_, at = cutLine(text[:r.end], r.start+at)
		at -= r.start
	}
	return edits
}

func looseEdit(text string, start, end int, tables bool) (edit, bool) {
	if rest, _ := cutLine(text, end); strings.TrimSpace(rest) != "" {
		return edit{}, false
	}
	// A table reaches to the next blank line: only a value that ends its
	// paragraph may become one, or what follows would look like a row.
	if _, next := cutLine(text, end); next < len(text) {
		follows, _ := cutLine(text, next)
		tables = tables && strings.TrimSpace(follows) == ""
	}
	with, _, ok := rewriteJSON(text[start:end], tables)
	return edit{start, end, with}, ok
}

// rewriteJSON gives the shortest form of a JSON text that decodes to it.
func rewriteJSON(text string, tables bool) (out string, isTable, ok bool) {
	trimmed := strings.TrimSpace(text)
	if len(trimmed) < minJSON || trimmed[0] != '{' && trimmed[0] != '[' {
		return "", false, false
	}
	value := jsontext.Value(trimmed)
	// Strict about encoding: a text with broken UTF-8 stays as it is.
	if err := value.Compact(jsontext.AllowInvalidUTF8(false)); err != nil {
		return "", false, false
	}
	if !sameJSON([]byte(trimmed), value) {
		return "", false, false
	}
	if tables {
		if table, found := encodeTables(value); found {
			if back, err := DecodeTables(table); err == nil && bytes.Equal(back, value) {
				return table, true, true
			}
		}
	}
	return string(value), false, len(value) < len(text)
}

// sameJSON reports whether two JSON texts differ only in white space between
// tokens.
func sameJSON(a, b []byte) bool {
	i, j := 0, 0
	for {
		i, j = skipSpace(a, i), skipSpace(b, j)
		if i >= len(a) || j >= len(b) {
			return i >= len(a) && j >= len(b)
		}
		endA, endB := i+1, j+1
		if a[i] == '"' {
			endA, endB = skipString(a, i), skipString(b, j)
			if endA < 0 || endB < 0 {
				return false
			}
		}
		if !bytes.Equal(a[i:endA], b[j:endB]) {
			return false
		}
		i, j = endA, endB
	}
}
