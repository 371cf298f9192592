package providers

import (
	"bytes"
	"context"
	"path/filepath"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
)

// seed adds the sections with a name of all golden files.
func seed(f *testing.F, section string) {
	files, err := filepath.Glob("testdata/*/*.txtar")
	require.NoError(f, err)
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		require.NoError(f, err)
		for _, s := range archive.Files {
			if s.Name == section {
				f.Add(s.Data)
			}
		}
	}
}

// Every request that the product accepts becomes a valid one or an error.
func FuzzRequests(f *testing.F) {
	seed(f, "openai request")
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := schemas.Parse(body); err != nil {
			t.Skip()
		}
		for _, stream := range []bool{false, true} {
			call := schemas.Call{Model: "m", Body: body}
			if stream {
				call.Delta = func([]byte) {}
			}
			out := openAIBody(&call)
			require.True(t, jsontext.Value(out).IsValid(), "%s", out)
			_, found := schemas.Member(out, "processor")
			require.False(t, found)
			model, _ := schemas.Member(out, "model")
			require.Equal(t, `"m"`, string(model.Of(out)))
			s, found := schemas.Member(out, "stream")
			require.Equal(t, stream, found && string(s.Of(out)) == "true")
		}
		for _, translate := range translations {
			if out, err := translate.request(body); err == nil {
				require.True(t, jsontext.Value(out).IsValid(jsontext.AllowDuplicateNames(true)), "%s", out)
			}
		}
		answer, err := mustSimulated(t).Generate(context.Background(), schemas.Call{Model: "m", Body: body})
		require.NoError(t, err)
		require.True(t, jsontext.Value(answer.Body).IsValid(), "%s", answer.Body)
	})
}

func mustSimulated(t testing.TB) Provider {
	p, err := New(Config{Kind: KindSimulated})
	require.NoError(t, err)
	return p
}

// Whatever a provider answers becomes a valid completion or an error.
func FuzzAnswers(f *testing.F) {
	seed(f, "native answer")
	seed(f, "openai answer")
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, translate := range translations {
			if answer, err := translate.answer(body, testTime); err == nil {
				require.True(t, jsontext.Value(answer.Body).IsValid(), "%s", answer.Body)
			}
		}
		if answer, err := readAnswer(body, false); err == nil {
			require.True(t, jsontext.Value(answer.Body).IsValid(jsontext.AllowDuplicateNames(true)), "%s", answer.Body)
		}
		_ = statusError(500, nil, body, func(s string) string { return s })
	})
}

// Whatever a provider streams becomes a valid completion or an error.
func FuzzStreams(f *testing.F) {
	seed(f, "native stream")
	f.Fuzz(func(t *testing.T, stream []byte) {
		for _, translate := range translations {
			reader, events, assembled := newSSEReader(bytes.NewReader(stream), 1<<16), translate.events(), newAssembler(1<<16)
			for {
				name, data, err := reader.next()
				if err != nil {
					break
				}
				if _, err := events.event(name, data, func(chunk []byte) error {
					_, err := assembled.add(chunk)
					return err
				}); err != nil {
					break
				}
			}
			body := assembled.answer().Body
			require.True(t, jsontext.Value(body).IsValid(jsontext.AllowDuplicateNames(true)), "%s", body)
		}
	})
}
