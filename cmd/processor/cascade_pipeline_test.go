package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
)

// judgedAnswer is what a response says of the answers behind it.
type judgedAnswer struct {
	Processor struct {
		Attempts int
		Answers  []schemas.Attempt
		Cache    string
		CostUSD  float64 `json:"cost_usd"`
		Quality  struct {
			Score, Judge float64
			JudgeCost    float64 `json:"judge_cost_usd"`
			Ended        string
			Flags        []string
		}
	}
}

func (a answer) judged(t *testing.T) judgedAnswer {
	t.Helper()
	var j judgedAnswer
	require.NoError(t, json.Unmarshal([]byte(a.raw), &j), a.raw)
	return j
}

// saying is a step that answers with a text.
func saying(text string) *fakellm.Step {
	return &fakellm.Step{Body: fmt.Sprintf(`{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":%q}}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}`, text)}
}

const (
	goodText   = "The harbour lies quiet in the morning, and the first boats leave before dawn. When they return with the tide, their fish is sold on the quay to those who waited for it, and the rest is carried up the hill to the town."
	brokenText = "The harbour lies quiet, the harbour lies quiet, the harbour lies quiet, the harbour lies quiet, the harbour lies quiet, the harbour lies quiet, the harbour lies quiet, the harbour lies quiet, the harbour lies quiet, the harbour lies quiet, the harbour lies quiet, the harbour lies quiet."
	emptyText  = " "
)

