package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/score"
	"github.com/adpa/processor/streams"
)

// settings is the configuration with what was reloaded since the start.
func (d *deps) settings() *config.Config { return d.now.Load() }

// earned is what attempts at better answers have earned. It stays over a reload,
// unless what they must earn changes.
func (d *deps) earned() *score.Earnings {
	c := d.settings().Score
	if d.earnings == nil || d.earnings.MinGain != c.MinGain || d.earnings.MinPerUSD != c.MinGainPerUSD {
		d.earnings = score.NewEarnings(c.MinGain, c.MinGainPerUSD)
	}
	return d.earnings
}

// liveStage is a stage that can be replaced while it works: the requests that
// the one before holds are decided by that one.
type liveStage struct{ now atomic.Pointer[stages.Stage] }

// Run implements stages.Stage.
func (s *liveStage) Run(ctx context.Context, requests []*stages.Request, decide stages.Decide) {
	(*s.now.Load()).Run(ctx, requests, decide)
}

func (s *liveStage) set(stage stages.Stage) { s.now.Store(&stage) }

// live makes steps whose stages a reload can replace. Generate stays: it holds
// calls, and asks for its settings anew for each.
func (p *pipeline) live(steps []streams.Step) []streams.Step {
	p.stages = map[string]*liveStage{}
	for i := range steps {
		if s := &steps[i]; s.Name != stages.Generate {
			live := new(liveStage)
			live.set(s.Stage)
			p.stages[s.Name], s.Stage = live, live
		}
	}
	return steps
}

// reload takes over what can change of another configuration, and tells what
// differs from the one before. Where it fails, nothing changes. It must not be
// called twice at once.
func (p *pipeline) reload(next config.Config) ([]config.Change, error) {
	d := p.deps
	before := d.settings()
	merged, changes, err := config.Reload(*before, next)
	if err != nil {
		return nil, err
	}
	d.now.Store(&merged)
	compressor := d.compressor
	if err := d.openCompressor(); err != nil {
		d.compressor = compressor
		d.now.Store(before)
		return nil, err
	}
	if err := d.budgets.ledger.Reconfigure(budgetsWithJudge(merged)); err != nil {
		d.compressor = compressor
		d.now.Store(before)
		return nil, err
	}
	d.models.change(merged)
	for _, c := range merged.Providers {
		d.allowances[c.Name].Limit(c.RequestsPerMinute, c.TokensPerMinute)
	}
	d.tenants.Configure(merged.Tenants)
	for _, s := range steps(d) {
		if live := p.stages[s.Name]; live != nil {
			live.set(s.Stage)
		}
	}
	return changes, nil
}

// change replaces what is known of models. What chooses among them comes first,
// so that whatever may be chosen is known there.
func (m *models) change(cfg config.Config) {
	table := newModelTable(cfg)
	m.selector.use.Store(newChoosing(cfg.Select, table, m.only))
	m.table.Store(table)
}

// named reports whether the configuration names a model.
func (m *models) named(model string) bool { return m.table.Load().index(model) >= 0 }

// catchHangups has SIGHUP end the process no more. One that comes before
// somebody listens is kept.
func catchHangups() chan os.Signal {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	return hangups
}

// reloadOnHangup reads the configuration again at every SIGHUP until stop, and
// logs what came of it.
func (p *pipeline) reloadOnHangup(hangups chan os.Signal, read func() (config.Config, error)) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range hangups {
			p.logReload(read)
		}
	}()
	return func() {
		signal.Stop(hangups)
		close(hangups)
		<-done
	}
}

func (p *pipeline) logReload(read func() (config.Config, error)) {
	next, err := read()
	var changes []config.Change
	if err == nil {
		changes, err = p.reload(next)
	}
	if err != nil {
		slog.Error("the configuration was not reloaded, and nothing has changed", "error", err)
		return
	}
	applied := 0
	for _, c := range changes {
		if c.Applied {
			applied++
			slog.Info("setting reloaded", "key", c.Key)
		} else {
			slog.Warn("setting changed in the file, but it holds only once the process is started again", "key", c.Key)
		}
	}
	slog.Info("configuration reloaded", "settings", fmt.Sprintf("%d taken over, %d left as they were", applied, len(changes)-applied))
}
