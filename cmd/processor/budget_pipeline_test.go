package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/calibration"
	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/internal/natstest"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/generate"
	"github.com/adpa/processor/streams"
)

// budgeted is a pipeline whose tenant acme has budgets, and what an operator
// sees of them: the ledger of another process.
type budgeted struct {
	*testPipeline
	book *budgetBook
}

func newBudgeted(t *testing.T, upstream fakellm.Config, change func(*config.Config), entries ...func(*budget.Config)) *budgeted {
	t.Helper()
	p := newTestPipeline(t, upstream, func(c *config.Config) {
		for _, set := range entries {
			entry := budget.Defaults()
			entry.Tenant = "acme"
			set(&entry)
			c.Budgets = append(c.Budgets, entry)
		}
		if change != nil {
			change(c)
		}
	})
	p.start()
	ledger, err := budget.Open(t.Context(), p.js, budgetOptions(p.cfg))
	require.NoError(t, err)
	t.Cleanup(ledger.Close)
	return &budgeted{p, &budgetBook{Ledger: ledger, js: p.js, names: streams.Names{Prefix: "llm"}}}
}

// settled waits until nothing is open, and gives what is settled of a limit.
func (b *budgeted) settled(window budget.Scope, unit budget.Unit) (n int64) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		for _, s := range b.book.List("acme") {
			if s.Window == window && s.Unit == unit {
				n = s.Settled.N
				return s.Open.N == 0
			}
		}
		return false
	}, time.Minute, time.Millisecond, "calls stay open")
	return n
}

// requireRebuilt has the ledger recomputed from the responses, once all is done:
// it must agree with them.
func (b *budgeted) requireRebuilt() {
	b.t.Helper()
	stored := &storedSpend{js: b.js, names: b.book.names}
	require.Eventually(b.t, func() bool {
		waiting, err := stored.underWay(b.t.Context())
		return err == nil && waiting == 0
	}, time.Minute, time.Millisecond)
	from, err := stored.completeSince(b.t.Context())
	require.NoError(b.t, err)
	require.Empty(b.t, stored.partial)
	require.Zero(b.t, from, "the responses are complete, so sums that are too high would show too")
	differences, err := b.book.Rebuild(b.t.Context(), from, stored.read(b.t.Context()))
	require.NoError(b.t, err)
	require.Empty(b.t, differences)
	require.Positive(b.t, stored.count)
}

// bounded is a chat that bounds its own answer.
func bounded(text string, most int) string {
	return fmt.Sprintf(`{"model":"gpt-4o","max_completion_tokens":%d,"messages":[{"role":"user","content":%q}]}`, most, text)
}

// billing is an upstream that bills about what is counted for a short prompt.
func billing() fakellm.Config { return fakellm.Config{Prompt: 10, Completion: 10, Count: true} }

func TestABudgetRefusesAndASetLimitHoldsWithinASecond(t *testing.T) {
	t.Parallel()
	b := newBudgeted(t, billing(), nil, func(c *budget.Config) { c.DailyLimit, c.PerRequestLimit = 100, 60 })
	answered := int64(0)
	var refused answer
	for i := range 10 {
		id := fmt.Sprintf("r%d", i)
		b.publish(id, bounded(id, 40))
		if refused = b.await(id); len(refused.Choices) == 0 {
			break
		}
		answered++
	}
	require.Equal(t, "insufficient_quota", refused.Error.Type, refused.raw)
	require.Equal(t, "insufficient_quota", refused.Error.Code)
	require.Equal(t, 20*answered, b.settled(budget.Day, budget.Tokens))
	require.Equal(t, answered, b.upstream.Stats().Calls, "what is refused is not called")
	d := refused.About.Details
	require.EqualValues(t, 100, d["limit"])
	require.EqualValues(t, 20*answered, d["used"])
	require.Equal(t, "day", d["window"])
	require.NotEmpty(t, d["resets_at"])
	require.Zero(t, refused.About.CostUSD)

	b.publish("large", bounded("large", 100))
	large := b.await("large")
	require.Equal(t, "token_optimization_error", large.Error.Type, large.raw)
	require.EqualValues(t, 60, large.About.Details["limit"])
	require.Greater(t, large.About.Details["estimate"], 100.0)

	require.NoError(t, b.book.SetLimits(t.Context(), "acme", func(list []budget.Config) []budget.Config {
		list[0].DailyLimit = 100_000
		return list
	}))
	begin, passed := time.Now(), false
	for i := 0; !passed && time.Since(begin) < 10*time.Second; i++ {
		id := fmt.Sprintf("raised%d", i)
		b.publish(id, bounded(id, 40))
		passed = len(b.await(id).Choices) == 1
	}
	require.True(t, passed, "the limit that was set does not hold")
	require.Equal(t, 20*(answered+1), b.settled(budget.Day, budget.Tokens))
	b.requireRebuilt()
}

