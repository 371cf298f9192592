package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/term"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
	"github.com/adpa/processor/streams/embedded"
)

// app is what every command works with.
type app struct {
	ctx    context.Context // ends with the first signal
	flags  *cli
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// defaultConfig is the configuration that is read where no flag names one.
const defaultConfig = "processor.yaml"

// configFile gives the file to read; "" means none.
func (a *app) configFile() (string, error) {
	if a.flags.Config != "" {
		return a.flags.Config, nil
	}
	_, err := os.Stat(defaultConfig)
	switch {
	case err == nil:
		return defaultConfig, nil
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	}
	return "", fmt.Errorf("looking for the configuration: %w", err)
}

// load reads the configuration with what the command line changes in it.
func (a *app) load(overrides ...func(*config.Config) error) (config.Config, error) {
	path, err := a.configFile()
	if err != nil {
		return config.Config{}, err
	}
	server := func(c *config.Config) error {
		if a.flags.NATS != "" {
			c.NATS.URL = a.flags.NATS
		}
		return nil
	}
	cfg, err := config.Load(path, append([]func(*config.Config) error{server}, overrides...)...)
	if errors.Is(err, fs.ErrNotExist) {
		return config.Config{}, wrongUse(err, "name an existing file with --config, or leave it out for the defaults")
	}
	return cfg, err
}

// withProviders adds the providers that --provider names to the configuration.
func withProviders(names []string) func(*config.Config) error {
	return func(c *config.Config) error {
		for _, name := range names {
			p, err := providers.Shorthand(name, os.Getenv)
			if err != nil {
				return wrongUse(fmt.Errorf("--provider: %w", err), "set the key or correct the name, or leave --provider out for the simulated model")
			}
			c.Providers = append(c.Providers, p)
		}
		return nil
	}
}

// connect opens a connection to the server of the configuration, or to the one
// that another process has embedded.
func (a *app) connect(cfg config.Config) (*nats.Conn, error) {
	url := cfg.NATS.URL
	if url == "" {
		found, ok := embedded.Find(a.ctx, cfg.NATS.Embedded.Dir)
		if !ok {
			return nil, hint(fmt.Errorf("no NATS server: nats.url is empty, and no process serves %s", cfg.NATS.Embedded.Dir),
				"start processor run, or name a server with --nats URL")
		}
		url = found
	}
	options, err := connectOptions(cfg.NATS)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(url, options...)
	if err != nil {
		return nil, advise(fmt.Errorf("connecting to %s: %w", redact(url), err)).orTry("check the address, and that the server runs")
	}
	return nc, nil
}

func (e *commandError) orTry(try string) error {
	if e.try == "" {
		e.try = try
	}
	return e
}

var userinfo = regexp.MustCompile(`//[^/@\s]*@`)

// redact removes names and passwords from addresses.
func redact(url string) string { return userinfo.ReplaceAllString(url, "//") }

func connectOptions(c streams.ServerConfig) ([]nats.Option, error) {
	options := []nats.Option{
		nats.Name("processor"), nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond),
		nats.Timeout(5 * time.Second), nats.PingInterval(20 * time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // what matters comes back to the caller
	}
	if c.Creds != "" {
		options = append(options, nats.UserCredentials(c.Creds))
	}
	if c.NKey != "" {
		seed, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			return nil, fmt.Errorf("reading nats.nkey: %w", err)
		}
		options = append(options, seed)
	}
	if c.InboxPrefix != "" {
		options = append(options, nats.CustomInboxPrefix(c.InboxPrefix))
	}
	if c.TLS.CA != "" {
		options = append(options, nats.RootCAs(c.TLS.CA))
	}
	if c.TLS.Cert != "" {
		options = append(options, nats.ClientCert(c.TLS.Cert, c.TLS.Key))
	}
	return options, nil
}

// connectOrEmbed opens a connection as connect does; where there is no server
// it starts one in this process. end closes both.
func (a *app) connectOrEmbed(cfg config.Config) (nc *nats.Conn, own bool, end func(), err error) {
	if cfg.NATS.URL == "" {
		if _, running := embedded.Find(a.ctx, cfg.NATS.Embedded.Dir); !running {
			return a.embed(cfg)
		}
	}
	nc, err = a.connect(cfg)
	if err != nil {
		return nil, false, nil, err
	}
	return nc, false, nc.Close, nil
}

func (a *app) embed(cfg config.Config) (*nats.Conn, bool, func(), error) {
	c := cfg.NATS.Embedded
	server, err := embedded.Start(embedded.Config{Dir: c.Dir, Host: c.Host, Port: c.Port, Sync: c.Sync.Std()})
	if errors.Is(err, fs.ErrPermission) {
		err = hint(err, "work in a directory that can be written, set nats.embedded.dir to one, or name a server with --nats URL")
	}
	if err != nil {
		return nil, false, nil, err
	}
	nc, err := server.Connect(nats.Name("processor"), nats.MaxReconnects(-1))
	if err != nil {
		server.Close()
		return nil, false, nil, err
	}
	return nc, true, func() { nc.Close(); server.Close() }, nil
}

// client makes a tenant's client.
func (a *app) client(cfg config.Config, nc *nats.Conn, tenant string) (*streams.Client, error) {
	if !schemas.ValidName(tenant) {
		return nil, wrongUse(fmt.Errorf("--tenant: %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", tenant), "--tenant default")
	}
	return streams.NewClient(nc, streams.Names{Prefix: cfg.NATS.Prefix}, tenant)
}

// onTerminal reports whether a stream is a terminal, and how wide that is.
func onTerminal(stream any) (columns int, ok bool) {
	f, isFile := stream.(*os.File)
	if !isFile || !term.IsTerminal(int(f.Fd())) {
		return 0, false
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil || columns < 20 {
		columns = 80
	}
	return columns, true
}

// tenantFlag is the flag of commands that work for one tenant.
type tenantFlag struct {
	Tenant string `default:"default" help:"Whose requests: 1 to 64 characters of A-Z a-z 0-9 _ -."`
}

// jsonFlag is the flag of commands that list something.
type jsonFlag struct {
	JSON bool `name:"json" help:"Print JSON, one object a line."`
}

// olderThan reads the flag --older: the time before which something is older
// than that, or none where the flag is not given.
func olderThan(flag string) (before time.Time, err error) {
	if flag == "" {
		return time.Time{}, nil
	}
	age, err := time.ParseDuration(flag)
	if err != nil || age < 0 {
		return time.Time{}, wrongUse(fmt.Errorf("--older: %.40q is not a duration", flag), "--older 24h")
	}
	return time.Now().Add(-age), nil
}

// thousands writes a number as 12,345.
func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// plural writes a number with its noun: 1 request, 2 requests, 2 entries, 2 addresses.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, ok := strings.CutSuffix(noun, "ry"); ok {
		return fmt.Sprintf("%d %sries", n, stem)
	}
	if strings.HasSuffix(noun, "s") {
		noun += "e"
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
