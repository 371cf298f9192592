package template

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
)

const limit = 1 << 20

func TestTheTemplateOfTheGuide(t *testing.T) {
	template, err := Parse([]byte(`{"text": "Answer the question: {question}", "variables": ["question"]}`))
	require.NoError(t, err)
	messages, err := template.Messages([]byte(`{"question": "What is ADPA?"}`), limit)
	require.NoError(t, err)
	require.Equal(t, `[{"role":"user","content":"Answer the question: What is ADPA?"}]`, string(messages))
}

// Each golden file holds a template, variables, and the messages or the error
// that they make.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			require.NoError(t, err)
			got := golden(archive)
			want := archive.Files[len(archive.Files)-1]
			if os.Getenv("UPDATE") != "" {
				archive.Files[len(archive.Files)-1].Data = []byte(got)
				require.NoError(t, os.WriteFile(file, txtar.Format(archive), 0o600))
				return
			}
			require.Equal(t, string(want.Data), got)
		})
	}
}

func golden(archive *txtar.Archive) string {
	parts := map[string][]byte{}
	for _, f := range archive.Files {
		parts[f.Name] = f.Data
	}
	document, err := File(archive.Files[0].Name, archive.Files[0].Data)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	template, err := Parse(document)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	messages, err := template.Messages(parts["variables.json"], limit)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	var list []Message
	if err := json.Unmarshal(messages, &list); err != nil {
		return "error: " + err.Error() + "\n"
	}
	var b strings.Builder
	for _, m := range list {
		fmt.Fprintf(&b, "[%s]\n%s\n", m.Role, m.Content)
	}
	return b.String()
}

func TestNormalDocumentsAreTheSameTemplate(t *testing.T) {
	normal, err := Normal([]byte(`{"variables": ["b", "a"], "settings": {"top_p": 1, "model": "m"}, "text": "{a} {b}", "description": "d"}`))
	require.NoError(t, err)
	require.Equal(t, `{"description":"d","text":"{a} {b}","variables":{"a":{},"b":{}},"settings":{"top_p":1,"model":"m"}}`, string(normal))
	again, err := Normal(normal)
	require.NoError(t, err)
	require.Equal(t, string(normal), string(again))
	_, err = Normal([]byte(`{"text": "{"}`))
	require.Error(t, err)
}