func TestAHardBudgetBoundsTheAnswer(t *testing.T) {
	t.Parallel()
	sent := make(chan string, 10)
	upstream := billing()
	upstream.Respond = func(c fakellm.Call) *fakellm.Step { sent <- string(c.Body); return nil }
	b := newBudgeted(t, upstream, nil, func(c *budget.Config) { c.DailyLimit, c.PerRequestLimit = 100_000, 500 })
	b.publish("unbounded", chat("hello"))
	a := b.await("unbounded")
	var about struct {
		About struct {
			Parameters struct {
				Most int `json:"max_completion_tokens"`
			} `json:"parameters"`
		} `json:"processor"`
	}
	require.NoError(t, json.Unmarshal([]byte(a.raw), &about))
	most := about.About.Parameters.Most
	require.Greater(t, most, 450, a.raw)
	require.Less(t, most, 500)
	require.Contains(t, <-sent, fmt.Sprintf(`"max_completion_tokens":%d`, most))

	b.publish("bounded", bounded("hello there", 7))
	require.NotContains(t, b.await("bounded").raw, "parameters", "what the request says holds")
	require.Contains(t, <-sent, `"max_completion_tokens":7`)
	b.publish("several", `{"model":"gpt-4o","n":4,"messages":[{"role":"user","content":"hello"}]}`)
	b.await("several")
	var body struct {
		Most int `json:"max_completion_tokens"`
	}
	require.NoError(t, json.Unmarshal([]byte(<-sent), &body))
	require.LessOrEqual(t, 4*body.Most, 500, "n multiplies")
}

func TestAHardBudgetCountsWhatAProviderReads(t *testing.T) {
	t.Parallel()
	sent := make(chan string, 10)
	upstream := billing()
	upstream.Respond = func(c fakellm.Call) *fakellm.Step { sent <- string(c.Body); return nil }
	b := newBudgeted(t, upstream, nil, func(c *budget.Config) { c.DailyLimit, c.PerRequestLimit = 100_000, 500 })

	b.publish("escaped", `{"model":"gpt-4o","\u006e":4,"m\u0061x_tokens":300,"messages":[{"role":"user","content":"hello"}]}`)
	require.Contains(t, b.await("escaped").raw, `"code":"per_request_limit"`, "four answers of 300 tokens")
	b.publish("both", `{"model":"gpt-4o","max_completion_tokens":5,"max_tokens":600,"messages":[{"role":"user","content":"hello"}]}`)
	require.Contains(t, b.await("both").raw, `"code":"per_request_limit"`, "a provider may go by either")
	require.Empty(t, sent)
	b.publish("endless", `{"model":"gpt-4o","max_tokens":-1,"messages":[{"role":"user","content":"hello"}]}`)
	b.await("endless")
	body := <-sent
	require.NotContains(t, body, "max_tokens")
	require.Contains(t, body, "max_completion_tokens")
}

func TestASoftBudgetBoundsNothing(t *testing.T) {
	t.Parallel()
	b := newBudgeted(t, billing(), nil, func(c *budget.Config) { c.DailyLimit, c.Hard = 100_000, false })
	b.publish("soft", chat("hello"))
	require.NotContains(t, b.await("soft").raw, "max_completion_tokens")
	require.EqualValues(t, 20, b.settled(budget.Day, budget.Tokens))
}

func TestAnExhaustedBudgetDowngrades(t *testing.T) {
	t.Parallel()
	models := make(chan string, 10)
	upstream := billing()
	upstream.Respond = func(c fakellm.Call) *fakellm.Step {
		var body struct{ Model string }
		_ = json.Unmarshal(c.Body, &body)
		models <- body.Model
		return nil
	}
	b := newBudgeted(t, upstream, func(c *config.Config) {
		large, small := configModel("gpt-4o"), configModel("gpt-4o-mini")
		large.Fallback = []string{"gpt-4o-mini"}
		small.Price = generate.Price{Input: 0.15, CachedInput: 0.075, Output: 0.6}
		c.Models = append(c.Models, large, small)
	}, func(c *budget.Config) { c.DailyLimitUSD, c.OnExhausted = budget.Dollar/100, budget.Downgrade })
	b.publish("fits", bounded("fits", 500))
	require.Contains(t, b.await("fits").raw, `"model":"gpt-4o","provider":"fake","because":"requested"`)
	b.publish("dear", bounded("dear", 2000)) // 0.02 dollars at gpt-4o's price, 0.0012 at that of the other
	dear := b.await("dear")
	require.Contains(t, dear.raw, `"model":"gpt-4o-mini","provider":"fake","because":"downgraded`)
	require.InDelta(t, (10*0.15+10*0.6)/1e6, dear.About.CostUSD, 1e-12)
	require.Equal(t, "gpt-4o", <-models)
	require.Equal(t, "gpt-4o-mini", <-models)
	b.publish("dearest", bounded("dearest", 100_000)) // 0.06 even so
	require.Equal(t, "insufficient_quota", b.await("dearest").Error.Code)
	require.EqualValues(t, 2, b.upstream.Stats().Calls)
	b.requireRebuilt()
}

