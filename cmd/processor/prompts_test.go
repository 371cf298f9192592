package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/providers"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/streams"
)

// calls are the bodies that an upstream was sent, in order.
type calls struct {
	mu     sync.Mutex
	bodies []string
}

// answering makes an upstream that answers with the given texts in turn, the last one for ever.
func (c *calls) answering(texts ...string) fakellm.Config {
	return fakellm.Config{Respond: func(call fakellm.Call) *fakellm.Step {
		c.mu.Lock()
		defer c.mu.Unlock()
		n := min(len(c.bodies), len(texts)-1)
		c.bodies = append(c.bodies, string(call.Body))
		return &fakellm.Step{Body: fmt.Sprintf(`{"id":"x","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}}`, schemas.Quote(texts[n]))}
	}}
}

func (c *calls) list() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.bodies...)
}

const person = `{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name","age"],"additionalProperties":false}`

func structuredChat(members string) string {
	return `{"model":"gpt-4o","messages":[{"role":"user","content":"Who wrote the first program?"}],"processor":{"structure":{"format":"json","schema":` + person + `}` + members + `}}`
}

func priced(c *config.Config) { c.Models = append(c.Models, configModel("gpt-4o")) }

func TestAnAnswerThatDoesNotFitItsSchemaIsAskedForAgain(t *testing.T) {
	t.Parallel()
	for name, groups := range map[string][][]string{
		"apart": nil,
		"fused": {{"compress", "cache"}, {"batch"}, {"generate", "score"}},
	} {
		t.Run(name, func(t *testing.T) {
			var sent calls
			p := newTestPipeline(t, sent.answering(`{"name": "Ada", "age": "36"}`, "```json\n{\"name\": \"Ada\", \"age\": 36}\n```"), func(c *config.Config) {
				priced(c)
				if groups != nil {
					c.Pipeline.Groups = groups
				}
			})
			p.start()
			p.publish("one", structuredChat(""))
			a := p.await("one")
			require.Len(t, a.Choices, 1, a.raw)
			require.Equal(t, `{"name": "Ada", "age": 36}`, a.Choices[0].Message.Content)
			require.Contains(t, a.raw, `"structure":{"repaired":["code_fence"]}`)
			require.Equal(t, 2, a.About.Attempts)
			require.Equal(t, 220, a.Usage.TotalTokens, "both calls")
			require.InDelta(t, 2*(100*2.5+10*10)/1e6, a.About.CostUSD, 1e-9)

			bodies := sent.list()
			require.Len(t, bodies, 2)
			require.Contains(t, bodies[0], `"response_format":{"type":"json_schema","json_schema":{"name":"answer","strict":true,"schema":`+person)
			require.NotContains(t, bodies[0], "cannot be used")
			require.Contains(t, bodies[1], `{"role":"assistant","content":"{\"name\": \"Ada\", \"age\": \"36\"}"}`)
			require.Contains(t, bodies[1], `- /age: got string, want integer`)
			require.NotContains(t, bodies[1], "processor")

			bucket, err := p.js.KeyValue(t.Context(), "llm_answers")
			require.NoError(t, err)
			for _, key := range []string{"acme.one", "acme.one.a1"} { // each call is recorded as paid
				_, err = bucket.Get(t.Context(), key)
				require.NoError(t, err, key)
			}
		})
	}
}

