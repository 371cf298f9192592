package budget

import (
	"math"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func TestConfigIsReadOverDefaults(t *testing.T) {
	text := `
- {tenant: acme, daily_limit: 1000000, per_request_limit: 4000, allocation: {gpt-4: 0.6, gemini-pro: 0.4}}
- tenant: beta
  monthly_limit_usd: 12.50
  requests_per_minute: 60
  hard: false
  on_exhausted: defer
  time_zone: Europe/Berlin
`
	var got []Config
	require.NoError(t, yaml.UnmarshalWithOptions([]byte(text), &got, yaml.Strict()))
	want := []Config{
		{Tenant: "acme", DailyLimit: 1_000_000, PerRequestLimit: 4000, Hard: true, OnExhausted: Reject, TimeZone: "UTC",
			Allocation: map[string]float64{"gpt-4": 0.6, "gemini-pro": 0.4}},
		{Tenant: "beta", MonthlyLimitUSD: 12*Dollar + Dollar/2, RequestsPerMinute: 60, OnExhausted: Defer, TimeZone: "Europe/Berlin"},
	}
	require.Empty(t, cmp.Diff(want, got))
	require.NoError(t, Validate(got))

	text2, err := json.Marshal(got)
	require.NoError(t, err)
	var again []Config
	require.NoError(t, json.Unmarshal(text2, &again))
	require.Empty(t, cmp.Diff(want, again))
}

func TestConfigRefusesWhatItDoesNotKnow(t *testing.T) {
	var got []Config
	err := yaml.UnmarshalWithOptions([]byte("- tenant: acme\n  daly_limit: 5\n"), &got, yaml.Strict())
	require.ErrorContains(t, err, "daly_limit")
	require.ErrorContains(t, err, "2 |", "the error shows the line")
	require.ErrorContains(t, json.Unmarshal([]byte(`[{"daly_limit": 5}]`), &got), "daly_limit")
	require.Error(t, yaml.Unmarshal([]byte("- daily_limit_usd: lots\n"), &got))
}

func TestValidateNamesKeyAndWhatIsAllowed(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*Config)
		says []string
	}{
		"tenant":       {func(c *Config) { c.Tenant = "a b" }, []string{"budgets[0].tenant", "A-Z"}},
		"negative":     {func(c *Config) { c.HourlyLimit = -1 }, []string{"hourly_limit: -1", "0 (no limit)"}},
		"negative usd": {func(c *Config) { c.TotalLimitUSD = -Dollar }, []string{"total_limit_usd: -1"}},
		"too large":    {func(c *Config) { c.DailyLimit = math.MaxInt64 }, []string{"daily_limit"}},
		"action":       {func(c *Config) { c.OnExhausted = "panic" }, []string{"on_exhausted", "reject, defer, downgrade"}},
		"zone":         {func(c *Config) { c.TimeZone = "Mars/Base" }, []string{"time_zone", "Europe/Berlin"}},
		"local zone":   {func(c *Config) { c.TimeZone = "Local" }, []string{"time_zone", "replicas"}},
		"share":        {func(c *Config) { c.Allocation = map[string]float64{"m": 1.5} }, []string{"allocation: m: 1.5", "at most 1"}},
		"no share":     {func(c *Config) { c.Allocation = map[string]float64{"m": math.NaN()} }, []string{"allocation", "more than 0"}},
		"shares":       {func(c *Config) { c.Allocation = map[string]float64{"m": 0.6, "n": 0.5} }, []string{"add up to 1.1"}},
		"model":        {func(c *Config) { c.Allocation = map[string]float64{"": 0.5} }, []string{"allocation", "1 to 256 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := Validate(acme(c.set))
			for _, text := range c.says {
				require.ErrorContains(t, err, text)
			}
		})
	}
	require.ErrorContains(t, Validate(make9()), "more than 8 budgets")
}

func make9() (list []Config) {
	for range 9 {
		list = append(list, Defaults())
	}
	return list
}

func TestSharesThatAddUpToOneAreAllowed(t *testing.T) {
	require.NoError(t, Validate(acme(func(c *Config) { c.Allocation = map[string]float64{"a": 0.1, "b": 0.2, "c": 0.7} })))
}

func TestUSD(t *testing.T) {
	for text, want := range map[string]USD{
		"0": 0, "12": 12 * Dollar, "0.5": Dollar / 2, ".25": Dollar / 4, "1.": Dollar, "0.000000001": 1, "1.100000000000": 1_100_000_000,
	} {
		got, err := ParseUSD(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", ".", "-1", "1e3", "0.0000000001", "1 000", "99999999999", "NaN", "0x10", "1.2.3"} {
		_, err := ParseUSD(text)
		require.Error(t, err, text)
	}
	require.Equal(t, USD(3_100_000), FromDollars(0.0031))
	require.Zero(t, FromDollars(math.NaN()))
	require.Zero(t, FromDollars(-1))
	require.Equal(t, USD(maxDollars)*Dollar, FromDollars(math.Inf(1)))
	require.Equal(t, "-0.5", (-Dollar / 2).String())
}

func FuzzUSD(f *testing.F) {
	f.Add("12.50")
	f.Fuzz(func(t *testing.T, text string) {
		if u, err := ParseUSD(text); err == nil {
			again, err := ParseUSD(u.String())
			require.NoError(t, err)
			require.Equal(t, u, again)
			require.GreaterOrEqual(t, u, USD(0))
		}
	})
}
