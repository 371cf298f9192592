// Package httpserver serves a process's metrics and health over HTTP.
package httpserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server serves /metrics, /healthz and /readyz. Make one with Start.
type Server struct {
	http     *http.Server
	listener net.Listener
	done     chan error
}

// Start begins to serve. /healthz answers 200 as long as the process runs;
// /readyz answers 200 while ready gives nil, else 503 with the error's text,
// which must hold no secret. ready is called from any goroutine.
func Start(cfg Config, metrics prometheus.Gatherer, ready func() error) (*Server, error) {
	listener, err := listen(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listening on http.addr %s: %w", cfg.Addr, err)
	}
	s := &Server{
		listener: listener,
		done:     make(chan error, 1),
		http: &http.Server{
			Handler:           handler(metrics, ready),
			ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
			WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		},
	}
	go func() { s.done <- s.http.Serve(listener) }()
	return s, nil
}

// listen opens the address. Where the default one is taken, as by a second
// process on the machine, a free port of the same host does as well; an address
// that somebody chose is not replaced.
func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if addr == DefaultAddr && errors.Is(err, syscall.EADDRINUSE) {
		host, _, _ := net.SplitHostPort(addr)
		return net.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	return l, err
}

func handler(metrics prometheus.Gatherer, ready func() error) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ready\n")
	})
	return mux
}

// Addr is the host and port that the server listens on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close stops listening, waits for the answers under way until ctx ends, and
// then cuts them off.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = s.http.Close()
	}
	if served := <-s.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
