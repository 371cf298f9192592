package budget

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
)

// limitsRecord is what the limits bucket holds for a tenant.
type limitsRecord struct {
	Budgets []Config `json:"budgets"`
}

// applyLimits takes over limits that were set at run time. What cannot be read
// leaves the limits as they are.
func (l *Ledger) applyLimits(e jsx.Entry) {
	if !schemas.ValidName(e.Key) {
		return
	}
	var configs []Config
	if !e.Deleted {
		var err error
		if configs, err = decodeLimits(e.Value, e.Key); err != nil {
			l.options.Log.Error("limits that were set cannot be read; the limits stay as they are", "tenant", e.Key, "error", err)
			return
		}
	}
	t := l.ensure(e.Key)
	t.limit(func() { t.set = configs })
}

func decodeLimits(value []byte, tenant string) ([]Config, error) {
	record := limitsRecord{Budgets: []Config{}}
	if err := json.Unmarshal(value, &record, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("reading limits: %w", err)
	}
	if err := validateSet(record.Budgets, tenant); err != nil {
		return nil, err
	}
	return record.Budgets, nil
}

func validateSet(configs []Config, tenant string) error {
	if err := Validate(configs); err != nil {
		return err
	}
	for i := range configs {
		if configs[i].Tenant != tenant {
			return fmt.Errorf("budgets[%d].tenant: is %s in the limits of %s", i, configs[i].Tenant, tenant)
		}
	}
	return nil
}

// Limits gives the budgets that hold for a tenant, and whether they were set at
// run time.
func (l *Ledger) Limits(tenant string) (budgets []Config, set bool) {
	t := l.find(tenant)
	if t == nil {
		return nil, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.configs()), t.set != nil
}

// SetLimits changes a tenant's budgets at run time, for all replicas and until
// RestoreLimits. change gets those that hold now, with the tenant's name, and
// gives those that shall hold; an empty list is no budget at all. It may be
// called several times, when others change them too.
func (l *Ledger) SetLimits(ctx context.Context, tenant string, change func([]Config) []Config) error {
	for attempt := 0; ; attempt++ {
		value, revision, err := l.limits.get(ctx, tenant)
		if err != nil {
			return fmt.Errorf("setting limits of tenant %s: %w", tenant, err)
		}
		budgets, err := l.limitsFrom(value, tenant)
		if err != nil {
			return fmt.Errorf("setting limits of tenant %s: %w", tenant, err)
		}
		budgets = append([]Config{}, change(budgets)...)
		if err := validateSet(budgets, tenant); err != nil {
			return fmt.Errorf("setting limits of tenant %s: %w", tenant, err)
		}
		text, err := json.Marshal(limitsRecord{budgets}, json.Deterministic(true), jsontext.Multiline(false))
		if err != nil {
			return fmt.Errorf("encoding limits of tenant %s: %w", tenant, err)
		}
		switch _, err = l.limits.put(ctx, tenant, text, revision); {
		case err == nil:
			return nil
		case !errors.Is(err, errConflict):
			return fmt.Errorf("setting limits of tenant %s: %w", tenant, err)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		l.pause(attempt, true)
	}
}

// limitsFrom gives the budgets that a value of the bucket, nil if there is
// none, leaves in force.
func (l *Ledger) limitsFrom(value []byte, tenant string) ([]Config, error) {
	if value != nil {
		return decodeLimits(value, tenant)
	}
	t := l.find(tenant)
	if t == nil {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.fixed), nil
}

// RestoreLimits ends what SetLimits set: the configuration's budgets hold again.
func (l *Ledger) RestoreLimits(ctx context.Context, tenant string) error {
	if err := l.limits.purge(ctx, tenant); err != nil {
		return fmt.Errorf("restoring limits of tenant %s: %w", tenant, err)
	}
	return nil
}
