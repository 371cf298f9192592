package budget

import (
	"fmt"
	"math"
	"time"
	_ "time/tzdata" // so that time_zone works where the system has no zone files

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// Action is what happens to a request that a budget refuses.
type Action string

// The actions that on_exhausted may name.
const (
	Reject    Action = "reject"    // an insufficient_quota error
	Defer     Action = "defer"     // it waits until the window resets or its deadline passes
	Downgrade Action = "downgrade" // the cheapest model of the model's fallback takes it
)

const (
	maxBudgets    = 8  // budgets of one tenant
	maxAllocation = 32 // models that the allocations of a tenant name
	shareParts    = 1_000_000
)

// Config is one entry of budgets: in the configuration. A limit of 0 is none.
// A tenant may have several entries; all must hold.
type Config struct {
	// Tenant is whose budget this is. Default "default".
	Tenant string `yaml:"tenant" json:"tenant"`

	// The limits in tokens, prompt and answer together: of one request, of a
	// minute, hour, day and month of the time zone, and for ever.
	PerRequestLimit int64 `yaml:"per_request_limit" json:"per_request_limit,omitzero"`
	MinuteLimit     int64 `yaml:"minute_limit" json:"minute_limit,omitzero"`
	HourlyLimit     int64 `yaml:"hourly_limit" json:"hourly_limit,omitzero"`
	DailyLimit      int64 `yaml:"daily_limit" json:"daily_limit,omitzero"`
	MonthlyLimit    int64 `yaml:"monthly_limit" json:"monthly_limit,omitzero"`
	TotalLimit      int64 `yaml:"total_limit" json:"total_limit,omitzero"`

	// The same in US dollars, with at most nine decimals.
	PerRequestLimitUSD USD `yaml:"per_request_limit_usd" json:"per_request_limit_usd,omitzero"`
	MinuteLimitUSD     USD `yaml:"minute_limit_usd" json:"minute_limit_usd,omitzero"`
	HourlyLimitUSD     USD `yaml:"hourly_limit_usd" json:"hourly_limit_usd,omitzero"`
	DailyLimitUSD      USD `yaml:"daily_limit_usd" json:"daily_limit_usd,omitzero"`
	MonthlyLimitUSD    USD `yaml:"monthly_limit_usd" json:"monthly_limit_usd,omitzero"`
	TotalLimitUSD      USD `yaml:"total_limit_usd" json:"total_limit_usd,omitzero"`

	// RequestsPerMinute is how many calls may be made in a minute.
	RequestsPerMinute int64 `yaml:"requests_per_minute" json:"requests_per_minute,omitzero"`

	// Allocation keeps a share of every limit in tokens and dollars, over 0 and
	// up to 1, for a model by its configured name: no other model may use it up.
	// The shares add up to at most 1; what they leave is for every model.
	Allocation map[string]float64 `yaml:"allocation" json:"allocation,omitempty"`

	// Hard means that a request is admitted only with the most that it can be
	// billed. If no budget of a tenant is hard, requests are admitted with what
	// they probably use, and may pass the limit by the difference. Default true.
	Hard bool `yaml:"hard" json:"hard"`

	// OnExhausted is what happens to a request that does not fit any more:
	// reject, defer or downgrade. Default reject.
	OnExhausted Action `yaml:"on_exhausted" json:"on_exhausted"`

	// TimeZone is where minutes to months begin, such as Europe/Berlin. Default UTC.
	TimeZone string `yaml:"time_zone" json:"time_zone"`
}

// Defaults is a budget that limits nothing yet.
func Defaults() Config {
	return Config{Tenant: "default", Hard: true, OnExhausted: Reject, TimeZone: "UTC"}
}

// UnmarshalYAML reads an entry over the defaults.
func (c *Config) UnmarshalYAML(decode func(any) error) error {
	type plain Config
	entry := plain(Defaults())
	if err := decode(&entry); err != nil {
		return err
	}
	*c = Config(entry)
	return nil
}

// UnmarshalJSONFrom reads an entry over the defaults.
func (c *Config) UnmarshalJSONFrom(dec *jsontext.Decoder) error {
	type plain Config
	entry := plain(Defaults())
	if err := json.UnmarshalDecode(dec, &entry, json.RejectUnknownMembers(true)); err != nil {
		return err
	}
	*c = Config(entry)
	return nil
}

// field is one limit of a Config.
type field struct {
	key   string
	scope Scope // perRequest for the limits of one request
	unit  Unit
	value int64
}

// fields lists the limits in the order of the keys above.
func (c *Config) fields() []field {
	return []field{
		{"per_request_limit", perRequest, Tokens, c.PerRequestLimit},
		{"minute_limit", Minute, Tokens, c.MinuteLimit},
		{"hourly_limit", Hour, Tokens, c.HourlyLimit},
		{"daily_limit", Day, Tokens, c.DailyLimit},
		{"monthly_limit", Month, Tokens, c.MonthlyLimit},
		{"total_limit", Total, Tokens, c.TotalLimit},
		{"per_request_limit_usd", perRequest, Dollars, int64(c.PerRequestLimitUSD)},
		{"minute_limit_usd", Minute, Dollars, int64(c.MinuteLimitUSD)},
		{"hourly_limit_usd", Hour, Dollars, int64(c.HourlyLimitUSD)},
		{"daily_limit_usd", Day, Dollars, int64(c.DailyLimitUSD)},
		{"monthly_limit_usd", Month, Dollars, int64(c.MonthlyLimitUSD)},
		{"total_limit_usd", Total, Dollars, int64(c.TotalLimitUSD)},
		{"requests_per_minute", Minute, Requests, c.RequestsPerMinute},
	}
}

// Validate reports the first setting that cannot be used: its key, and what is allowed.
func (c *Config) Validate() error {
	if !schemas.ValidName(c.Tenant) {
		return fmt.Errorf("tenant: %.70q is no tenant; allowed are 1 to 64 characters of A-Z a-z 0-9 _ -", c.Tenant)
	}
	for _, f := range c.fields() {
		if f.value < 0 || f.value > maxQuantity {
			return fmt.Errorf("%s: %v is out of range; allowed is 0 (no limit) to %v", f.key, f.unit.show(f.value), f.unit.show(maxQuantity))
		}
	}
	switch c.OnExhausted {
	case Reject, Defer, Downgrade:
	default:
		return fmt.Errorf("on_exhausted: %.40q is none of reject, defer, downgrade", c.OnExhausted)
	}
	if _, err := location(c.TimeZone); err != nil {
		return err
	}
	return c.validAllocation()
}

func (c *Config) validAllocation() error {
	if len(c.Allocation) > maxAllocation {
		return fmt.Errorf("allocation: has %d models; allowed are at most %d", len(c.Allocation), maxAllocation)
	}
	sum := int64(0)
	for model, share := range c.Allocation {
		if err := validModel(model); err != nil {
			return fmt.Errorf("allocation: %w", err)
		}
		if !(share > 0 && share <= 1) { // false for NaN
			return fmt.Errorf("allocation: %s: %v is out of range; allowed is more than 0 and at most 1", model, share)
		}
		sum += parts(share)
	}
	if sum > shareParts {
		return fmt.Errorf("allocation: the shares add up to %v; allowed is at most 1", float64(sum)/shareParts)
	}
	return nil
}

// Validate reports the first entry of a list that cannot be used, by its index and key.
func Validate(budgets []Config) error {
	count := map[string]int{}
	models := map[string]map[string]bool{}
	for i := range budgets {
		c := &budgets[i]
		if err := c.Validate(); err != nil {
			return fmt.Errorf("budgets[%d].%w", i, err)
		}
		if count[c.Tenant]++; count[c.Tenant] > maxBudgets {
			return fmt.Errorf("budgets[%d].tenant: %s has more than %d budgets", i, c.Tenant, maxBudgets)
		}
		if models[c.Tenant] == nil {
			models[c.Tenant] = map[string]bool{}
		}
		for model := range c.Allocation {
			models[c.Tenant][model] = true
		}
		if len(models[c.Tenant]) > maxAllocation {
			return fmt.Errorf("budgets[%d].allocation: the budgets of %s name more than %d models", i, c.Tenant, maxAllocation)
		}
	}
	return nil
}

// parts gives a share in millionths.
func parts(share float64) int64 { return int64(math.Round(share * shareParts)) }

func location(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, fmt.Errorf("time_zone: %q is not allowed, since replicas may differ in it; name one, such as UTC or Europe/Berlin", name)
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("time_zone: %.40q is not known; allowed are names such as UTC or Europe/Berlin", name)
	}
	return zone, nil
}
