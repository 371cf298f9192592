package logs

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestALevelKeepsQuietWhatIsBelowIt(t *testing.T) {
	order := []string{Debug, Info, Warn, Error}
	for at, level := range order {
		var out bytes.Buffer
		log := Config{Level: level, Format: Text}.New(&out)
		for i, said := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
			out.Reset()
			log.Log(t.Context(), said, "pulling failed", "stage", "generate")
			require.Equal(t, i >= at, out.Len() > 0, "%s at level %s", said, level)
		}
	}
}

func TestFormats(t *testing.T) {
	var out bytes.Buffer
	Config{Level: Info, Format: Text}.New(&out).Warn("pulling failed", "error", errors.New("no \"leader\"\nnow"))
	require.Contains(t, out.String(), `level=WARN msg="pulling failed" error="no \"leader\"\nnow"`)

	out.Reset()
	Config{Level: Info, Format: JSON}.New(&out).Warn("pulling failed", "error", errors.New("no \"leader\"\nnow"))
	var line map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	require.Equal(t, "WARN", line["level"])
	require.Equal(t, "pulling failed", line["msg"])
	require.Equal(t, "no \"leader\"\nnow", line["error"])
	require.Contains(t, line, "time")
}

func TestValidate(t *testing.T) {
	require.NoError(t, DefaultConfig().Validate())
	require.NoError(t, Config{Level: Debug, Format: JSON}.Validate())
	require.ErrorContains(t, Config{Level: "loud", Format: Text}.Validate(), "level: ")
	require.ErrorContains(t, Config{Level: Info, Format: "xml"}.Validate(), "format: ")
	require.ErrorContains(t, Config{}.Validate(), "level: ")
}
