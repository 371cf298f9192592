package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/streams"
)

// tieredUpstream answers well or with a refusal, by the model and by whether
// the prompt is easy.
type tieredUpstream struct {
	mu     sync.Mutex
	random *rand.Rand
	right  map[string][2]float64 // the share of good answers to hard and easy prompts, by model
	calls  map[string]int
}

func (u *tieredUpstream) respond(call fakellm.Call) *fakellm.Step {
	var body struct {
		Model    string
		Messages []struct{ Content string }
	}
	if json.Unmarshal(call.Body, &body) != nil || len(body.Messages) == 0 {
		return nil
	}
	prompt := body.Messages[len(body.Messages)-1].Content
	easy := 0
	if strings.HasPrefix(prompt, "Translate") {
		easy = 1
	}
	u.mu.Lock()
	good := u.random.Float64() < u.right[body.Model][easy]
	u.calls[body.Model]++
	u.mu.Unlock()
	text := "I'm sorry, but I can't help with that."
	if good {
		text = "Here is what you asked for. " + strings.TrimSuffix(prompt, ".") + ": this follows from the first case, and every other case is alike. So the result holds."
	}
	return &fakellm.Step{Body: fmt.Sprintf(`{"id":"c","object":"chat.completion","model":%q,"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":%q}}],
		"usage":{"prompt_tokens":50,"completion_tokens":100,"total_tokens":150}}`, body.Model, text)}
}

func (u *tieredUpstream) set(model string, right float64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.right[model] = [2]float64{right, right}
}

// threeTiers are models of qualities .95, .88 and .70 where half of the prompts
// are easy for all, at prices of 10, 2 and .5.
func threeTiers() (*tieredUpstream, []generate.Model) {
	u := &tieredUpstream{
		random: rand.New(rand.NewPCG(1, 2)), calls: map[string]int{},
		right: map[string][2]float64{"large": {0.90, 1}, "middle": {0.76, 1}, "small": {0.40, 1}},
	}
	return u, []generate.Model{
		{Name: "large", Provider: "fake", Quality: 0.9, Price: generate.Price{Input: 10, CachedInput: 10, Output: 10}},
		{Name: "middle", Provider: "fake", Quality: 0.8, Price: generate.Price{Input: 2, CachedInput: 2, Output: 2}},
		{Name: "small", Provider: "fake", Quality: 0.7, Price: generate.Price{Input: 0.5, CachedInput: 0.5, Output: 0.5}},
	}
}

func tieredPrompt(i int) string {
	if i%2 == 0 {
		return fmt.Sprintf("Translate the word number %d of the list into French, please.", i)
	}
	return fmt.Sprintf("Prove that lemma number %d holds in the general case, step by step.", i)
}

// chosen is what a response says of its model.
type chosenResponse struct {
	Error *struct{ Message string }
	About struct {
		CostUSD  float64 `json:"cost_usd"`
		Selected schemas.Selected
		Quality  struct{ Score float64 }
	} `json:"processor"`
}

// answers publishes requests and gives their responses by number.
func (p *testPipeline) answers(from, n int, body func(i int) string) []chosenResponse {
	p.t.Helper()
	sub, err := p.nc.SubscribeSync("llm.responses.acme.*")
	require.NoError(p.t, err)
	require.NoError(p.t, sub.SetPendingLimits(-1, -1))
	defer func() { _ = sub.Unsubscribe() }()
	out := make([]chosenResponse, n)
	const window = 256
	for done := 0; done < n; {
		batch := min(window, n-done)
		for i := range batch {
			m := nats.NewMsg("llm.requests.acme")
			m.Header.Set(streams.HeaderID, fmt.Sprintf("s-%d", from+done+i))
			m.Data = []byte(body(from + done + i))
			_, err := p.js.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second))
			require.NoError(p.t, err)
		}
		for range batch {
			m, err := sub.NextMsg(time.Minute)
			require.NoError(p.t, err, "%d of %d answered", done, n)
			var i int
			_, err = fmt.Sscanf(m.Subject, "llm.responses.acme.s-%d", &i)
			require.NoError(p.t, err)
			require.NoError(p.t, json.Unmarshal(m.Data, &out[i-from]))
			require.Nil(p.t, out[i-from].Error, "%s", m.Data)
		}
		done += batch
	}
	return out
}

func auto(text, selecting string) string {
	return fmt.Sprintf(`{"model":"auto","messages":[{"role":"user","content":%q}],"processor":{%s}}`, text, selecting)
}

