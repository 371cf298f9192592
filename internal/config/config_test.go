package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/internal/units"
)

const key = "sk-canary-0123456789"

func setEnvironment(t *testing.T) {
	t.Setenv("TEST_OPENAI_KEY", key)
	t.Setenv("TEST_ORG", "orgcanary")
}

// ignore leaves out where secrets came from, which a file that shows none cannot have.
var ignore = cmpopts.IgnoreUnexported(Config{})

func files(t *testing.T, pattern string) []string {
	t.Helper()
	list, err := filepath.Glob("testdata/" + pattern)
	require.NoError(t, err)
	require.NotEmpty(t, list)
	return list
}

func TestGoodFiles(t *testing.T) {
	setEnvironment(t)
	for _, file := range files(t, "*.good.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			cfg, err := Load(file)
			require.NoError(t, err)
			requireShowIsStable(t, cfg)
		})
	}
}

// requireShowIsStable checks that what Show prints holds no secret and is read
// back as the same configuration.
func requireShowIsStable(t *testing.T, cfg Config) {
	t.Helper()
	shown, err := cfg.Show()
	require.NoError(t, err)
	require.NotContains(t, shown, "canary")
	again, err := load("shown", []byte(shown), os.LookupEnv, nil)
	require.NoError(t, err, shown)
	for i := range cfg.Providers { // they show as <secret>
		if cfg.Providers[i].APIKey != "" {
			cfg.Providers[i].APIKey = providers.Secret(hidden)
		}
		for name := range cfg.Providers[i].Headers {
			cfg.Providers[i].Headers[name] = providers.Secret(hidden)
		}
	}
	require.Empty(t, cmp.Diff(cfg, again, ignore, cmpopts.EquateEmpty()))
}

func TestFullFileIsReadAsWritten(t *testing.T) {
	setEnvironment(t)
	cfg, err := Load("testdata/full.good.yaml")
	require.NoError(t, err)
	require.Equal(t, key, string(cfg.Providers[0].APIKey))
	require.Equal(t, "org-orgcanary", string(cfg.Providers[0].Headers["OpenAI-Organization"]))
	require.Equal(t, 90*time.Second, cfg.Providers[0].Timeout)
	require.Equal(t, 100, cfg.Providers[0].MaxConnections, "what an entry leaves out has its default")
	require.Equal(t, 10*units.GB, cfg.Streams.Responses.MaxBytes)
	require.Equal(t, map[string]float64{"cost": 1}, cfg.Select.Criteria, "criteria that are left out weigh nothing")
	require.True(t, cfg.Cache.Enabled, "a key that is left out of a section keeps its default")
	require.False(t, cfg.Streams.Archive.Enabled)
	require.True(t, cfg.Budgets[0].Hard)
	require.Equal(t, "250.5", cfg.Budgets[1].MonthlyLimitUSD.String())
}

// The defaults are promised from outside: each of these figures is documented.
func TestDefaults(t *testing.T) {
	cfg, err := Load("")
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(Default(), cfg, ignore))
	shown, err := cfg.Show()
	require.NoError(t, err)
	for _, want := range []string{
		"url: \"\"", "prefix: llm", "replicas: 1", "dir: data/nats", "host: 127.0.0.1", "port: 4222", "sync: 2m",
		"max_waiting: 10000", "max_age: 168h", "max_age: 24h", "max_age: 720h", "max_bytes: 10GB", "addr: 127.0.0.1:8080",
		"generate: 64", "max_deliver: 5", "target_ratio: 0.7", "quality_threshold: 0.9", "preserve_meaning: true",
		"strategy: adaptive", "max_size: 1GB", "local_size: 256MB", "ttl: 1h", "sync_interval: 5m", "match: exact",
		"max_batch_size: 10", "timeout: 1s", "max_attempts: 2", "objective: quality", "max_memory: 4GB",
		"gc_threshold: 0.8", "priority: normal", "buffer_size: 1MB", "async_io: true",
	} {
		require.Contains(t, shown, want)
	}
	require.Equal(t, []providers.Config{providers.Config{Name: "simulated", Kind: "simulated"}.WithDefaults()}, cfg.ProviderList())
}

