package providers

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

type sseEvent struct{ name, data string }

func readEvents(r io.Reader, limit int) (events []sseEvent, err error) {
	reader := newSSEReader(r, limit)
	for {
		name, data, err := reader.next()
		if err != nil {
			return events, err
		}
		events = append(events, sseEvent{name, string(data)})
	}
}

func TestSSE(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want []sseEvent
	}{
		"line ends":        {"data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d\n\n", []sseEvent{{"", "a"}, {"", "b"}, {"", "c"}, {"", "d"}}},
		"lines are joined": {"data: a\ndata\ndata:  b\n\n", []sseEvent{{"", "a\n\n b"}}},
		"names":            {"event: x\ndata: 1\n\ndata: 2\n\nevent: lost\n\ndata: 3\n\n", []sseEvent{{"x", "1"}, {"", "2"}, {"", "3"}}},
		"comments":         {": ping\n\n:\ndata:a\nid: 1\nretry: 5\nunknown: x\n\n", []sseEvent{{"", "a"}}},
		"a mark":           {"\xEF\xBB\xBFdata: a\n\n", []sseEvent{{"", "a"}}},
		"cut off":          {"data: a\n\ndata: b\n", []sseEvent{{"", "a"}}},
		"cut in a line":    {"data: a\n\ndata: b", []sseEvent{{"", "a"}}},
		"empty data":       {"data\n\n", []sseEvent{{"", ""}}},
		"nothing":          {"\n\n\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(test.in), iotest.OneByteReader(strings.NewReader(test.in)), iotest.DataErrReader(strings.NewReader(test.in))} {
				events, err := readEvents(r, 1000)
				require.Equal(t, io.EOF, err)
				require.Equal(t, test.want, events)
			}
		})
	}
}

func TestSSEIsBounded(t *testing.T) {
	for _, in := range []string{
		"data: " + strings.Repeat("a", 100_000),
		strings.Repeat("data: aaaaaaaaaa\n", 10_000),
		strings.Repeat(":", 100_000),
	} {
		_, err := readEvents(strings.NewReader(in), 10_000)
		require.ErrorIs(t, err, errEventTooLarge)
	}
}

// However the bytes arrive, the events are the same, and what is read is no
// more than what was sent.
func FuzzSSE(f *testing.F) {
	f.Add([]byte("event: x\r\ndata: a\r\rdata: b\n\n: c\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		whole, err := readEvents(bytes.NewReader(in), 1<<16)
		pieces, pieceErr := readEvents(iotest.OneByteReader(bytes.NewReader(in)), 1<<16)
		require.Equal(t, whole, pieces)
		require.Equal(t, err, pieceErr)
		total := 0
		for _, e := range whole {
			total += len(e.data)
		}
		require.LessOrEqual(t, total, len(in))
	})
}
