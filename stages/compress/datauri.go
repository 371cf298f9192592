package compress

import (
	"fmt"
	"strings"
)

// minPayload is the length under which the payload of a data URI stays.
const minPayload = 64

// dataURIEdits replaces the payload of base64 data URIs by its size. The type
// stays, so that a model still knows what was there.
func dataURIEdits(text string, _ role) []edit {
	var edits []edit
	for at := 0; ; {
		i := strings.Index(text[at:], "data:")
		if i < 0 {
			return edits
		}
		i += at
		at = i + len("data:")
		comma := strings.IndexByte(text[i:min(len(text), i+128)], ',')
		if comma < 0 || !strings.HasSuffix(text[i:i+comma], ";base64") {
			continue
		}
		start := i + comma + 1
		end := start
		for end < len(text) && isBase64(text[end]) {
			end++
		}
		at = end
		if end-start >= minPayload {
			edits = append(edits, edit{start, end, fmt.Sprintf("[%d bytes]", (end-start)*3/4)})
		}
	}
}

func isBase64(c byte) bool {
	return c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '=' || c == '-' || c == '_'
}
