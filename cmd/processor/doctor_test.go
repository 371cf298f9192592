package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
)

// examine runs doctor --json with a configuration and gives what it found by check.
func examine(t *testing.T, text string, args ...string) (status int, found map[string]finding) {
	t.Helper()
	status, stdout, stderr := configured(t, text)(append([]string{"doctor", "--json"}, args...)...)
	require.Empty(t, stderr)
	found = map[string]finding{}
	for line := range strings.Lines(stdout) {
		var f finding
		require.NoError(t, json.Unmarshal([]byte(line), &f), line)
		if before, there := found[f.Check]; !there || before.Status == fine {
			found[f.Check] = f
		}
		require.NotEmpty(t, f.Message, line)
		if f.Status == failure || f.Status == warning {
			require.NotEmpty(t, f.Try, "%s says not what to do", f.Check)
		}
	}
	return status, found
}

func TestDoctorFindsWhatIsMissingAndWhatHasDrifted(t *testing.T) {
	t.Parallel()
	s := natstest.Start(t)
	_, js := natstest.Connect(t, s)
	text := fmt.Sprintf("nats: {url: %q}\n", s.ClientURL())
	status, found := examine(t, text)
	require.Equal(t, 1, status)
	require.Equal(t, failure, found["stream LLM_REQUESTS"].Status)
	require.Contains(t, found["stream LLM_REQUESTS"].Try, "processor provision")
	require.Equal(t, failure, found["bucket llm_cache"].Status)
	require.Equal(t, skipped, found["clock"].Status)

	status, _, stderr := configured(t, text)("provision")
	require.Zero(t, status, stderr)
	status, found = examine(t, text)
	require.Zero(t, status, found)
	for _, check := range []string{"connection", "server version", "max_payload", "rights", "storage", "clock", "streams", "buckets", "provider simulated"} {
		require.Equal(t, fine, found[check].Status, "%s: %s", check, found[check].Message)
	}
	require.Equal(t, warning, found["processes"].Status, "nobody runs")

	stream, err := js.Stream(t.Context(), "LLM_RESPONSES")
	require.NoError(t, err)
	cfg := stream.CachedInfo().Config
	cfg.MaxBytes = 1 << 20
	_, err = js.UpdateStream(t.Context(), cfg)
	require.NoError(t, err)
	require.NoError(t, js.DeleteConsumer(t.Context(), "LLM_SCORE", "score-batch"))
	require.NoError(t, js.DeleteKeyValue(t.Context(), "llm_models"))
	for i := range 9 {
		_, err := js.Publish(t.Context(), fmt.Sprintf("llm.responses.acme.r%d", i), make([]byte, 100<<10))
		require.NoError(t, err)
	}
	status, found = examine(t, text)
	require.Equal(t, 1, status)
	require.Contains(t, found["stream LLM_RESPONSES"].Message, "max_bytes is 1048576, not 10737418240")
	require.Contains(t, found["stream LLM_SCORE"].Message, "score-batch does not exist")
	require.Equal(t, failure, found["bucket llm_models"].Status)
	require.Equal(t, failure, found["stream LLM_SCORE"].Status)

	_, err = js.Publish(t.Context(), "llm.responses.acme.more", make([]byte, 90<<10))
	require.NoError(t, err)
	_, found = examine(t, text+"streams: {responses: {max_bytes: 10GB}}\n")
	require.Contains(t, found["stream LLM_RESPONSES full"].Message, "full")
}

func TestDoctorAsksProvidersAndNeverShowsTheirKeys(t *testing.T) {
	t.Parallel()
	const key = "sk-do-not-show-this-key"
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+key {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error":{"message":"Incorrect API key provided: %s"}}`, r.Header.Get("Authorization"))
			return
		}
		fmt.Fprint(w, `{"object":"list","data":[]}`)
	}))
	defer upstream.Close()
	dir := filepath.Join(t.TempDir(), "nats")
	text := fmt.Sprintf(`nats: {embedded: {dir: %q}}
providers:
  - {name: good, kind: openai, base_url: "%s/v1", api_key: %s}
  - {name: wrong, kind: openai, base_url: "%s/v1", api_key: %s-not}
  - {name: away, kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: %s}
models: [{name: nobody-knows-its-price, provider: good}, {name: gpt-4o, provider: good}]
tenants: [{name: acme, rate: 5}]
budgets: [{tenant: beta, hard: false}]
`, dir, upstream.URL, key, upstream.URL, key, key)
	status, found := examine(t, text)
	require.Equal(t, 1, status)
	require.Equal(t, fine, found["provider good"].Status)
	require.Equal(t, failure, found["provider wrong"].Status)
	require.Contains(t, found["provider wrong"].Message, "401")
	require.Contains(t, found["provider wrong"].Try, "api_key")
	require.Equal(t, failure, found["provider away"].Status)
	require.Contains(t, found["provider away"].Try, "base_url")
	require.Contains(t, found["prices"].Message, "nobody-knows-its-price")
	require.NotContains(t, found["prices"].Message, "gpt-4o")
	require.Equal(t, warning, found["budgets"].Status)
	_, stdout, stderr := configured(t, text)("doctor")
	require.NotContains(t, stdout+stderr, key)
	require.Contains(t, stdout, "tenant acme has none")
	require.Contains(t, stdout, "is not hard")
	require.Contains(t, stdout, "has no limit")
}

func TestDoctorTellsWhatIsWrongWithTheConfiguration(t *testing.T) {
	t.Parallel()
	status, found := examine(t, "cache: {ttl: never}\n")
	require.Equal(t, 1, status)
	require.Equal(t, failure, found["configuration"].Status)
	require.Contains(t, found["configuration"].Message, "cache.ttl")
	status, found = examine(t, "nats: {url: \"nats://127.0.0.1:1\"}\n")
	require.Equal(t, 1, status)
	require.Equal(t, failure, found["connection"].Status)
}

func TestDoctorTellsOfServersThatAreAway(t *testing.T) {
	t.Parallel()
	d := &doctor{}
	d.checkPeers("stream X", &jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{{Name: "n2", Offline: true}, {Name: "n3", Lag: 7}, {Name: "n4", Current: true}}})
	require.Len(t, d.findings, 3)
	require.Equal(t, failure, d.findings[0].Status)
	require.Contains(t, d.findings[1].Message, "n2")
	require.Contains(t, d.findings[2].Message, "7 operations behind")
}

func TestVersionsAreComparedByNumber(t *testing.T) {
	t.Parallel()
	require.True(t, older("2.9.25", "2.12.0"))
	require.True(t, older("2.12.0-RC.1", "2.12.1"))
	require.False(t, older("2.15.2", "2.15.0"))
	require.False(t, older("3.0.0", "2.15.0"))
}
