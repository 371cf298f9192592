package compress

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func seeds(f *testing.F) {
	for _, text := range []string{
		ordinary, "", "a  b\n\n\n\nc  \n", "```json\n{ \"a\": [ 1, 2 ] }\n```\n", "```\nopen", "| a | b |\n| --- | --- |\n| 1  | 2 |\n",
		`[{"id": 1, "x": "a"}, {"id": 2, "x": "b"}, {"id": 3, "x": "1"}]`, "<p>Hi <b>you</b></p>", "\x1b[31mred\x1b[0m", "\xff\xfe\u200b",
		"data:image/png;base64,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
		"10:00:01 INFO a=1\n10:00:02 INFO a=1\n10:00:03 INFO a=1\n10:00:04 INFO a=1\n10:00:05 INFO a=1\n10:00:06 INFO a=1\n10:00:07 INFO a=1\n10:00:08 INFO a=1\n10:00:09 INFO a=1\n10:00:09 INFO a=2",
	} {
		f.Add(text)
	}
}

// FuzzStructural holds what is promised of the passes that lose nothing and of
// those that do: never more tokens, and compressing twice is compressing once.
func FuzzStructural(f *testing.F) {
	seeds(f)
	lossless, all := newCompressor(f), newCompressor(f, everyPass)
	f.Fuzz(func(t *testing.T, text string) {
		for _, c := range []*Compressor{lossless, all} {
			once := c.Text(text, "", Options{})
			require.LessOrEqual(t, once.Sent, once.Original)
			require.Equal(t, c.count(once.Text), once.Sent)
			require.Equal(t, once.Text, c.Text(once.Text, "", Options{}).Text)
		}
		require.False(t, lossless.Text(text, "", Options{}).Lossy())
	})
}

// FuzzLossless takes the passes one by one back to what they were given.
func FuzzLossless(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text string) {
		for _, e := range logEdits(text, roleTool) {
			back, err := DecodeLog(e.with)
			require.NoError(t, err)
			require.Equal(t, text[e.start:e.end], back)
		}
		if edits := repeatEdits(text, roleTool); len(edits) > 0 {
			back, err := DecodeRepeats(splice(text, edits))
			require.NoError(t, err)
			require.Equal(t, text, back)
		}
		if out, isTable, ok := rewriteJSON(text, true); ok {
			value := []byte(out)
			if isTable {
				var err error
				value, err = DecodeTables(out)
				require.NoError(t, err)
			}
			require.True(t, sameJSON([]byte(text), value))
		}
		for _, e := range spaceEdits(text, roleTool) {
			require.True(t, sameWords(text[e.start:e.end], e.with))
		}
		for _, e := range tableEdits(text, roleTool) {
			require.True(t, sameCells(text[e.start:e.end], e.with))
		}
	})
}

// FuzzDecoders feeds the decoders what no encoder wrote.
func FuzzDecoders(f *testing.F) {
	f.Add("[1]{a}:\nx")
	f.Add("{\"a\":\"@table1\"}\n@table1[1]{a}:\nx")
	f.Add("[log: {} filled by number|values, = the value before, | a line as it was]\n1: {}\n---\n1|=")
	f.Add("a\n[1 lines again from: a]")
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = DecodeTables(text)
		_, _ = DecodeLog(text)
		_, _ = DecodeRepeats(text)
	})
}
