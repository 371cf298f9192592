package fakellm

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
)

// The usual whole answer to a chat is sent by a server of its own, since
// net/http's costs about as much as what benchmarks want to measure: it reads
// the head, skips the body and writes an answer that was made before. Whatever
// else a connection asks for, it is handed over to net/http, for good.

// lean tells whether every call gets the usual answer at once.
func (c *Config) lean() bool {
	return c.Latency == 0 && c.Limit == 0 && len(c.Script) == 0 && len(c.Failures) == 0 && c.Respond == nil
}

// front accepts connections, serves what is usual, and is the listener on which
// net/http gets the rest.
type front struct {
	fake     *Fake
	listener net.Listener
	lean     bool
	answer   []byte
	handed   chan net.Conn
	closed   chan struct{}
	once     sync.Once
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func newFront(f *Fake, listener net.Listener) *front {
	fr := &front{
		fake: f, listener: listener, lean: f.cfg.lean(),
		answer: fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(f.answers.chat), f.answers.chat),
		handed: make(chan net.Conn), closed: make(chan struct{}), conns: make(map[net.Conn]struct{}),
	}
	fr.wg.Go(fr.accept)
	return fr
}

// Accept implements net.Listener.
func (fr *front) Accept() (net.Conn, error) {
	select {
	case conn := <-fr.handed:
		return conn, nil
	case <-fr.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (fr *front) Addr() net.Addr { return fr.listener.Addr() }

// Close implements net.Listener. It ends the lean connections too.
func (fr *front) Close() error {
	fr.once.Do(func() {
		close(fr.closed)
		_ = fr.listener.Close()
		fr.mu.Lock()
		defer fr.mu.Unlock()
		for conn := range fr.conns {
			_ = conn.Close()
		}
	})
	return nil
}

func (fr *front) accept() {
	for {
		conn, err := fr.listener.Accept()
		if err != nil {
			return
		}
		fr.fake.connections.Add(1)
		fr.mu.Lock()
		fr.conns[conn] = struct{}{}
		fr.mu.Unlock()
		fr.wg.Go(func() { fr.serve(conn) })
	}
}

// serve answers what is usual on one connection, until something else comes.
func (fr *front) serve(conn net.Conn) {
	defer fr.forget(conn)
	r := bufio.NewReaderSize(conn, 16<<10)
	var head []byte
	var body bytes.Buffer
	for {
		peeked, length, usual := peekHead(r)
		if !usual || !fr.lean {
			fr.handOver(conn, r)
			return
		}
		head = append(head[:0], peeked...)
		_, _ = r.Discard(len(peeked))
		body.Reset()
		if _, err := io.CopyN(&body, r, length); err != nil {
			_ = conn.Close()
			return
		}
		call := Call{Body: body.Bytes()}
		if bodyStreams(&call) {
			fr.handOver(conn, io.MultiReader(bytes.NewReader(head), &body, r))
			return
		}
		fr.note(call)
		_, err := conn.Write(fr.answer)
		fr.fake.inFlight.Add(-1)
		if err != nil {
			_ = conn.Close()
			return
		}
	}
}

// note counts a call as the handler does.
func (fr *front) note(call Call) {
	f := fr.fake
	call.Number = f.calls.Add(1)
	if f.cfg.Count {
		f.count(f.cfg.Key(call))
	}
	f.enter()
	f.answered.Add(1)
	f.prompt.Add(int64(f.cfg.Prompt))
	f.completion.Add(int64(f.cfg.Completion))
}

// handOver gives a connection to net/http, which reads from r.
func (fr *front) handOver(conn net.Conn, r io.Reader) {
	select {
	case fr.handed <- &replayed{conn, r}:
	case <-fr.closed:
		_ = conn.Close()
	}
}

func (fr *front) forget(conn net.Conn) {
	fr.mu.Lock()
	defer fr.mu.Unlock()
	delete(fr.conns, conn)
}

// replayed is a connection of which some was read already.
type replayed struct {
	net.Conn
	r io.Reader
}

func (c *replayed) Read(p []byte) (int, error) { return c.r.Read(p) }

// peekHead waits for the head of a request. It tells whether that is a chat with
// a body of a known length and nothing that changes how it is answered; if so,
// it gives the head, which is still to be read, and the length.
func peekHead(r *bufio.Reader) (head []byte, length int64, usual bool) {
	for n := 1; ; n = r.Buffered() + 1 {
		if _, err := r.Peek(n); err != nil {
			return nil, 0, false // closed, or larger than the buffer
		}
		buffered, _ := r.Peek(r.Buffered())
		if end := bytes.Index(buffered, []byte("\r\n\r\n")); end >= 0 {
			length, usual = usualHead(buffered[:end])
			return buffered[:end+4], length, usual
		}
	}
}

func usualHead(head []byte) (length int64, usual bool) {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(line, []byte("POST ")) || !bytes.HasSuffix(line, []byte("/chat/completions HTTP/1.1")) {
		return 0, false
	}
	length = -1
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil || n > maxBody {
				return 0, false
			}
			length = n
		case bytes.EqualFold(name, []byte("transfer-encoding")), bytes.EqualFold(name, []byte("connection")), bytes.EqualFold(name, []byte("expect")):
			return 0, false
		}
	}
	return length, length >= 0
}
