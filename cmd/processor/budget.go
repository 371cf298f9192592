package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// budgetCmd works on the budgets of tenants.
type budgetCmd struct {
	List    budgetListCmd    `cmd:"" help:"Show each limit and what is used of it; with --by, what was used by model or day."`
	Set     budgetSetCmd     `cmd:"" help:"Change a tenant's limits in all replicas, or restore the configured ones."`
	Reset   budgetResetCmd   `cmd:"" help:"Set what is used in the present windows to zero."`
	Rebuild budgetRebuildCmd `cmd:"" help:"Recompute what is used from the stored responses, and correct it."`
}

// budgetBook is the ledger of the budgets as a command works with it.
type budgetBook struct {
	*budget.Ledger
	names streams.Names
	js    jetstream.JetStream
	close func()
}

// budgetBook opens the ledger. Limits that the server holds are those of all
// replicas; the configured ones are those of this command's configuration.
func (a *app) budgetBook() (*budgetBook, error) {
	cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	nc, err := a.connect(cfg)
	if err != nil {
		return nil, err
	}
	b := &budgetBook{names: streams.Names{Prefix: cfg.NATS.Prefix}}
	if b.js, err = jetstream.New(nc); err == nil {
		b.Ledger, err = budget.Open(a.ctx, b.js, budgetOptions(cfg))
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("opening the budgets: %w", err)
	}
	b.close = func() { b.Ledger.Close(); nc.Close() }
	return b, nil
}

func budgetOptions(cfg config.Config) budget.Options {
	return budget.Options{
		Prefix: cfg.NATS.Prefix, Replicas: cfg.NATS.Replicas, Budgets: cfg.Budgets,
		CallTimeout: longestCall(cfg) + callMargin,
	}
}

func validTenant(tenant string) error {
	if !schemas.ValidName(tenant) {
		return wrongUse(fmt.Errorf("%.70q is no tenant; allowed are 1 to 64 characters of A-Z a-z 0-9 _ -", tenant), "processor budget list names the tenants")
	}
	return nil
}

// known gives the tenants to report on: the given one, or all where it is empty.
func (b *budgetBook) known(tenant string) ([]string, error) {
	if tenant == "" {
		return b.Tenants(), nil
	}
	return []string{tenant}, validTenant(tenant)
}

type budgetResetCmd struct {
	Tenant string   `arg:"" help:"Whose budget."`
	Window []string `placeholder:"WINDOW" enum:"minute,hour,day,month,total" help:"Only these windows: minute, hour, day, month, total; else all."`
}

// Run resets and says what was used before.
func (c *budgetResetCmd) Run(a *app) error {
	if err := validTenant(c.Tenant); err != nil {
		return err
	}
	b, err := a.budgetBook()
	if err != nil {
		return err
	}
	defer b.close()
	var scopes []budget.Scope
	for _, window := range c.Window {
		scopes = append(scopes, budget.Scope(window))
	}
	before := b.List(c.Tenant)
	if err := b.Reset(a.ctx, c.Tenant, scopes...); err != nil {
		if errors.Is(err, budget.ErrNoBudget) {
			return hint(err, "processor budget list names the tenants that have one")
		}
		return err
	}
	for _, s := range before {
		if matches(s.Window, scopes) {
			fmt.Fprintf(a.stdout, "%s: the %s limit of %s is at 0; %s were used\n", s.Tenant, s.Window, s.Limit, s.Settled)
		}
	}
	return nil
}

// matches reports whether a window is among those to reset. A limit of one
// request has no window.
func matches(window budget.Scope, scopes []budget.Scope) bool {
	if len(scopes) == 0 {
		scopes = budget.Scopes
	}
	return slices.Contains(scopes, window)
}

// local writes a time as the other lists do; - for none.
func local(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}
