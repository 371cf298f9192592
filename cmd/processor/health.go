package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// healthCmd is what containers ask whether they are ready: an image with no
// shell has no other program for that.
type healthCmd struct{}

// healthTimeout bounds the whole question.
const healthTimeout = 2 * time.Second

// Run asks the process that serves http.addr of this machine whether it is ready.
func (healthCmd) Run(a *app) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(a.ctx, healthTimeout)
	defer cancel()
	said, err := askReady(ctx, cfg.HTTP.Addr)
	if err != nil {
		return hint(err, "start processor run, or set http.addr to where it listens")
	}
	_, err = fmt.Fprintln(a.stdout, said)
	return err
}

// askReady gives what a process says of itself; one that is not ready is an error.
func askReady(ctx context.Context, addr string) (string, error) {
	url := "http://" + here(addr) + "/readyz"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("asking %s: %w", url, err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // nothing on this machine needs a proxy
	response, err := client.Do(request)
	if err != nil {
		return "", fmt.Errorf("asking whether the process is ready: %w", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if err != nil {
		return "", fmt.Errorf("reading what %s says: %w", url, err)
	}
	said := strings.TrimSpace(string(text))
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("not ready: %s", said)
	}
	return said, nil
}

// here gives the address by which this machine reaches one that may stand for
// all of its addresses, as in 0.0.0.0:8080. It names no host: an image may know none.
func here(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	switch {
	case err != nil:
		return addr
	case host == "" || host == net.IPv4zero.String():
		return net.JoinHostPort("127.0.0.1", port)
	case host == net.IPv6zero.String():
		return net.JoinHostPort(net.IPv6loopback.String(), port)
	}
	return addr
}
