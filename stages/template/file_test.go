package template

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDocumentsComeBackFromYAML(t *testing.T) {
	out, err := YAML([]byte(`{"messages":[{"role":"system","content":"One.\nTwo.\n"},{"role":"user","content":"{q}"}],"variables":{"q":{"default":[1,2.5]}},"settings":{"model":"gpt-4o","temperature":0.2}}`))
	require.NoError(t, err)
	require.Equal(t, `messages:
  - role: system
    content: |
      One.
      Two.
  - role: user
    content: "{q}"
variables:
  q:
    default:
      - 1
      - 2.5
settings:
  model: gpt-4o
  temperature: 0.2
`, string(out))
	for _, text := range []string{"yes", "012", "null", "~", "1e3", "- x", "a: b", "  leading\n  lines", "trailing \n\n\n", "\ttab\n", "# x", "{x}", "---\nx", "\u0085x\u2028", "'\"", "\u00e9\r\nb"} {
		document, err := json.Marshal(map[string]any{"text": text, "settings": map[string]any{"n": 12345678901234567, "s": text}})
		require.NoError(t, err)
		out, err := YAML(document)
		require.NoError(t, err)
		back, err := File("x.yaml", out)
		require.NoError(t, err, "%q\n%s", text, out)
		require.JSONEq(t, string(document), string(back), "%q", text)
	}
}

func FuzzYAML(f *testing.F) {
	f.Add("yes", "a: b\n")
	f.Fuzz(func(t *testing.T, name, text string) {
		document, err := json.Marshal(map[string]any{"text": text, "settings": map[string]string{name: text}})
		require.NoError(t, err)
		out, err := YAML(document)
		require.NoError(t, err)
		back, err := File("x.yaml", out)
		if err != nil { // JSON that the YAML library does not take
			back = out
		}
		require.JSONEq(t, string(document), string(back))
	})
}

func TestFilesAreBounded(t *testing.T) {
	_, err := File("x.txt", make([]byte, MaxDocument+1))
	require.ErrorContains(t, err, "may have")
}
