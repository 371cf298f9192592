package schemas

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func exampleHandoff() *Handoff {
	return &Handoff{
		State: State{
			ID: "r-1", Tenant: "acme", Class: Batch, Sequence: 1795424474738,
			Accepted: 1795424474738, Deadline: 1795424999999,
			Kind: Chat, Model: "auto", Options: []byte(`{"route":"summaries"}`), BodyHash: "00ff",
			Tokens: Tokens{900, 610, 290}, Stages: Timings{{"compress", 0.2, 0.4}},
		},
		Body: []byte(`{"x": "a body with a\nline"}`), Original: []byte("{ }"), Answer: []byte(`{"choices":[]}`),
	}
}

func TestHandoffsRoundTrip(t *testing.T) {
	first, second := exampleHandoff(), exampleHandoff()
	second.ID, second.Original, second.Answer, second.Deadline = "r-2", nil, nil, 0
	data, err := AppendHandoff(nil, first)
	require.NoError(t, err)
	data, err = AppendHandoff(data, second)
	require.NoError(t, err)

	got, rest, err := ReadHandoff(data)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(first, got))
	got, rest, err = ReadHandoff(rest)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(second, got))
	require.Empty(t, rest)
}

func FuzzReadHandoff(f *testing.F) {
	data, err := AppendHandoff(nil, exampleHandoff())
	require.NoError(f, err)
	f.Add(data)
	f.Add([]byte("{\"id\":\"a\",\"tenant\":\"b\",\"parts\":{\"body\":-1}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, rest, err := ReadHandoff(data)
		if err != nil {
			return
		}
		again, err := AppendHandoff(nil, h)
		require.NoError(t, err)
		back, _, err := ReadHandoff(again)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(h, back))
		require.LessOrEqual(t, len(rest), len(data))
	})
}

func BenchmarkHandoff(b *testing.B) {
	h := exampleHandoff()
	data, err := AppendHandoff(nil, h)
	require.NoError(b, err)
	buf := make([]byte, 0, 2*len(data))
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = AppendHandoff(buf, h)
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _, _ = ReadHandoff(data)
		}
	})
}