// With PROCESSOR_SLOW=1 the minute's end is waited for too; that a ledger lets
// calls through again then is also tested in its package, by a clock that is set.
func TestAnExhaustedBudgetDefers(t *testing.T) {
	t.Parallel()
	b := newBudgeted(t, billing(), func(c *config.Config) { c.Pipeline.MaxDeliver = 1 },
		func(c *budget.Config) { c.MinuteLimit, c.OnExhausted = 60, budget.Defer })
	if second := time.Now().Second(); second > 50 { // else the minute ends before it is used up
		time.Sleep(time.Duration(61-second) * time.Second) //nolint:forbidigo // budgets go by the minutes of the clock
	}
	begin := time.Now()
	b.publish("first", bounded("first", 40))
	require.Len(t, b.await("first").Choices, 1)
	b.publish("second", bounded("second", 40))
	m := nats.NewMsg("llm.requests.acme")
	m.Header.Set(streams.HeaderID, "hurried")
	m.Header.Set(streams.HeaderDeadline, begin.Add(5*time.Second).UTC().Format(time.RFC3339))
	m.Data = []byte(bounded("hurried", 40))
	_, err := b.js.PublishMsg(t.Context(), m)
	require.NoError(t, err)
	if reset := begin.Truncate(time.Minute).Add(time.Minute); reset.After(begin.Add(6 * time.Second)) {
		require.Equal(t, "insufficient_quota", b.await("hurried").Error.Code, "its deadline is before the minute's end")
	}
	b.publish("huge", bounded("huge", 100))
	require.Equal(t, "insufficient_quota", b.await("huge").Error.Code, "no minute has room for it")

	stream, err := b.js.Stream(t.Context(), "LLM_RESPONSES")
	require.NoError(t, err)
	if os.Getenv("PROCESSOR_SLOW") == "" {
		calls := b.upstream.Stats().Calls
		_, err := stream.GetLastMsgForSubject(t.Context(), "llm.responses.acme.second")
		if time.Now().Truncate(time.Minute).Equal(begin.Truncate(time.Minute)) {
			require.ErrorIs(t, err, jetstream.ErrMsgNotFound, "it waits for the next minute")
			require.EqualValues(t, 1, calls)
		}
		return
	}
	var second answer
	require.Eventually(t, func() bool {
		response, err := stream.GetLastMsgForSubject(t.Context(), "llm.responses.acme.second")
		if err != nil {
			return false
		}
		second.raw = string(response.Data)
		return json.Unmarshal(response.Data, &second) == nil
	}, 70*time.Second, 50*time.Millisecond)
	require.Len(t, second.Choices, 1, "waiting is no failure: %s", second.raw)
	require.Equal(t, 1, second.About.Attempts, "waiting is no call: %s", second.raw)
	require.NotEqual(t, begin.Truncate(time.Minute), time.Now().Truncate(time.Minute), "it waited for the next minute")
}

func TestCachedAnswersCostNothing(t *testing.T) {
	t.Parallel()
	b := newBudgeted(t, billing(), func(c *config.Config) { c.Models = append(c.Models, configModel("gpt-4o")) },
		func(c *budget.Config) { c.DailyLimit, c.RequestsPerMinute, c.DailyLimitUSD = 65, 1000, budget.Dollar })
	b.publish("first", bounded("hello", 40))
	require.Equal(t, "miss", b.await("first").About.Cache)
	require.Eventually(t, func() bool { // the cache is written beside the answer's way
		id := fmt.Sprintf("again-%d", time.Now().UnixNano())
		b.publish(id, bounded("hello", 40))
		return b.await(id).About.Cache == "hit"
	}, time.Minute, time.Millisecond)
	calls := b.upstream.Stats().Calls
	used := b.settled(budget.Day, budget.Tokens)
	require.Equal(t, 20*calls, used)
	for i := range 5 { // far more than is left of the budget
		id := fmt.Sprintf("hit%d", i)
		b.publish(id, bounded("hello", 40))
		require.Equal(t, "hit", b.await(id).About.Cache)
	}
	require.Equal(t, used, b.settled(budget.Day, budget.Tokens))
	require.Equal(t, calls, b.upstream.Stats().Calls)
	b.requireRebuilt()
}