func TestBadFiles(t *testing.T) {
	setEnvironment(t)
	for _, file := range files(t, "*.bad.yaml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			first, _, _ := strings.Cut(string(text), "\n")
			want, ok := strings.CutPrefix(first, "# want: ")
			require.True(t, ok, "the first line says what is wrong")
			_, err = Load(file)
			require.Error(t, err)
			var e *Error
			require.ErrorAs(t, err, &e)
			require.Contains(t, err.Error(), want)
			require.NotContains(t, err.Error(), "hunter2")
			require.NotContains(t, err.Error(), "canary")
			require.Equal(t, file, e.File)
			if e.Key == "cache.local_size" && e.Line == 0 {
				return // at fault is a default that the file does not name
			}
			require.Positive(t, e.Line, err.Error())
			require.True(t, strings.HasSuffix(err.Error(), "^"), err.Error())
		})
	}
}

func TestErrorShowsTheLineWithACaret(t *testing.T) {
	_, err := load("p.yaml", []byte("cache:\n  strategy: lru\n  ttll: 1h\n"), os.LookupEnv, nil)
	require.EqualError(t, err, `p.yaml:3:3: cache.ttll: is not known; did you mean ttl? (cache takes enabled, strategy, metrics, max_size, local_size, ttl, sync_interval, match, scope, max_temperature, providers)
    3 |   ttll: 1h
          ^`)
}

func TestSecretsAreMaskedInTheShownLine(t *testing.T) {
	line, column := maskLine(`providers: [{api_key: "abc, def", other: 1, url: nats://u:pw@h, token: x}]`, 35)
	require.Equal(t, `providers: [{api_key: <secret>, other: 1, url: nats://<secret>@h, token: <secret>}]`, line)
	require.Equal(t, "other", line[column-1:][:5])
	line, _ = maskLine(`api_key: ${NAME}`, 1)
	require.Equal(t, `api_key: ${NAME}`, line, "a variable's name is no secret")
}

func TestSecretInTheServersAddressIsNotShown(t *testing.T) {
	t.Setenv("TEST_NATS", "nats://user:canarypassword@host:4222")
	for _, text := range []string{"nats: {url: '${TEST_NATS}'}", "nats: {url: 'nats://user:canarypassword@host:4222'}"} {
		cfg, err := load("f", []byte(text), os.LookupEnv, nil)
		require.NoError(t, err)
		require.Contains(t, cfg.NATS.URL, "canarypassword")
		shown, err := cfg.Show()
		require.NoError(t, err)
		require.NotContains(t, shown, "canary")
		require.Contains(t, shown, hidden)
	}
}

func TestOverridesComeBeforeTheRules(t *testing.T) {
	withURL := func(c *Config) error { c.NATS.URL = "nats://cluster:4222"; return nil }
	_, err := load("f", []byte("nats: {replicas: 3}"), os.LookupEnv, []func(*Config) error{withURL})
	require.NoError(t, err)
}

func TestMissingFile(t *testing.T) {
	_, err := Load("testdata/none.yaml")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// The YAML library must not bring the process down, whatever the file holds.
func TestDeepNesting(t *testing.T) {
	_, err := load("f", []byte(strings.Repeat("[", 200_000)), os.LookupEnv, nil)
	require.ErrorContains(t, err, "is nested too deep")
	_, err = load("f", []byte("cache: "+strings.Repeat("{a: ", 10_000)), os.LookupEnv, nil)
	require.ErrorContains(t, err, "is nested too deep")
	_, err = load("f", []byte(strings.Repeat("- ", 10_000)), os.LookupEnv, nil)
	require.ErrorContains(t, err, "is nested too deep")
}

func TestHugeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "huge.yaml")
	require.NoError(t, os.WriteFile(path, make([]byte, maxFile+1), 0o600))
	_, err := Load(path)
	require.ErrorContains(t, err, "is larger than")
}

func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/*.good.yaml", "testdata/*.bad.yaml"} {
		list, _ := filepath.Glob(pattern)
		for _, file := range list {
			text, err := os.ReadFile(file)
			require.NoError(f, err)
			f.Add(text)
		}
	}
	lookup := func(string) (string, bool) { return "value", true }
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 8<<10 {
			return
		}
		cfg, err := load("f", text, lookup, nil)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		_, err = cfg.Show()
		require.NoError(t, err)
	})
}
