package embedded

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// StartPrivate starts a server that only this process can use: it listens on
// the loopback address, at any port, and takes a password that nobody else
// knows. What runs on it cannot touch another deployment, nor be touched. (A
// connection without a socket would do, but brings half as many messages.)
// The directory is locked as that of Start is; what it holds from an
// earlier start is there again.
func StartPrivate(dir string) (*Server, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	secret := rand.Text()
	s, err := server.NewServer(&server.Options{
		ServerName: "private", Host: "127.0.0.1", Port: -1, Authorization: secret, JetStream: true, StoreDir: dir,
		// Streams bound themselves; the sum of their limits may be more than there is.
		JetStreamMaxMemory: 1 << 40, JetStreamMaxStore: 1 << 50,
		SyncInterval: 10 * time.Minute, MaxPayload: MaxPayload, NoSigs: true, NoLog: true,
	})
	if err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("making the private NATS server: %w", err)
	}
	go s.Start()
	if !s.ReadyForConnections(startTimeout) {
		s.Shutdown()
		s.WaitForShutdown()
		_ = lock.Close()
		return nil, fmt.Errorf("the private NATS server was not ready within %s", startTimeout)
	}
	return &Server{server: s, lock: lock, dir: dir, secret: secret}, nil
}

// ConnectPrivate opens a connection to a private server.
func (e *Server) ConnectPrivate(options ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect(e.server.ClientURL(), append(options, nats.Token(e.secret))...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the private NATS server: %w", err)
	}
	return nc, nil
}
