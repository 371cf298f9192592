package httpserver

import (
	"fmt"
	"net"
	"strconv"
)

// DefaultAddr is where the server listens if nothing is said.
const DefaultAddr = "127.0.0.1:8080"

// Config is the section http: of the configuration.
type Config struct {
	// Addr is the host and port of /metrics, /healthz and /readyz; a port of 0
	// takes a free one. Default 127.0.0.1:8080, and a free port if that is taken.
	Addr string `yaml:"addr"`
}

// DefaultConfig gives the defaults.
func DefaultConfig() Config { return Config{Addr: DefaultAddr} }

// Validate reports the first setting that cannot be used: its key, and what would be right.
func (c Config) Validate() error {
	_, port, err := net.SplitHostPort(c.Addr)
	n, numberErr := strconv.Atoi(port)
	if err != nil || numberErr != nil || n < 0 || n > 65535 {
		return fmt.Errorf("addr: %.80q is not a host and port like %s", c.Addr, DefaultAddr)
	}
	return nil
}
