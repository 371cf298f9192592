package deploytest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/proc"
	"github.com/adpa/processor/streams"
)

// promised are the metrics that users rely on, with their labels.
var promised = map[string][]string{
	"processor_stage_requests_total":           {"stage", "outcome"},
	"processor_stage_duration_seconds_bucket":  {"stage", "le"},
	"processor_stage_queue_age_seconds_bucket": {"stage", "class", "le"},
	"processor_stage_backlog":                  {"stage", "class"},
	"processor_redeliveries_total":             {"stage"},
	"processor_dead_letters_total":             {"stage", "reason"},
	"processor_batch_size_bucket":              {"le"},
	"processor_cache_requests_total":           {"result"},
	"processor_tokens_total":                   {"kind"},
	"processor_cost_usd_total":                 {"model"},
	"processor_provider_requests_total":        {"provider", "code"},
	"processor_provider_connections":           {"provider", "state"},
	"processor_budget_denials_total":           {"reason"},
	"processor_quality_score_bucket":           {"le"},
}

// rare metrics are there only once something has happened that the test does not
// bring about.
var rare = []string{"processor_publish_failures_total"}

// forbidden are labels that would tell of users, or be without bound.
var forbidden = []string{"tenant", "id", "prompt", "user", "account"}

// TestMetrics runs the pipeline with an upstream and looks at /metrics: the
// promised metrics are there, and whatever the alerts, the dashboard and the
// autoscalers ask for.
func TestMetrics(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	upstream, err := fakellm.Listen(fakellm.Config{})
	require.NoError(t, err)
	defer upstream.Close()
	url, metrics := startProcessor(ctx, t, upstream.URL)
	work(ctx, t, url)

	text := get(ctx, t, metrics)
	seen := series(text)
	there := slices.Collect(maps.Keys(seen))
	for name, labels := range promised {
		require.Contains(t, there, name)
		for _, got := range seen[name] {
			require.ElementsMatch(t, labels, got, name)
		}
	}
	for name, all := range seen {
		for _, labels := range all {
			for _, bad := range forbidden {
				require.NotContains(t, labels, bad, name)
			}
		}
	}
	for _, name := range asked(t) {
		if !slices.Contains(rare, name) {
			require.Contains(t, there, name, "the deployment's files ask for it")
		}
	}
}

func startProcessor(ctx context.Context, t *testing.T, upstream string) (url, metrics string) {
	t.Helper()
	dir := t.TempDir()
	program, err := proc.Build(ctx, dir)
	require.NoError(t, err)
	configuration := filepath.Join(dir, "processor.yaml")
	require.NoError(t, os.WriteFile(configuration, fmt.Appendf(nil, `
nats: {embedded: {dir: %q, port: 0}}
http: {addr: "127.0.0.1:0"}
providers: [{name: upstream, kind: openai, base_url: %q}]
models: [{name: gpt-4o, provider: upstream, price: {input: 2.5, output: 10}}]
budgets: [{tenant: poor, daily_limit: 1, hard: true, on_exhausted: reject}]
`, filepath.Join(dir, "nats"), upstream), 0o600))
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	p, err := proc.Command(context.WithoutCancel(ctx), log, program, "run", "--config", configuration)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, p.Stop())
		require.NoError(t, log.Close())
	})
	said := regexp.MustCompile(`on (nats://\S+); metrics on (http://\S+)`)
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(log.Name())
		require.NoError(t, err)
		if m := said.FindSubmatch(text); m != nil {
			url, metrics = string(m[1]), string(m[2])
		}
		return url != ""
	}, 30*time.Second, 20*time.Millisecond)
	return url, metrics
}

// work has a request answered, one from the cache, one denied by a budget, one
// given up and feedback counted.
func work(ctx context.Context, t *testing.T, url string) {
	t.Helper()
	nc, err := nats.Connect(url)
	require.NoError(t, err)
	defer nc.Close()
	names := streams.Names{Prefix: "llm"}
	body := []byte(`{"model":"gpt-4o","temperature":0,"messages":[{"role":"user","content":"Why is the sky blue?"}]}`)
	for _, tenant := range []string{"acme", "acme", "poor"} {
		client, err := streams.NewClient(nc, names, tenant)
		require.NoError(t, err)
		answer, err := client.Ask(ctx, streams.Message{Body: body})
		require.NoError(t, err)
		if tenant == "poor" {
			require.Contains(t, string(answer.Body), `"insufficient_quota"`)
		} else {
			require.Contains(t, string(answer.Body), `"choices"`)
		}
	}
	require.NoError(t, nc.Publish("llm.requests.a+b", body)) // which is no tenant
	require.NoError(t, nc.Publish(names.FeedbackOn("acme"), []byte(`{"id":"none","score":1}`)))
	require.NoError(t, nc.Flush())
	js, err := nc.JetStream()
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := js.StreamInfo(names.Dead())
		require.NoError(t, err)
		return info.State.Msgs == 1
	}, 30*time.Second, 20*time.Millisecond)
}

func get(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode, "%s", text)
	return string(text)
}

var (
	sample = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? [-+.0-9eEinfNa]+$`)
	label  = regexp.MustCompile(`([a-z_]+)="(?:[^"\\]|\\.)*"`)
	metric = regexp.MustCompile(`\b(?:processor|process|go)_[a-z0-9_]+`)
)

// series gives the names of the labels of each sample, by its metric.
func series(exposition string) map[string][][]string {
	found := map[string][][]string{}
	for _, m := range sample.FindAllStringSubmatch(exposition, -1) {
		labels := []string{}
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			labels = append(labels, l[1])
		}
		found[m[1]] = append(found[m[1]], labels)
	}
	return found
}

// asked lists the metrics that the alerts, the dashboard and the autoscalers ask for.
func asked(t *testing.T) []string {
	t.Helper()
	var text strings.Builder
	for _, r := range alertRules(t) {
		text.WriteString(r.Expr + "\n")
	}
	for _, p := range readDashboard(t).Panels {
		for _, target := range p.Targets {
			text.WriteString(target.Expr + "\n")
		}
	}
	for _, name := range []string{"keda.yaml", "prometheus-adapter.yaml"} {
		text.Write(readFile(t, "deploy/kubernetes/"+name))
	}
	names := map[string]bool{}
	for _, name := range metric.FindAllString(text.String(), -1) {
		names[name] = true
	}
	require.Greater(t, len(names), 15, "no metrics found: have the files changed their form?")
	return slices.Sorted(maps.Keys(names))
}
