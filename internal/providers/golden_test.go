package providers

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
)

var update = flag.Bool("update", false, "write the golden files")

// translation is one provider's pure functions.
type translation struct {
	request func([]byte) ([]byte, error)
	answer  func([]byte, int64) (schemas.Answer, error)
	events  func() events
}

var translations = map[string]translation{
	"anthropic": {
		request: func(body []byte) ([]byte, error) { return anthropicRequest(body, "the-model", false) },
		answer:  anthropicAnswer,
		events:  func() events { return &anthropicEvents{created: testTime} },
	},
	"gemini": {
		request: func(body []byte) ([]byte, error) { return geminiRequest(body, "the-model") },
		answer:  geminiAnswer,
		events:  func() events { return &geminiEvents{created: testTime} },
	},
}

const testTime = 1_700_000_000

// TestGolden runs the files in testdata: each holds a request, an answer and a
// stream, and what they become. With -update the results are written.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	require.NoError(t, err)
	require.Greater(t, len(files), 15)
	for _, file := range files {
		api := filepath.Base(filepath.Dir(file))
		if translations[api].request == nil { // OpenAI's need none
			continue
		}
		t.Run(api+"/"+filepath.Base(file), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			require.NoError(t, err)
			sections := map[string][]byte{}
			for _, f := range archive.Files {
				sections[f.Name] = f.Data
			}
			got := golden(t, translations[api], sections)
			for i, f := range archive.Files {
				want, ok := got[f.Name]
				switch {
				case !ok:
				case *update:
					archive.Files[i].Data = want
				default:
					require.Equal(t, string(want), string(f.Data), f.Name)
				}
			}
			if *update {
				require.NoError(t, os.WriteFile(file, txtar.Format(archive), 0o644))
			}
		})
	}
}

// golden gives the results for the sections that a file has.
func golden(t *testing.T, tr translation, sections map[string][]byte) map[string][]byte {
	got := map[string][]byte{}
	request, err := tr.request(sections["openai request"])
	if _, fails := sections["error"]; fails {
		require.Error(t, err)
		got["error"] = []byte(untranslatable(err).Response().Error() + "\n")
		return got
	}
	require.NoError(t, err)
	got["native request"] = indented(t, request)
	answer, err := tr.answer(sections["native answer"], testTime)
	require.NoError(t, err)
	require.Equal(t, answer.Usage, schemas.ReadUsage(answer.Body))
	got["openai answer"] = indented(t, answer.Body)
	stream, ok := sections["native stream"]
	if !ok {
		return got
	}
	chunks, streamed := runEvents(t, tr.events(), stream)
	got["openai chunks"] = chunks
	require.Equal(t, canonical(t, answer.Body), canonical(t, streamed.Body), "a stream gives the same as the whole answer")
	require.Equal(t, answer.Usage, streamed.Usage)
	return got
}

func runEvents(t *testing.T, translate events, stream []byte) (chunks []byte, answer schemas.Answer) {
	reader, assembled := newSSEReader(bytes.NewReader(stream), 1<<20), newAssembler(1<<20)
	for {
		name, data, err := reader.next()
		if err != nil {
			break
		}
		_, err = translate.event(name, data, func(chunk []byte) error {
			chunks = append(append(chunks, chunk...), '\n')
			_, err := assembled.add(chunk)
			return err
		})
		require.NoError(t, err)
	}
	return chunks, assembled.answer()
}

func indented(t *testing.T, body []byte) []byte {
	v := jsontext.Value(bytes.Clone(body))
	require.NoError(t, v.Indent(jsontext.WithIndent("  ")))
	return append(v, '\n')
}

func canonical(t *testing.T, body []byte) string {
	v := jsontext.Value(bytes.Clone(body))
	require.NoError(t, v.Canonicalize())
	return string(v)
}