func asking(id, options string) string {
	return fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"user","content":"Describe the harbour in the morning and its boats, %s."}],"processor":%s}`, id, options)
}

// newCascade is a pipeline whose upstream gives the texts in turn, over and
// over; each call costs 20 * 2.5 and 10 * 10 millionths of a dollar.
func newCascade(t *testing.T, texts []string, change func(*config.Config)) *testPipeline {
	t.Helper()
	turns := make(chan int, 1)
	turns <- 0
	return newTestPipeline(t, fakellm.Config{Respond: func(fakellm.Call) *fakellm.Step {
		n := <-turns
		turns <- n + 1
		return saying(texts[n%len(texts)])
	}}, func(c *config.Config) {
		c.Models = append(c.Models, configModel("gpt-4o"))
		c.Score.Threshold, c.Score.MaxAttempts = 0.6, 2
		if change != nil {
			change(c)
		}
	})
}

const callCost = (20*2.5 + 10*10) / 1e6

func TestAnAnswerBelowTheThresholdIsMadeAnew(t *testing.T) {
	t.Parallel()
	p := newCascade(t, []string{brokenText, goodText}, nil)
	p.start()
	p.publish("twice", asking("twice", `{}`))
	a := p.await("twice")
	require.Equal(t, goodText, a.Choices[0].Message.Content, a.raw)
	j := a.judged(t).Processor
	require.Equal(t, 2, j.Attempts)
	require.Len(t, j.Answers, 2, a.raw)
	require.Contains(t, j.Answers[0].Flags, "repetition")
	require.Less(t, j.Answers[0].Score, 0.6)
	require.Greater(t, j.Answers[1].Score, 0.6)
	require.False(t, j.Answers[0].Used)
	require.True(t, j.Answers[1].Used)
	for _, attempt := range j.Answers {
		require.InDelta(t, callCost, attempt.CostUSD, 1e-12)
		require.Equal(t, 30, attempt.Usage.TotalTokens)
		require.Equal(t, "gpt-4o", attempt.Model)
	}
	require.InDelta(t, 2*callCost, j.CostUSD, 1e-12)
	require.Equal(t, 60, a.Usage.TotalTokens)
	require.Empty(t, j.Quality.Ended)
	p.publish("again", asking("twice", `{}`))
	again := p.await("again")
	require.Equal(t, "hit", again.About.Cache, "the better answer is cached: %s", again.raw)
	require.Equal(t, goodText, again.Choices[0].Message.Content)
}

func TestTheBestOfAllAnswersGoesOut(t *testing.T) {
	t.Parallel()
	p := newCascade(t, []string{brokenText, emptyText, emptyText}, nil)
	p.start()
	p.publish("worse", asking("worse", `{"quality":{"max_attempts":3}}`))
	a := p.await("worse")
	require.Equal(t, brokenText, a.Choices[0].Message.Content, a.raw)
	j := a.judged(t).Processor
	require.Len(t, j.Answers, 3)
	require.True(t, j.Answers[0].Used)
	require.Equal(t, "max_attempts is reached", j.Quality.Ended)
	require.InDelta(t, 3*callCost, j.CostUSD, 1e-12)
	require.InDelta(t, j.Answers[0].Score, j.Quality.Score, 1e-9)
	require.Contains(t, j.Quality.Flags, "repetition")

	p.publish("strict", asking("strict", `{"quality":{"threshold":0.9,"required":true}}`))
	strict := p.await("strict")
	require.Equal(t, "quality_below_threshold", strict.Error.Code, strict.raw)
	require.Equal(t, "quality_error", strict.Error.Type)
	require.Len(t, strict.About.Details["answers"], 2)
	require.InDelta(t, 2*callCost, strict.About.CostUSD, 1e-12)

	p.publish("once", asking("once", `{"quality":{"max_attempts":1}}`))
	require.Equal(t, 1, p.await("once").About.Attempts)
	p.publish("odd", asking("odd", `{"quality":{"threshold":7}}`))
	odd := p.await("odd")
	require.Equal(t, "invalid_field", odd.Error.Code, odd.raw)
	require.Zero(t, odd.About.Attempts)
}

// A better answer that cannot be had is no failure.
func TestTheBestAnswerGoesOutWhereNoOtherCanBeHad(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*config.Config)
		second *fakellm.Step
		body   func(string) string
		ended  string
	}{
		"budget": {func(c *config.Config) {
			b := budget.Defaults()
			b.Tenant, b.DailyLimit = "acme", 150
			c.Budgets = []budget.Config{b}
		}, nil, func(o string) string {
			return strings.Replace(asking("budget", o), `{"model"`, `{"max_completion_tokens":100,"model"`, 1)
		}, "insufficient_quota"},
		"refused": {nil, &fakellm.Step{Status: 400}, func(o string) string { return asking("refused", o) }, "invalid_field"},
		"deadline": {nil, &fakellm.Step{Hang: true}, func(string) string {
			return asking("deadline", fmt.Sprintf(`{"deadline":%q}`, time.Now().Add(5*time.Second).UTC().Format(time.RFC3339Nano)))
		}, "deadline_exceeded"},
		"down": {func(c *config.Config) { c.Pipeline.MaxDeliver = 2 }, &fakellm.Step{Drop: true}, func(o string) string { return asking("down", o) }, "provider_"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newTestPipeline(t, fakellm.Config{Respond: func(call fakellm.Call) *fakellm.Step {
				if call.Number == 1 || c.second == nil {
					return saying(brokenText)
				}
				return c.second
			}}, func(cfg *config.Config) {
				cfg.Models = append(cfg.Models, configModel("gpt-4o"))
				cfg.Providers[0].Timeout = time.Minute
				cfg.Score.Threshold, cfg.Score.MaxAttempts = 0.6, 3
				if c.change != nil {
					c.change(cfg)
				}
			})
			p.start()
			p.publish("best", c.body(`{}`))
			a := p.await("best")
			require.Len(t, a.Choices, 1, a.raw)
			require.Equal(t, brokenText, a.Choices[0].Message.Content)
			require.Contains(t, a.judged(t).Processor.Quality.Ended, c.ended, a.raw)
			require.GreaterOrEqual(t, a.About.CostUSD, callCost)
		})
	}
}

// The attempts of a route that bring nothing are switched off, and said so.
func TestTheCascadeSwitchesItselfOffWhereItBringsNothing(t *testing.T) {
	t.Parallel()
	p := newCascade(t, []string{brokenText}, func(c *config.Config) { c.Score.MinGainPerUSD = 1 })
	p.start()
	events, err := p.nc.SubscribeSync("llm.events.acme")
	require.NoError(t, err)
	require.NoError(t, p.nc.Flush())
	off := ""
	for i := 0; i < 100 && off == ""; i++ {
		id := fmt.Sprintf("e%d", i)
		p.publish(id, asking(id, `{"route":"harbour","cache":{"mode":"off"}}`))
		if ended := p.await(id).judged(t).Processor.Quality.Ended; strings.HasPrefix(ended, "off: ") {
			off = ended
		}
	}
	require.Contains(t, off, "further answers on this route 0% scored higher")
	m, err := events.NextMsg(5 * time.Second)
	require.NoError(t, err)
	require.Contains(t, string(m.Data), `"type":"cascade_off"`)
	require.Contains(t, string(m.Data), `"route":"harbour"`)
	p.publish("other", asking("other", `{"route":"elsewhere"}`))
	require.Equal(t, 2, p.await("other").About.Attempts, "other routes go on")
}

func TestTheJudgeDecidesInDoubtOnABudgetOfItsOwn(t *testing.T) {
	t.Parallel()
	doubtful := "Boats." // a few words: in doubt
	p := newTestPipeline(t, fakellm.Config{Respond: func(call fakellm.Call) *fakellm.Step {
		if strings.Contains(string(call.Body), "You grade an answer") {
			return saying(`{"reason": "It does what was asked.", "grade": 4}`)
		}
		return saying(doubtful)
	}}, func(c *config.Config) {
		c.Models = append(c.Models, configModel("gpt-4o"), configModel("judge"))
		c.Score.Metrics = []string{"coherence"}
		c.Score.Judge, c.Score.Threshold, c.Score.JudgeLimit = "judge", 0.6, 1000
	})
	p.start()
	p.publish("doubt", asking("doubt", `{}`))
	j := p.await("doubt").judged(t).Processor
	require.Equal(t, 0.75, j.Quality.Judge)
	require.Equal(t, 0.75, j.Quality.Score, "in doubt the judge's grade counts")
	require.InDelta(t, callCost, j.Quality.JudgeCost, 1e-12)
	require.InDelta(t, callCost, j.CostUSD, 1e-12, "the judge is not on the tenant's bill")
	require.Equal(t, 1, j.Attempts)
	for i := 0; ; i++ { // until the judge's budget is used up: then the score stands, and nothing fails
		require.Less(t, i, 100)
		id := fmt.Sprintf("d%d", i)
		p.publish(id, asking(id, `{}`))
		a := p.await(id)
		require.Len(t, a.Choices, 1, a.raw)
		if a.judged(t).Processor.Quality.Judge == 0 {
			break
		}
	}
}
