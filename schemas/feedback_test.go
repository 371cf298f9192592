package schemas

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFeedback(t *testing.T) {
	for text, want := range map[string]float64{
		`{"id":"a","score":0.25}`:                  0.25,
		`{"id":"17","score":1,"label":"whatever"}`: 1,
		`{"id":"a","label":"Good","by":{"who":1}}`: 1,
		`{"id":"a","label":"wrong"}`:               0,
	} {
		f, value, err := ParseFeedback([]byte(text))
		require.NoError(t, err, text)
		require.Equal(t, want, value, text)
		require.NotEmpty(t, f.ID)
	}
}

func TestHostileFeedback(t *testing.T) {
	for _, text := range []string{
		``, `null`, `[]`, `7`, `{`, `{}`, `{"id":"a"}`, `{"id":"a","score":"1"}`, `{"id":"a","score":1.01}`, `{"id":"a","score":-0.01}`,
		`{"id":"a","score":1e999}`, `{"id":"a","score":null}`, `{"id":"a.b","score":1}`, `{"id":">","score":1}`, `{"id":"","score":1}`, `{"id":7,"score":1}`,
		`{"id":"a","label":"meh"}`, `{"id":"a","label":["good"]}`, `{"id":"a","id":"b","score":1}`, "{\"id\":\"a\xff\",\"score\":1}",
		`{"id":"` + strings.Repeat("a", 65) + `","score":1}`, `{"id":"a","score":1,"x":"` + strings.Repeat("x", MaxFeedback) + `"}`,
		strings.Repeat(`{"x":`, 3000), `{"id":"a","score":1} {}`,
	} {
		_, _, err := ParseFeedback([]byte(text))
		require.Error(t, err, "%.80s", text)
	}
}