func TestAnErrorAfterPaidCallsCarriesWhatWasPaid(t *testing.T) {
	t.Parallel()
	b := newBudgeted(t, billing(), func(c *config.Config) { c.Models = append(c.Models, configModel("gpt-4o")) },
		func(c *budget.Config) { c.DailyLimit, c.DailyLimitUSD = 100_000, budget.Dollar })
	b.publish("prose", `{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}],"processor":{
		"structure":{"format":"json","schema":{"type":"object","required":["x"],"properties":{"x":{"type":"integer"}}}}}}`)
	a := b.await("prose")
	require.Equal(t, "quality_error", a.Error.Type, a.raw)
	calls := b.upstream.Stats().Calls
	require.Positive(t, calls)
	require.EqualValues(t, calls, a.About.Attempts)
	var body schemas.ErrorBody
	require.NoError(t, json.Unmarshal([]byte(a.raw), &body))
	require.NotNil(t, body.About.Usage, a.raw)
	require.EqualValues(t, 20*calls, body.About.Usage.TotalTokens)
	require.InDelta(t, float64(calls)*(10*2.5+10*10)/1e6, body.About.CostUSD, 1e-12)
	require.Equal(t, 20*calls, b.settled(budget.Day, budget.Tokens))
	b.requireRebuilt()
}

func TestLostCallsStayChargedAndUnbilledOnesDoNot(t *testing.T) {
	t.Parallel()
	upstream := billing()
	upstream.Script = []*fakellm.Step{{Status: 429, Header: map[string]string{"Retry-After": "0"}}, nil, {Drop: true}}
	b := newBudgeted(t, upstream, nil, func(c *budget.Config) { c.DailyLimit = 100_000 })
	b.publish("limited", bounded("limited", 40))
	require.Len(t, b.await("limited").Choices, 1)
	require.EqualValues(t, 20, b.settled(budget.Day, budget.Tokens), "what was refused was not billed")
	b.publish("dropped", bounded("dropped", 40))
	require.Len(t, b.await("dropped").Choices, 1)
	used := b.settled(budget.Day, budget.Tokens)
	require.Greater(t, used, int64(20+20+40), "a call whose outcome is unknown stays charged at its estimate")
	list := b.book.List("acme")
	require.Equal(t, used-40, list[0].Lost.N)
	b.requireRebuilt()
}

func TestRebuildRestoresALostLedger(t *testing.T) {
	t.Parallel()
	b := newBudgeted(t, billing(), nil, func(c *budget.Config) { c.DailyLimit = 100_000 })
	for i := range 5 {
		id := fmt.Sprintf("r%d", i)
		b.publish(id, bounded(id, 40))
		require.Len(t, b.await(id).Choices, 1)
	}
	require.EqualValues(t, 100, b.settled(budget.Day, budget.Tokens))
	kept, err := b.js.KeyValue(t.Context(), "llm_budget")
	require.NoError(t, err)
	require.NoError(t, kept.Purge(t.Context(), "acme"))
	require.Eventually(t, func() bool { return b.settled(budget.Day, budget.Tokens) == 0 }, 10*time.Second, 5*time.Millisecond)
	stored := &storedSpend{js: b.js, names: b.book.names}
	differences, err := b.book.Rebuild(t.Context(), time.Time{}, stored.read(t.Context()))
	require.NoError(t, err)
	require.Len(t, differences, 1)
	require.True(t, differences[0].Applied)
	require.EqualValues(t, 100, differences[0].Rebuilt.Tokens)
	require.EqualValues(t, 100, b.settled(budget.Day, budget.Tokens))
	b.requireRebuilt()
}

