// Package embedded runs a NATS server with JetStream inside a process: the
// default where none is configured, and the private one of a replay. It stands
// apart from streams so that an application which publishes through
// streams.Client does not compile a server.
package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// startTimeout bounds the start of the embedded server, which reads its streams from disk.
const startTimeout = time.Minute

// MaxPayload is the largest message of the embedded server, in bytes.
const MaxPayload = 1 << 20

// Config says where a server keeps its data and listens.
type Config struct {
	Dir  string        // of the streams; one process at a time
	Host string        // a loopback address: there is no authentication
	Port int           // a free one is taken where it is in use; 0 is any
	Sync time.Duration // how often files are synced to disk
}

// Server is a NATS server with JetStream inside this process.
type Server struct {
	server *server.Server
	lock   *os.File
	dir    string
	secret string // of a private one
}

// ErrDirInUse is a data directory that another process serves.
var ErrDirInUse = errors.New("the data directory is in use by another process")

// Start starts a server on the directory's data, refusing a second
// process on it, and writes its address to server.json in there, where other
// commands find it.
func Start(cfg Config) (*Server, error) {
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s, err := startServer(cfg)
	if errors.Is(err, errNotStarted) { // another process took the port just now
		cfg.Port = 0
		s, err = startServer(cfg)
	}
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	e := &Server{server: s, lock: lock, dir: cfg.Dir}
	if err := e.writeAddress(); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// lockDir takes the directory for this process. The kernel frees it when the
// process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s (stop that process, or set nats.embedded.dir to another directory)", ErrDirInUse, dir)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// Memory is what the server may need in the process that runs it, in
// bytes: it keeps the blocks of files that it wrote or read, of 8 MB each, for
// ten seconds. It was 180 MB in a flood of large messages.
const Memory = 256 << 20

func startServer(cfg Config) (*server.Server, error) {
	options := &server.Options{
		ServerName: "processor", Host: cfg.Host, Port: freePort(cfg.Host, cfg.Port),
		JetStream: true, StoreDir: cfg.Dir, JetStreamMaxMemory: 1 << 30,
		// Streams bound themselves; the sum of their limits may be more than the disk.
		JetStreamMaxStore: 1 << 50,
		SyncInterval:      cfg.Sync, MaxPayload: MaxPayload, NoSigs: true, NoLog: true,
	}
	s, err := server.NewServer(options)
	if err != nil {
		return nil, fmt.Errorf("making the embedded NATS server: %w", err)
	}
	said := make(lastWords, 1)
	s.SetLoggerV2(said, false, false, false)
	go s.Start()
	for end := time.Now().Add(startTimeout); time.Now().Before(end); {
		if s.ReadyForConnections(50 * time.Millisecond) {
			return s, nil
		}
		select {
		case words := <-said:
			s.Shutdown()
			s.WaitForShutdown()
			return nil, fmt.Errorf("%w: %s", errNotStarted, words)
		default:
		}
	}
	s.Shutdown()
	s.WaitForShutdown()
	return nil, fmt.Errorf("the embedded NATS server was not ready within %s", startTimeout)
}

var errNotStarted = errors.New("the embedded NATS server does not start")

// lastWords is a logger of a server that hears only what it cannot get over,
// such as a port that is taken.
type lastWords chan string

// Fatalf implements server.Logger.
func (w lastWords) Fatalf(format string, arguments ...any) {
	select {
	case w <- fmt.Sprintf(format, arguments...):
	default:
	}
}

// Noticef implements server.Logger.
func (lastWords) Noticef(string, ...any) {}

// Warnf implements server.Logger.
func (lastWords) Warnf(string, ...any) {}

// Errorf implements server.Logger.
func (lastWords) Errorf(string, ...any) {}

// Debugf implements server.Logger.
func (lastWords) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (lastWords) Tracef(string, ...any) {}

// freePort gives the wanted port, or the server's -1 (any) where it is taken.
func freePort(host string, port int) int {
	if port <= 0 {
		return -1
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return -1
	}
	_ = l.Close()
	return port
}

// URL is the server's address.
func (e *Server) URL() string { return e.server.ClientURL() }

// Connect opens a connection of this process to its server, without the network.
func (e *Server) Connect(options ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect(e.server.ClientURL(), options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the embedded NATS server: %w", err)
	}
	return nc, nil
}

// Close stops the server, which writes everything to disk, and frees the directory.
func (e *Server) Close() {
	_ = os.Remove(addressFile(e.dir))
	e.server.Shutdown()
	e.server.WaitForShutdown()
	_ = e.lock.Close()
}

type address struct {
	URL string `json:"url"`
	PID int    `json:"pid"`
}

func addressFile(dir string) string { return filepath.Join(dir, "server.json") }

func (e *Server) writeAddress() error {
	text, err := json.Marshal(address{URL: e.URL(), PID: os.Getpid()})
	if err != nil {
		return err
	}
	temporary := addressFile(e.dir) + ".new"
	if err := os.WriteFile(temporary, append(text, '\n'), 0o640); err != nil {
		return fmt.Errorf("writing the embedded server's address: %w", err)
	}
	if err := os.Rename(temporary, addressFile(e.dir)); err != nil {
		return fmt.Errorf("writing the embedded server's address: %w", err)
	}
	return nil
}

// Find gives the address of the server that another process runs on
// the directory; found is false where there is none that answers.
func Find(ctx context.Context, dir string) (url string, found bool) {
	text, err := os.ReadFile(addressFile(dir))
	if err != nil {
		return "", false
	}
	var a address
	if json.Unmarshal(text, &a) != nil || a.URL == "" {
		return "", false
	}
	nc, err := nats.Connect(a.URL, nats.Timeout(2*time.Second), nats.NoReconnect())
	if err != nil {
		return "", false
	}
	defer nc.Close()
	if err := nc.FlushWithContext(withTimeout(ctx, 2*time.Second)); err != nil {
		return "", false
	}
	return a.URL, true
}

// withTimeout bounds a context that is used for one call right away.
func withTimeout(ctx context.Context, d time.Duration) context.Context {
	bounded, cancel := context.WithTimeout(ctx, d)
	context.AfterFunc(bounded, cancel)
	return bounded
}
