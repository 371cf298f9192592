package structure

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
)

func TestRepair(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
		repaired         []string
	}{
		{"valid", `{"a": 1}`, `{"a": 1}`, nil},
		{"valid with white space", " \n{\"a\": 1}\n", " \n{\"a\": 1}\n", nil},
		{"a fence in a string", "{\"a\": \"```json\\n{}\\n```\"}", "{\"a\": \"```json\\n{}\\n```\"}", nil},
		{"fence", "```json\n{\"a\": 1}\n```", `{"a": 1}`, []string{Fence}},
		{"fence without a language", "```\n[1, 2]\n```\n", `[1, 2]`, []string{Fence}},
		{"fence around a number", "```json\n42\n```", `42`, []string{Fence}},
		{"text before", `Here it is: {"a": 1}`, `{"a": 1}`, []string{Surrounding}},
		{"text around", "Sure!\n\n```json\n{\"a\": [1]}\n```\nAnything else?", `{"a": [1]}`, []string{Surrounding}},
		{"brackets in the text", `As [asked] {here}: {"a": 1}`, `{"a": 1}`, []string{Surrounding}},
		{"braces in strings", `It is {"a": "}{", "b": "\"]"} now`, `{"a": "}{", "b": "\"]"}`, []string{Surrounding}},
		{"trailing commas", `{"a": [1, 2,], "b": ",}",}`, `{"a": [1, 2], "b": ",}"}`, []string{Commas}},
		{"fence and commas", "```json\n[1,\n]\n```", "[1\n]", []string{Fence, Commas}},
		{"text and commas", `So: [1,]`, `[1]`, []string{Surrounding, Commas}},
		{"byte order mark", "\ufeff{\"a\": 1}", `{"a": 1}`, []string{Surrounding}},

		{"two values", `{"a": 1} or {"a": 2}`, "", nil},
		{"a list and a value", `[1] says {"a": 2}`, "", nil},
		{"two fences", "```\n{}\n```\n```\n{}\n```", "", nil},
		{"cut off", `{"a": 1, "b": [1, 2`, "", nil},
		{"cut off behind a value", "{\"a\": 1}\n{\"b\": ", "", nil},
		{"an object with names of its own", `{name: "x", tags: ["a"]}`, "", nil},
		{"single quotes", `{'a': ['b']}`, "", nil},
		{"nothing but a comma", `[,]`, "", nil},
		{"a member twice", `{"a": 1, "a": 2}`, "", nil},
		{"text", `It is forty-two.`, "", nil},
		{"a scalar in a text", `It is 42`, "", nil},
		{"empty", ``, "", nil},
		{"an open string", `{"a": "`, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, repaired := Repair([]byte(c.text))
			want := c.want
			if want == "" {
				want = c.text
			}
			require.Equal(t, want, string(got))
			require.Equal(t, c.repaired, repaired)
		})
	}
}

func TestRepairIsBounded(t *testing.T) {
	const size = 900_000
	for name, text := range map[string]string{
		"open brackets":   strings.Repeat("[", size),
		"closed brackets": strings.Repeat("[x]", size/3),
		"nested brackets": strings.Repeat("[", size/2) + strings.Repeat("]", size/2),
		"quotes":          strings.Repeat(`{"`, size/2),
		"commas":          "[" + strings.Repeat("1 ,\n", size/4) + "]",
		"white space":     "[1," + strings.Repeat(" ", size) + ",]",
	} {
		start := time.Now()
		Repair([]byte(text))
		require.Less(t, time.Since(start), time.Minute, name) // milliseconds against hours
	}
}

// What is JSON is never changed, and what was repaired is JSON that the text held.
func FuzzRepair(f *testing.F) {
	for _, seed := range []string{`{"a": [1,]}`, "```json\n{}\n```", `so {"a": 1e3}`, `["\\\"", "]"]`, `{"a":"` + "\xff" + `"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		got, repaired := Repair(text)
		require.Equal(t, before, text, "the input was written to")
		if jsontext.Value(text).IsValid() {
			require.Equal(t, text, got)
		}
		if len(repaired) == 0 {
			require.Equal(t, text, got)
			return
		}
		require.True(t, jsontext.Value(got).IsValid())
		require.True(t, contains(text, got), "%q is not in %q", got, text)
		again, more := Repair(got)
		require.Equal(t, got, again)
		require.Empty(t, more)
	})
}

// contains tells whether part is text with commas and other bytes left out around it.
func contains(text, part []byte) bool {
	for _, b := range text {
		if len(part) > 0 && b == part[0] {
			part = part[1:]
		}
	}
	return len(part) == 0
}
