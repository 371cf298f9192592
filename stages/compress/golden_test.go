package compress

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write what is produced into the golden files")

// settings are the first file of a golden archive.
type settings struct {
	Role       string   `json:"role"` // of the one message; without it the text stands alone
	Techniques []string `json:"techniques"`
	Ratio      *float64 `json:"ratio"`
	Threshold  *float64 `json:"threshold"`
	Query      string   `json:"query"`
	Keep       []string `json:"keep"`
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(archive.Files), 2)
			var s settings
			require.NoError(t, json.Unmarshal(archive.Files[0].Data, &s, json.RejectUnknownMembers(true)))
			got := compressGolden(t, s, string(archive.Files[1].Data))
			require.Equal(t, got, compressGolden(t, s, got), "twice is once")
			if *update {
				archive.Files = append(archive.Files[:2], txtar.File{Name: "want", Data: []byte(got)})
				require.NoError(t, os.WriteFile(file, txtar.Format(archive), 0o644))
				return
			}
			require.Empty(t, cmp.Diff(string(archive.Files[2].Data), got))
		})
	}
}

func compressGolden(t *testing.T, s settings, input string) string {
	t.Helper()
	c := newCompressor(t)
	o := Options{Techniques: s.Techniques, TargetRatio: s.Ratio, QualityThreshold: s.Threshold, Query: s.Query, Keep: s.Keep}
	if s.Role == "" {
		return c.Text(input, "", o).Text
	}
	body := c.Body(bodyOf(t, map[string]string{"role": s.Role, "content": input}), o).Body
	var parsed struct {
		Messages []struct{ Content string }
	}
	require.NoError(t, json.Unmarshal(body, &parsed, json.MatchCaseInsensitiveNames(true)))
	return parsed.Messages[0].Content
}
