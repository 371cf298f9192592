package schemas

import "bytes"

// PlainNames returns a valid JSON body with the names of all members written
// without \u escapes, so that Members and Member, which compare names as they
// are written, see what a provider will read. Values stay as they are, byte for
// byte; a body without such names is returned itself. The input is not changed.
func PlainNames(body []byte) []byte {
	if !bytes.Contains(body, []byte(`\u`)) {
		return body
	}
	var out []byte
	copied := 0
	for i := 0; i < len(body); i++ {
		if body[i] != '"' {
			continue
		}
		start := i
		end := skipString(body, start)
		i = end - 1
		next := skipSpace(body, end)
		if next >= len(body) || body[next] != ':' || !bytes.Contains(body[start:end], []byte(`\u`)) {
			continue
		}
		name, err := Unquote(body[start:end])
		if err != nil {
			continue
		}
		out = append(append(out, body[copied:start]...), Quote(name)...)
		copied = end
	}
	if copied == 0 {
		return body
	}
	return append(out, body[copied:]...)
}
