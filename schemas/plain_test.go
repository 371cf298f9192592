package schemas

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlainNames(t *testing.T) {
	for body, want := range map[string]string{
		`{"\u006e":5,"messages":[{"rol\u0065":"user"}]}`:    `{"n":5,"messages":[{"role":"user"}]}`,
		`{"a":"\u006e","b": ["\u006e", "x"]}`:               `{"a":"\u006e","b": ["\u006e", "x"]}`,
		`{"\u006D\u0061x" : {"\u00e4":1}, "q\"":"\u0022:"}`: `{"max" : {"ä":1}, "q\"":"\u0022:"}`,
		`{"\\u006e":1}`:      `{"\\u006e":1}`,
		`{"\u0022\u0000":1}`: `{"\"\u0000":1}`,
	} {
		given := []byte(body)
		require.Equal(t, want, string(PlainNames(given)))
		require.Equal(t, body, string(given), "the input is not changed")
	}
	plain := []byte(`{"n":1}`)
	require.Same(t, &plain[0], &PlainNames(plain)[0])
}