func TestAutoLearnsOverTheFiveStages(t *testing.T) {
	t.Parallel()
	upstream, models := threeTiers()
	p := newTestPipeline(t, fakellm.Config{Respond: upstream.respond}, func(c *config.Config) {
		c.Models = models
		c.Select = generate.SelectConfig{Criteria: map[string]float64{"quality": 1}, Explore: 0.1}
	})
	stop := p.start()
	const ask = `"route":"tasks"`
	upstream.set("large", 0.2) // although it is configured to be the best
	upstream.set("middle", 1)
	upstream.set("small", 0.2)
	first := p.answers(0, 1, func(i int) string { return auto(tieredPrompt(i), ask) })[0].About
	require.Equal(t, "large", first.Selected.Model, "without statistics it is the first")
	require.Equal(t, 1.0, first.Selected.Probability)

	// How many it takes depends on how soon their scores come back.
	asked := 1
	for share := 0; share <= 160; asked += 200 {
		require.Less(t, asked, 3000, "of the last 200 requests %d went to the best model", share)
		share = 0
		for _, a := range p.answers(asked, 200, func(i int) string { return auto(tieredPrompt(i), ask) }) {
			require.Greater(t, a.About.Selected.Probability, 0.0)
			require.NotEmpty(t, a.About.Selected.Because)
			if a.About.Selected.Model == "middle" && a.About.Selected.Probability > 0.5 {
				share++
			}
		}
	}
	best := p.answers(asked, 5, func(i int) string { return auto(tieredPrompt(i), ask+`,"select":{"quality":1,"deterministic":true}`) })
	for _, a := range best {
		require.Equal(t, "middle", a.About.Selected.Model)
		require.Equal(t, 1.0, a.About.Selected.Probability)
	}

	// A replica that has seen nothing of it chooses alike, and so does one after a restart of all.
	require.Eventually(t, func() bool {
		other, err := newDeps(t.Context(), p.cfg, p.nc, nil)
		if err != nil {
			return false
		}
		defer other.close()
		figures, known := other.models.selector.learnt.Figures("tasks", "middle")
		return known && figures.Answers > 100
	}, time.Minute, 100*time.Millisecond)
	stop()
	p.registry = prometheus.NewRegistry()
	p.start()
	again := p.answers(asked+5, 5, func(i int) string { return auto(tieredPrompt(i), ask+`,"select":{"quality":1,"deterministic":true}`) })
	require.Equal(t, "middle", again[0].About.Selected.Model)
	require.NotContains(t, again[0].About.Selected.Because, "first")
}

func TestLimitsOfAChoice(t *testing.T) {
	t.Parallel()
	upstream, models := threeTiers()
	models[0].Context = 60
	models[1].Capabilities = []string{"json_schema"}
	models[2].Group = "cheap"
	p := newTestPipeline(t, fakellm.Config{Respond: upstream.respond}, func(c *config.Config) { c.Models = models })
	p.start()
	long := strings.Repeat("one word after another ", 30)
	model := func(id, body string) (string, answer) {
		p.publish(id, body)
		a := p.await(id)
		var s struct {
			About struct{ Selected schemas.Selected } `json:"processor"`
		}
		require.NoError(t, json.Unmarshal([]byte(a.raw), &s))
		return s.About.Selected.Model, a
	}
	name, _ := model("short", auto("hi", ""))
	require.Equal(t, "large", name)
	name, _ = model("long", auto(long, ""))
	require.Equal(t, "middle", name, "the first has too small a context")
	name, _ = model("tools", `{"model":"auto","tools":[{"type":"function","function":{"name":"f"}}],"messages":[{"role":"user","content":"`+long+`"}]}`)
	require.Equal(t, "small", name, "the second takes no tools")
	name, _ = model("group", strings.Replace(auto("hi", ""), "auto", "cheap", 1))
	require.Equal(t, "small", name)

	_, a := model("dear", auto("hello", `"select":{"max_cost_usd":1e-9}`))
	require.Equal(t, "per_request_limit", a.Error.Code)
	require.Contains(t, a.Error.Message, "the cheapest one costs about")
	_, a = model("wrong", strings.Replace(auto("hi there", `"select":{"qualty":1}`), "auto", "large", 1))
	require.Equal(t, "invalid_field", a.Error.Code)
	require.Contains(t, a.raw, "processor.select")

	before := upstream.calls["large"]
	_, a = model("named", strings.Replace(auto(long, ""), "auto", "large", 1))
	require.Equal(t, "context_length_exceeded", a.Error.Code)
	require.Contains(t, a.Error.Message, "large has a context of 60 tokens")
	require.Equal(t, before, upstream.calls["large"], "nothing is called to be told so")
	name, _ = model("named-short", strings.Replace(auto("hi again", ""), "auto", "large", 1))
	require.Equal(t, "large", name)
}

func TestOneReplicaLearnsAnotherUsesIt(t *testing.T) {
	t.Parallel()
	upstream, models := threeTiers()
	p := newTestPipeline(t, fakellm.Config{Respond: upstream.respond}, func(c *config.Config) { c.Models = models })
	require.NoError(t, provision(t.Context(), p.cfg, p.nc))
	var replicas [2]*deps
	for i := range replicas {
		d, err := newDeps(t.Context(), p.cfg, p.nc, nil)
		require.NoError(t, err)
		defer d.close()
		replicas[i] = d
	}
	one, two := replicas[0].models.selector, replicas[1].models.selector
	r := requestOf(t, auto("hi", `"route":"a/b c","select":{"quality":1,"deterministic":true}`))
	name, because, _, err := two.choose(r, []string{"large", "middle"})
	require.NoError(t, err)
	require.Equal(t, "large", name)
	require.Contains(t, because, "first")
	for range 40 {
		one.scored(r, "large", 0.1)
		one.scored(r, "middle", 0.9)
	}
	require.Eventually(t, func() bool { // a fifth of a second on a machine that has nothing else to do
		name, _, _, err := two.choose(r, []string{"large", "middle"})
		return err == nil && name == "middle"
	}, time.Minute, 2*time.Millisecond)
}

