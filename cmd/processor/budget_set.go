package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/adpa/processor/kv/budget"
)

type budgetSetCmd struct {
	Tenant  string   `arg:"" help:"Whose budget."`
	Limits  []string `arg:"" optional:"" name:"key=value" help:"Keys of budgets: in the configuration, such as daily_limit=1000000, monthly_limit_usd=50, on_exhausted=defer or allocation=gpt-4o:0.6,gpt-4:0.4. A limit of 0 is none."`
	Entry   int      `default:"1" placeholder:"N" help:"Which of the tenant's budgets to change, where it has several; one more than it has adds one."`
	Restore bool     `help:"Let the configured limits hold again."`
}

// Help is shown by --help.
func (*budgetSetCmd) Help() string {
	return "What is not named stays as it is. The limits hold in all replicas within a second, and in the place of the configured ones until --restore. " +
		"Where none were set before, the configured ones are those of this command's configuration: give it that of the replicas."
}

// Run changes the limits and prints those that hold now.
func (c *budgetSetCmd) Run(a *app) error {
	change, err := c.change()
	if err != nil {
		return err
	}
	b, err := a.budgetBook()
	if err != nil {
		return err
	}
	defer b.close()
	if c.Restore {
		if err := b.RestoreLimits(a.ctx, c.Tenant); err != nil {
			return err
		}
		_, err := fmt.Fprintf(a.stdout, "%s: the configured limits hold\n", c.Tenant)
		return err
	}
	present, _ := b.Limits(c.Tenant)
	if c.Entry > len(present)+1 {
		return wrongUse(fmt.Errorf("--entry: tenant %s has %s", c.Tenant, plural(len(present), "budget")), fmt.Sprintf("--entry %d adds one", len(present)+1))
	}
	var now []budget.Config
	if err := b.SetLimits(a.ctx, c.Tenant, func(budgets []budget.Config) []budget.Config {
		now = c.apply(budgets, change)
		return now
	}); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s: %s set at run time\n", c.Tenant, plural(len(now), "budget"))
	return nil
}

// change reads the command line: what to do to an entry.
func (c *budgetSetCmd) change() (func(*budget.Config), error) {
	const try = "processor budget set acme daily_limit=1000000 on_exhausted=defer"
	if err := validTenant(c.Tenant); err != nil {
		return nil, err
	}
	if c.Restore != (len(c.Limits) == 0) {
		return nil, wrongUse(errors.New("name limits as key=value or give --restore, one of the two"), try)
	}
	if c.Entry < 1 {
		return nil, wrongUse(fmt.Errorf("--entry: %d is less than 1", c.Entry), "--entry 1")
	}
	var all []func(*budget.Config)
	for _, text := range c.Limits {
		key, value, found := strings.Cut(text, "=")
		if !found {
			return nil, wrongUse(fmt.Errorf("%.60q is not key=value", text), try)
		}
		set, err := setLimit(key, value)
		if err != nil {
			return nil, wrongUse(err, try)
		}
		all = append(all, set)
	}
	change := func(entry *budget.Config) {
		for _, set := range all {
			set(entry)
		}
	}
	trial := budget.Defaults()
	change(&trial)
	if err := trial.Validate(); err != nil {
		return nil, wrongUse(err, try)
	}
	return change, nil
}

// apply changes one entry, or adds it.
func (c *budgetSetCmd) apply(budgets []budget.Config, change func(*budget.Config)) []budget.Config {
	for len(budgets) < c.Entry {
		fresh := budget.Defaults()
		fresh.Tenant = c.Tenant
		budgets = append(budgets, fresh)
	}
	change(&budgets[c.Entry-1])
	return budgets
}

// setLimit gives what sets one key of a budget. The keys are those of the
// configuration, but for the tenant.
func setLimit(key, value string) (func(*budget.Config), error) {
	kind := reflect.TypeFor[budget.Config]()
	at := slices.Index(budgetKeys, key)
	if at < 0 || key == "tenant" {
		return nil, fmt.Errorf("%.60q is no key of a budget; keys are %s", key, strings.Join(budgetKeys[1:], ", "))
	}
	parsed, err := parseLimit(kind.Field(at).Type, value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return func(c *budget.Config) { reflect.ValueOf(c).Elem().Field(at).Set(reflect.ValueOf(parsed)) }, nil
}

// budgetKeys are the names of the fields of budget.Config, in their order; the
// first is tenant.
var budgetKeys = func() (keys []string) {
	for field := range reflect.TypeFor[budget.Config]().Fields() {
		keys = append(keys, field.Tag.Get("yaml"))
	}
	return keys
}()

// parseLimit reads a value of the given type, one of those of budget.Config.
func parseLimit(kind reflect.Type, value string) (any, error) {
	switch kind {
	case reflect.TypeFor[int64]():
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%.40q is no whole number, such as 1000000", value)
		}
		return n, nil
	case reflect.TypeFor[budget.USD]():
		return budget.ParseUSD(value)
	case reflect.TypeFor[bool]():
		b, err := strconv.ParseBool(value)
		if err != nil {
			return nil, fmt.Errorf("%.40q is neither true nor false", value)
		}
		return b, nil
	case reflect.TypeFor[budget.Action]():
		return budget.Action(value), nil
	case reflect.TypeFor[map[string]float64]():
		return parseAllocation(value)
	}
	return value, nil
}

// parseAllocation reads shares such as gpt-4o:0.6,gpt-4:0.4; nothing is none.
// A model's name may hold colons.
func parseAllocation(text string) (map[string]float64, error) {
	if text == "" {
		return nil, nil
	}
	shares := map[string]float64{}
	for part := range strings.SplitSeq(text, ",") {
		colon := strings.LastIndexByte(part, ':')
		if colon < 0 {
			return nil, fmt.Errorf("%.80q is not model:share, such as gpt-4o:0.6", part)
		}
		share, err := strconv.ParseFloat(part[colon+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("%.40q is no share, such as 0.6", part[colon+1:])
		}
		if _, twice := shares[part[:colon]]; twice {
			return nil, fmt.Errorf("%.80q is named twice", part[:colon])
		}
		shares[part[:colon]] = share
	}
	return shares, nil
}