func TestResponsesThatAreNotWholeLowerNothing(t *testing.T) {
	t.Parallel()
	_, js := natstest.Connect(t, natstest.Start(t))
	names := streams.Names{Prefix: "llm"}
	create := func(name, subject string) {
		_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}})
		require.NoError(t, err)
	}
	create("LLM_RESPONSES", "llm.responses.>")
	create("KV_llm_budget", "$KV.llm_budget.>")
	for _, name := range []string{"LLM_REQUESTS", "LLM_CACHE", "LLM_BATCH", "LLM_GENERATE", "LLM_SCORE", "LLM_LATER"} {
		create(name, strings.ToLower(name)+".>")
	}
	_, err := js.CreateConsumer(t.Context(), "LLM_REQUESTS", jetstream.ConsumerConfig{Durable: "compress"})
	require.NoError(t, err)
	since := func() (time.Time, string) {
		s := &storedSpend{js: js, names: names}
		from, err := s.completeSince(t.Context())
		require.NoError(t, err)
		return from, s.partial
	}
	from, partial := since()
	require.Zero(t, from, "the responses are as old as the ledger")
	require.Empty(t, partial)

	for i := range 5 {
		_, err := js.Publish(t.Context(), fmt.Sprintf("llm.responses.acme.r%d", i), []byte("{}"))
		require.NoError(t, err)
	}
	responses, err := js.Stream(t.Context(), "LLM_RESPONSES")
	require.NoError(t, err)
	require.NoError(t, responses.DeleteMsg(t.Context(), 1)) // as age does
	from, partial = since()
	require.Empty(t, partial)
	second, err := responses.GetMsg(t.Context(), 2)
	require.NoError(t, err)
	require.True(t, from.Equal(second.Time))

	_, err = js.Publish(t.Context(), "llm_score.x", nil)
	require.NoError(t, err)
	from, partial = since()
	require.WithinDuration(t, time.Now(), from, time.Minute)
	require.Contains(t, partial, "1 request under way")
	score, err := js.Stream(t.Context(), "LLM_SCORE")
	require.NoError(t, err)
	require.NoError(t, score.Purge(t.Context()))

	require.NoError(t, responses.DeleteMsg(t.Context(), 3)) // as somebody does
	_, partial = since()
	require.Contains(t, partial, "deleted")

	require.NoError(t, js.DeleteStream(t.Context(), "LLM_RESPONSES"))
	create("LLM_RESPONSES", "llm.responses.>")
	from, partial = since()
	require.Empty(t, partial)
	require.WithinDuration(t, time.Now(), from, time.Minute, "what was answered before is gone")
}

// TestCalibrationPredictsWhatIsBilled has a model whose tokenizer differs by 17%
// from the one before the calibration, over the whole pipeline.
func TestCalibrationPredictsWhatIsBilled(t *testing.T) {
	t.Parallel()
	counter, err := tokens.NewCounter(tokens.DefaultTable())
	require.NoError(t, err)
	count := func(body []byte) int {
		n, err := counter.Chat("gpt-4o", body)
		require.NoError(t, err)
		return n.Total()
	}
	upstream := fakellm.Config{Respond: func(c fakellm.Call) *fakellm.Step {
		noise := 0.95 + 0.1*float64(c.Number*7%11)/10 // a request differs by up to 5% more
		prompt := int(1.17 * noise * float64(count(c.Body)))
		return &fakellm.Step{Body: fmt.Sprintf(`{"id":"x","object":"chat.completion","model":"gpt-4o","choices":[{"index":0,"finish_reason":"stop",
			"message":{"role":"assistant","content":"yes"}}],"usage":{"prompt_tokens":%d,"completion_tokens":5,"total_tokens":%d}}`, prompt, prompt+5)}
	}}
	b := newBudgeted(t, upstream, nil, func(c *budget.Config) { c.DailyLimit = 10_000_000 })
	ask := func(from, to int) (counted, billed int) {
		for i := from; i < to; i++ {
			id := fmt.Sprintf("r%d", i)
			body := bounded(strings.Repeat(fmt.Sprintf("Line %d of a text that has some length. ", i), 5+i%40), 50)
			b.publish(id, body)
			counted, billed = counted+count([]byte(body)), billed+b.await(id).Usage.PromptTokens
		}
		return counted, billed
	}
	ask(0, 50)
	shared, err := calibration.Open(t.Context(), b.js, "llm_models")
	require.NoError(t, err)
	t.Cleanup(shared.Close)
	mean, high := 0.0, 0.0
	require.Eventually(t, func() bool {
		mean, high = shared.Factors("fake", "gpt-4o")
		return mean > 1.1
	}, time.Minute, 10*time.Millisecond, "what was learnt reaches another process")
	counted, billed := ask(50, 100)
	require.InDelta(t, 1, mean*float64(counted)/float64(billed), 0.03)
	require.Greater(t, high, 1.17*1.05, "hardly any request is billed above")
	require.Less(t, high, 1.17*1.05*1.1)
}