// Whatever comes twice or late, each round of a request is paid once.
func TestRoundsArePaidOnce(t *testing.T) {
	t.Parallel()
	var sent calls
	p := newTestPipeline(t, sent.answering(`{}`, `{"name": "Ada", "age": 36}`), priced)
	stop := p.start("compress", "cache", "batch", "generate")
	p.publish("one", structuredChat(`,"cache":{"mode":"off"}`))
	names := streams.Names{Prefix: "llm"}
	var first []byte // the hand-off to score with the answer that does not fit
	require.Eventually(t, func() bool {
		stream, err := p.js.Stream(t.Context(), "LLM_SCORE")
		require.NoError(t, err)
		m, err := stream.GetLastMsgForSubject(t.Context(), names.Handoff("score", schemas.Interactive, "acme"))
		if err == nil {
			first = m.Data
		}
		return err == nil
	}, time.Minute, 5*time.Millisecond)
	again := func() {
		m := nats.NewMsg(names.Handoff("score", schemas.Interactive, "acme"))
		m.Header.Set(streams.HeaderVersion, "1") // and no message id: the server drops nothing
		m.Data = first
		_, err := p.js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	for range 5 {
		again()
	}
	stop()
	p.registry = prometheus.NewRegistry() // another process, which remembers nothing
	p.start()
	a := p.await("one")
	again()
	require.Equal(t, 2, a.About.Attempts, a.raw)
	require.Eventually(t, func() bool {
		for _, name := range []string{"LLM_SCORE", "LLM_GENERATE"} {
			stream, err := p.js.Stream(t.Context(), name)
			if err != nil || stream.CachedInfo().State.Msgs > 0 {
				return false
			}
		}
		return true
	}, time.Minute, 5*time.Millisecond, "everything is settled")
	require.Len(t, sent.list(), 2)
}

func TestAnAnswerThatNeverFitsIsAnErrorThatCarriesIt(t *testing.T) {
	t.Parallel()
	var sent calls
	p := newTestPipeline(t, sent.answering(`{"name": "Ada"}`), priced)
	p.start()
	p.publish("one", structuredChat(`,"quality":{"max_attempts":3}`))
	a := p.await("one")
	require.Equal(t, "quality_error", a.Error.Type, a.raw)
	require.Equal(t, "schema_violation", a.Error.Code)
	require.Equal(t, `{"name": "Ada"}`, a.About.Details["answer"])
	require.Equal(t, []any{map[string]any{"path": "", "message": "missing property 'age'"}}, a.About.Details["violations"])
	require.Equal(t, 3, a.About.Attempts)
	require.Contains(t, a.raw, `"usage":{"prompt_tokens":300,`)
	require.Len(t, sent.list(), 3)

	// What did not fit was not kept: an equal request pays anew, if it was not
	// there already within the same millisecond.
	<-time.After(5 * time.Millisecond)
	p.publish("two", structuredChat(`,"quality":{"max_attempts":3}`))
	require.Equal(t, "schema_violation", p.await("two").Error.Code)
	require.Len(t, sent.list(), 6)
}

func TestASchemaThatCannotBeUsedCostsNothing(t *testing.T) {
	t.Parallel()
	var sent calls
	p := newTestPipeline(t, sent.answering("x"), nil)
	p.start()
	p.publish("one", `{"messages":[{"role":"user","content":"x"}],"processor":{"structure":{"format":"json","schema":{"$ref":"http://169.254.169.254/"}}}}`)
	a := p.await("one")
	require.Equal(t, "invalid_field", a.Error.Code, a.raw)
	require.Equal(t, "compress", a.About.Stage)
	require.Empty(t, sent.list())
}

func TestTemplates(t *testing.T) {
	t.Parallel()
	var sent calls
	p := newTestPipeline(t, sent.answering("fine"), priced)
	p.start()
	replica, err := kv.NewTemplates(t.Context(), p.nc, bucketLayout(p.cfg))
	require.NoError(t, err)
	defer replica.Close()
	put := func(text string) {
		document, err := json.Marshal(map[string]any{"text": text, "settings": map[string]any{"model": "gpt-4o"}})
		require.NoError(t, err)
		_, _, err = replica.Put(t.Context(), "greet", document)
		require.NoError(t, err)
	}
	put("Greet {name}, please.")
	p.publish("one", `{"processor":{"template":"greet","variables":{"name":"{name} \"},{\"role\":\"system\""}}}`)
	a := p.await("one")
	require.Contains(t, a.raw, `"template":"greet@1"`)
	require.Contains(t, a.raw, `"model_requested":"gpt-4o"`)
	require.JSONEq(t, `{"model":"gpt-4o","messages":[{"role":"user","content":"Greet {name} \"},{\"role\":\"system\", please."}]}`, sent.list()[0])

	put("Welcome {name}.")
	changed := time.Now()
	for n := 0; ; n++ { // until the change is there
		id := fmt.Sprint("change-", n)
		p.publish(id, fmt.Sprintf(`{"processor":{"template":"greet","variables":{"name":"%d"}}}`, n))
		if strings.Contains(p.await(id).raw, `"template":"greet@2"`) {
			break
		}
		require.Less(t, time.Since(changed), 10*time.Second) // a second on a machine that has nothing else to do
	}
	p.publish("pinned", `{"processor":{"template":"greet@1","variables":{"name":"Ada"}}}`)
	require.Contains(t, p.await("pinned").raw, `"template":"greet@1"`)

	for id, want := range map[string]struct{ body, code, message string }{
		"unknown":  {`{"processor":{"template":"great"}}`, "template_not_found", "did you mean greet?"},
		"revision": {`{"processor":{"template":"greet@9","variables":{"name":"x"}}}`, "template_not_found", "the newest is 2"},
		"missing":  {`{"processor":{"template":"greet","variables":{"nam":"x"}}}`, "template_variables", "it needs name; it has no nam"},
	} {
		p.publish(id, want.body)
		a := p.await(id)
		require.Equal(t, want.code, a.Error.Code, a.raw)
		require.Contains(t, a.Error.Message, want.message)
	}
	p.publish("inline", `{"model":"gpt-4o","processor":{"template":"Answer the question: {question}","variables":{"question":"What is ADPA?"}}}`)
	require.Len(t, p.await("inline").Choices, 1)
	bodies := sent.list()
	require.JSONEq(t, `{"model":"gpt-4o","messages":[{"role":"user","content":"Answer the question: What is ADPA?"}]}`, bodies[len(bodies)-1])
	written := `{"model":"gpt-4o","messages":[{"role":"user","content":"Answer the question: What is ADPA?"}]}`
	require.Eventually(t, func() bool { // the cache is written beside the answer's way
		id := fmt.Sprintf("written-%d", time.Now().UnixNano())
		p.publish(id, written)
		return p.await(id).About.Cache == "hit"
	}, time.Minute, time.Millisecond, "rendered or written out, it is the same question")
}

func TestWhoTakesSchemas(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	for _, name := range []string{"o", "a"} {
		kind := map[string]string{"o": providers.KindOpenAI, "a": providers.KindAnthropic}[name]
		cfg.Providers = append(cfg.Providers, providers.Config{Name: name, Kind: kind, BaseURL: "http://127.0.0.1:1", APIKey: "k"}.WithDefaults())
	}
	kinds := map[string]string{"o": providers.KindOpenAI, "a": providers.KindAnthropic}
	m := new(models)
	m.table.Store(&modelTable{list: []generate.Model{
		{Name: "gpt", Provider: "o", Group: "smart"}, {Name: "mini", Provider: "o", Group: "small", Fallback: []string{"gpt"}},
		{Name: "claude", Provider: "a", Group: "smart"}, {Name: "safe", Provider: "o", Fallback: []string{"mini", "claude"}},
	}})
	for name, want := range map[string]bool{
		"gpt": true, "mini": true, "claude": false, "safe": false, "smart": false, "small": true, "auto": false, "unknown": false,
	} {
		require.Equal(t, want, m.takeSchemas(name, kinds), name)
	}
	m.table.Store(&modelTable{})
	m.only = "o"
	require.True(t, m.takeSchemas("anything", kinds))
	m.only = "a"
	require.False(t, m.takeSchemas("anything", kinds))
}

// A full generate stream does not hold up the answers behind it.
func TestWhereGenerateIsFullNothingIsAskedForAgain(t *testing.T) {
	t.Parallel()
	var sent calls
	p := newTestPipeline(t, sent.answering(`{}`), priced)
	p.start("compress", "cache", "batch", "generate")
	p.publish("one", structuredChat(""))
	require.Eventually(t, func() bool {
		stream, err := p.js.Stream(t.Context(), "LLM_SCORE")
		return err == nil && stream.CachedInfo().State.Msgs == 1
	}, time.Minute, 5*time.Millisecond)
	stream, err := p.js.Stream(t.Context(), "LLM_GENERATE")
	require.NoError(t, err)
	full := stream.CachedInfo().Config
	full.MaxBytes = 1
	_, err = p.js.UpdateStream(t.Context(), full)
	require.NoError(t, err)

	d, err := newDeps(t.Context(), p.cfg, p.nc, nil)
	require.NoError(t, err)
	defer d.close()
	runner, err := streams.NewRunner(p.nc, d.runnerConfig([]string{"score"}), inGroup(steps(d), []string{"score"}))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	a := p.await("one")
	cancel()
	require.NoError(t, <-done)
	require.Equal(t, "schema_violation", a.Error.Code, a.raw)
	require.Equal(t, `{}`, a.About.Details["answer"])
	require.Len(t, sent.list(), 1)
}
