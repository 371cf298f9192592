package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/httpserver"
)

// runCmd serves: this process joins the consumer groups.
type runCmd struct {
	Stages   []string `placeholder:"STAGE" help:"Run only these stages, as in generate,score; groups run whole."`
	Provider []string `placeholder:"NAME" help:"Add a provider with its usual address and environment variable: openai, anthropic, gemini, ollama, simulated."`
}

// Help says what signals do.
func (*runCmd) Help() string {
	return "SIGTERM and Ctrl-C end it once what it took is finished; a second one ends it at once. SIGHUP has it read the configuration again: " +
		"prices, models, budgets, limits and thresholds hold from the next request on, and the log names what holds only after a restart. " +
		"A configuration that cannot be used changes nothing."
}

// Run works until a signal comes, finishes what it took and returns.
func (c *runCmd) Run(a *app) error {
	hangups := catchHangups() // before all that takes time
	cfg, err := a.load(withProviders(c.Provider))
	if err != nil {
		return err
	}
	if _, err := chooseGroups(cfg.Pipeline.Groups, c.Stages); err != nil {
		return wrongUse(err, "processor run --stages generate,score")
	}
	slog.SetDefault(cfg.Log.New(a.stderr))
	nc, _, closeServer, err := a.connectOrEmbed(cfg)
	if err != nil {
		return err
	}
	defer closeServer()
	registry := newRegistry()
	p, err := newPipeline(a.ctx, cfg, nc, c.Stages, registry)
	if err != nil {
		return err
	}
	http, err := httpserver.Start(cfg.HTTP, registry, ready(nc))
	if err != nil {
		p.deps.close()
		return hint(err, "set http.addr to a free address")
	}
	stopFigures, err := p.deps.serveFigures(groupNames(cfg, c.Stages), registry)
	if err != nil {
		p.deps.close()
		return errors.Join(err, http.Close(a.ctx))
	}
	defer stopFigures()
	defer p.reloadOnHangup(hangups, func() (config.Config, error) { return a.load(withProviders(c.Provider)) })()
	fmt.Fprintf(a.stderr, "processor: serving %s on %s; metrics on http://%s/metrics\n",
		groupNames(cfg, c.Stages), redact(nc.ConnectedUrl()), http.Addr())
	err = p.Run(a.ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, http.Close(ctx))
}

func ready(nc *nats.Conn) func() error {
	return func() error {
		if !nc.IsConnected() {
			return errors.New("not connected to NATS")
		}
		return nil
	}
}

// groupNames writes the groups that run as in compress+cache, batch.
func groupNames(cfg config.Config, wanted []string) string {
	groups, _ := chooseGroups(cfg.Pipeline.Groups, wanted) // was checked
	names := make([]string, len(groups))
	for i, group := range groups {
		names[i] = strings.Join(group, "+")
	}
	return strings.Join(names, ", ")
}

func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// background runs the whole pipeline in this process beside a command that
// uses it. stop ends it once what it took is finished.
func (a *app) background(cfg config.Config, nc *nats.Conn) (stop func() error, err error) {
	p, err := newPipeline(a.ctx, cfg, nc, nil, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(a.ctx)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return func() error { cancel(); return <-done }, nil
}
