package providers

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// sseReader reads server-sent events as the HTML standard defines them
// (https://html.spec.whatwg.org/multipage/server-sent-events.html, 9.2.6): lines
// end in LF, CR LF or CR; a blank line ends an event; an event that is cut off
// before its blank line is dropped; comments and unknown fields are skipped.
type sseReader struct {
	r       *bufio.Reader
	limit   int // bytes of one event
	started bool
	skipLF  bool // the last line ended in CR: a LF that follows belongs to it
	line    []byte
	name    []byte
	data    []byte
	hasData bool
}

var errEventTooLarge = errors.New("an event of the stream is too large")

func newSSEReader(r io.Reader, limit int) *sseReader {
	return &sseReader{r: bufio.NewReaderSize(r, 8<<10), limit: limit}
}

// next gives the next event's name and data, valid until the following call. At
// the end it gives io.EOF, or the error of the reader below.
func (s *sseReader) next() (name string, data []byte, err error) {
	s.name, s.data, s.hasData = s.name[:0], s.data[:0], false
	for {
		line, err := s.readLine()
		if err != nil {
			return "", nil, err
		}
		if len(line) > 0 {
			s.field(line)
			if len(s.data) > s.limit {
				return "", nil, errEventTooLarge
			}
			continue
		}
		if s.hasData {
			return string(s.name), s.data, nil
		}
		s.name = s.name[:0]
	}
}

func (s *sseReader) field(line []byte) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch string(name) {
	case "data":
		if s.hasData {
			s.data = append(s.data, '\n')
		}
		s.data, s.hasData = append(s.data, value...), true
	case "event":
		s.name = append(s.name[:0], value...)
	}
}

// readLine gives a line without its end. What stands behind the last line end
// when the stream ends is no line.
func (s *sseReader) readLine() ([]byte, error) {
	s.line = s.line[:0]
	for {
		if _, err := s.r.Peek(1); err != nil {
			return nil, err
		}
		buffered, _ := s.r.Peek(s.r.Buffered())
		if s.skipLF {
			s.skipLF = false
			if buffered[0] == '\n' {
				_, _ = s.r.Discard(1)
				continue
			}
		}
		end := bytes.IndexAny(buffered, "\r\n")
		if end >= 0 {
			s.line = append(s.line, buffered[:end]...)
			s.skipLF = buffered[end] == '\r'
			_, _ = s.r.Discard(end + 1)
			return s.withoutMark(), nil
		}
		s.line = append(s.line, buffered...)
		_, _ = s.r.Discard(len(buffered))
		if len(s.line) > s.limit {
			return nil, errEventTooLarge
		}
	}
}

// withoutMark drops the byte order mark that the first line may begin with.
func (s *sseReader) withoutMark() []byte {
	if s.started {
		return s.line
	}
	s.started = true
	return bytes.TrimPrefix(s.line, []byte("\xEF\xBB\xBF"))
}
