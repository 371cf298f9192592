package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// stored gives every message of every stream, buckets included, as text.
func stored(t *testing.T, js jetstream.JetStream) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	names := js.StreamNames(t.Context())
	for name := range names.Name() {
		stream, err := js.Stream(t.Context(), name)
		require.NoError(t, err)
		for next := uint64(1); ; {
			m, err := stream.GetMsg(t.Context(), next, jetstream.WithGetMsgSubject(">"))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			require.NoError(t, err)
			header, err := json.Marshal(m.Header)
			require.NoError(t, err)
			all[name] = append(all[name], m.Subject+" "+string(header)+" "+string(m.Data))
			next = m.Sequence + 1
		}
	}
	require.NoError(t, names.Err())
	return all
}

func matching(all map[string][]string, text string) map[string]int {
	found := map[string]int{}
	for stream, messages := range all {
		for _, m := range messages {
			if strings.Contains(m, text) {
				found[stream]++
			}
		}
	}
	return found
}

// command runs a command line against the pipeline's server.
func (p *testPipeline) command(args ...string) (status int, stdout, stderr string) {
	p.t.Helper()
	var out, errs bytes.Buffer
	status = run(p.t.Context(), append([]string{"--nats", p.cfg.NATS.URL}, args...), strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

func TestAnErasedTenantLeavesNothing(t *testing.T) {
	t.Parallel()
	hanging := make(chan struct{}, 1)
	p := newTestPipeline(t, fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
		switch {
		case bytes.Contains(c.Body, []byte("hang")):
			hanging <- struct{}{}
			return &fakellm.Step{Hang: true}
		case bytes.Contains(c.Body, []byte("refuse")):
			return &fakellm.Step{Status: 400}
		}
		return nil
	}}, func(c *config.Config) {
		c.Streams.Archive.Enabled = true
		c.Cache.Scope = kv.ScopeShared
		c.Providers[0].Timeout = time.Minute
		c.Providers[0] = c.Providers[0].WithDefaults()
		c.Providers[0].AttemptTimeout = time.Minute
		c.Tenants = []streams.TenantConfig{{Name: "acme", Rate: 1000}, {Name: "beta", Rate: 1000}}
		for _, tenant := range []string{"acme", "beta"} {
			c.Budgets = append(c.Budgets, budget.Config{Tenant: tenant, DailyLimit: 1_000_000, OnExhausted: "reject", TimeZone: "UTC"})
		}
	})
	p.start()
	for _, tenant := range []string{"acme", "beta"} {
		secret := "the secret of " + tenant
		p.publishAs(tenant, "one", chat(secret))
		p.awaitRaw(tenant, "one")
		p.publishAs(tenant, "streamed", strings.Replace(chat(secret+" streamed"), "{", `{"stream":true,`, 1))
		p.awaitRaw(tenant, "streamed")
		p.publishAs(tenant, "shared", with(secret+" for all", `{"cache":{"scope":"shared"}}`))
		p.awaitRaw(tenant, "shared")
		p.publishAs(tenant, "refused", chat(secret+" refuse"))
		p.awaitRaw(tenant, "refused")
		p.publishAs(tenant, "not-json", "{"+secret)
		p.awaitRaw(tenant, "not-json")
		client, err := streams.NewClient(p.nc, streams.Names{Prefix: "llm"}, tenant)
		require.NoError(t, err)
		require.NoError(t, client.Feedback(t.Context(), streams.Feedback{ID: "one", Label: secret}))
		require.NoError(t, client.Cancel(t.Context(), "later"))
		for _, subject := range []string{streams.Names{Prefix: "llm"}.Handoff("cache", schemas.Interactive, tenant) + "x", "llm.later.at." + tenant + ".waits"} {
			m := &nats.Msg{Subject: strings.TrimSuffix(subject, "x"), Data: []byte(secret), Header: nats.Header{}}
			if strings.Contains(subject, ".at.") {
				m.Header.Set("Nats-Schedule", "@at "+time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
				m.Header.Set("Nats-Schedule-Target", "llm.later.due.generate.interactive."+tenant)
			}
			_, err := p.js.PublishMsg(t.Context(), m)
			require.NoError(t, err)
		}
	}
	status, _, stderr := p.command("budget", "set", "acme", "daily_limit=5000000")
	require.Zero(t, status, stderr)
	p.publishAs("acme", "hangs", chat("the secret of acme: hang"))
	<-hanging // a call runs

	p.awaitEmpty("LLM_REQUESTS") // what was taken is acknowledged a little later
	before := stored(t, p.js)
	places := matching(before, "acme")
	for _, stream := range []string{
		"LLM_ARCHIVE", "LLM_GENERATE", "LLM_LATER", "LLM_RESPONSES", "LLM_DELTAS", "LLM_FEEDBACK", "LLM_DEAD",
		"KV_llm_cache", "KV_llm_answers", "KV_llm_leases", "KV_llm_budget", "KV_llm_limits", "KV_llm_cancelled", "KV_llm_slots",
	} {
		require.Positive(t, places[stream], "the test puts nothing into %s", stream)
	}
	require.Equal(t, 2, matching(before, "=shared.")["KV_llm_cache"])

	status, stdout, stderr := p.command("tenant", "erase", "acme")
	require.Zero(t, status, stderr)
	require.Contains(t, stdout, "LLM_FEEDBACK")
	require.Contains(t, stderr, "nothing was removed; add --yes")
	require.Equal(t, places["KV_llm_cache"], matching(stored(t, p.js), "acme")["KV_llm_cache"])

	status, stdout, stderr = p.command("tenant", "erase", "acme", "--yes", "--json", "--wait", "1m")
	require.Zero(t, status, stderr+stdout)
	require.Contains(t, stdout, `{"place":"LLM_ARCHIVE","subjects":"llm.requests.acme","messages":6}`)
	after := stored(t, p.js)
	require.Empty(t, matching(after, "acme"))
	require.Equal(t, 1, matching(after, "=shared.")["KV_llm_cache"], "of those that are shared, what the tenant's responses name goes, and beta's stays")
	for stream, n := range matching(before, "beta") {
		if stream == "KV_llm_leases" {
			continue // they expire by themselves
		}
		require.Equal(t, n, matching(after, "beta")[stream], stream)
	}
	p.publishAs("acme", "anew", chat("the secret of acme"))
	require.Contains(t, p.awaitRaw("acme", "anew"), `"cache":"miss"`, "replicas remember the answer")
}

func TestATenantsNameIsChecked(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"tenant", "erase", "a.b", "--yes"}, {"tenant", "erase", "*", "--yes"}, {"tenant", "erase", ">"}, {"tenant", "erase"}} {
		var out, errs bytes.Buffer
		require.Equal(t, 2, run(context.Background(), args, strings.NewReader(""), &out, &errs), args)
	}
}