func TestAModelWhoseBreakerIsOpenIsLeftOutWhileThereIsAnother(t *testing.T) {
	t.Parallel()
	upstream, models := threeTiers()
	p := newTestPipeline(t, fakellm.Config{Respond: upstream.respond}, func(c *config.Config) { c.Models = models })
	require.NoError(t, provision(t.Context(), p.cfg, p.nc))
	d, err := newDeps(t.Context(), p.cfg, p.nc, nil)
	require.NoError(t, err)
	defer d.close()
	s := d.models.selector
	open := map[string]bool{"large": true}
	s.open = func(_, model string) bool { return open[model] }
	r := requestOf(t, auto("hi", ""))
	name, _, _, err := s.choose(r, []string{"large", "middle"})
	require.NoError(t, err)
	require.Equal(t, "middle", name)
	open["middle"] = true
	name, _, _, err = s.choose(r, []string{"large", "middle"})
	require.NoError(t, err)
	require.Equal(t, "large", name, "all are open: generate waits, as for one that was named")
}

func TestWhereARequestEscalates(t *testing.T) {
	t.Parallel()
	upstream, models := threeTiers()
	models[1].Fallback = []string{"small"}
	models = append(models, generate.Model{Name: "twin-a", Provider: "fake", Group: "twins", Quality: 0.5}, generate.Model{Name: "twin-b", Provider: "fake", Group: "twins", Quality: 0.6})
	p := newTestPipeline(t, fakellm.Config{Respond: upstream.respond}, func(c *config.Config) { c.Models = models })
	require.NoError(t, provision(t.Context(), p.cfg, p.nc))
	d, err := newDeps(t.Context(), p.cfg, p.nc, nil)
	require.NoError(t, err)
	defer d.close()
	for _, c := range []struct {
		asked string
		tried []string
		want  string
	}{
		{"auto", []string{"small"}, "large"},
		{"auto", []string{"small", "large"}, "large"},
		{"twins", []string{"twin-a"}, "twin-b"},
		{"twins", []string{"twin-b"}, "twin-b"},
		{"twin-a", []string{"twin-a"}, "twin-b"},
		{"middle", []string{"middle"}, "middle"}, // its fallback is worse
		{"small", []string{"small"}, "small"},    // it has neither group nor fallback
		{"elsewhere", []string{"elsewhere"}, "elsewhere"},
	} {
		r := requestOf(t, strings.Replace(auto("hi", ""), "auto", c.asked, 1))
		r.Tried = c.tried
		route, err := d.models.route(r)
		require.NoError(t, err)
		require.Equal(t, c.want, route.Model, "%s after %v", c.asked, c.tried)
	}
}

// At the quality of the best model alone, choosing costs at least 40% less.
func TestChoosingCostsLessAtTheSameQuality(t *testing.T) {
	t.Parallel()
	if os.Getenv("PROCESSOR_SLOW") == "" {
		t.Skip("set PROCESSOR_SLOW=1 for 12,000 requests over five stages")
	}
	const floor, learning, measured = 0.75, 8000, 4000
	run := func(model string) (quality, cost float64, calls map[string]int) {
		upstream, models := threeTiers()
		p := newTestPipeline(t, fakellm.Config{Respond: upstream.respond}, func(c *config.Config) {
			c.Models = models
			c.Select.MinQuality = floor
		})
		defer p.start()()
		body := func(i int) string { return strings.Replace(auto(tieredPrompt(i), ""), "auto", model, 1) }
		if model == generate.Auto {
			p.answers(0, learning, body)
		}
		for _, a := range p.answers(learning, measured, body) {
			quality += a.About.Quality.Score / measured
			cost += a.About.CostUSD
		}
		return quality, cost, upstream.calls
	}
	bestQuality, bestCost, _ := run("large")
	quality, cost, calls := run(generate.Auto)
	t.Logf("always the best: mean score %.3f, $%.4f; chosen: %.3f, $%.4f (%.0f%%); calls %v", bestQuality, bestCost, quality, cost, 100*cost/bestCost, calls)
	require.Greater(t, quality, floor)
	require.Greater(t, quality, bestQuality-0.03)
	require.Less(t, cost, 0.6*bestCost)
}

// requestOf makes the request that a body becomes once it is accepted.
func requestOf(t *testing.T, body string) *stages.Request {
	t.Helper()
	parsed, err := schemas.Parse([]byte(body))
	require.NoError(t, err)
	r := &stages.Request{}
	r.ID, r.Tenant, r.Kind, r.Model, r.Body = "r-1", "acme", parsed.Kind, parsed.Model, []byte(body)
	span, _ := schemas.Member(r.Body, "processor")
	r.Options = span.Of(r.Body)
	return r
}
