package score

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// kept are the answers of earlier rounds.
type kept map[int][]byte

func (k kept) Keep(_ context.Context, r *stages.Request) error {
	k[r.Round] = r.Answer
	return nil
}

func (k kept) Find(_ context.Context, _ *stages.Request, round int) ([]byte, error) {
	if k[round] == nil {
		return nil, errors.New("gone")
	}
	return k[round], nil
}

func scoredRequest(options string) *stages.Request {
	body := ask(question)
	r := &stages.Request{Handoff: schemas.Handoff{State: schemas.State{
		ID: "a", Tenant: "t", Kind: schemas.Chat, Model: "m", Options: []byte(options), Cache: "miss",
		Selected: schemas.Selected{Model: "m"}, Calls: 1, CostUSD: 1, Usage: schemas.Usage{TotalTokens: 10},
	}, Body: body}}
	return r
}

func decide(t *testing.T, s *Stage, r *stages.Request) stages.Verdict {
	t.Helper()
	done := make(chan stages.Verdict, 1)
	s.Run(t.Context(), []*stages.Request{r}, func(_ *stages.Request, v stages.Verdict) { done <- v })
	return <-done
}

func cascading(answers Answers, better bool) *Stage {
	cfg := DefaultConfig()
	cfg.Threshold, cfg.MaxAttempts = 0.6, 3
	return NewStage(cfg, Deps{Scorer: New(cfg), Answers: answers, Better: func(*stages.Request) bool { return better }})
}

func TestABetterModelIsAskedAndToldWhatWasWrong(t *testing.T) {
	s := cascading(kept{}, true)
	r := scoredRequest(`{"quality":{"threshold":0.9}}`)
	r.Answer = reply(strings.Repeat("The harbour lies quiet. ", 40), "stop")
	asked := string(r.Body)
	v := decide(t, s, r)
	require.Equal(t, stages.ActionSkip, v.Action)
	require.Equal(t, stages.Generate, v.Stage)
	require.Equal(t, stages.ActionReply, v.Full.Action, "if generate is full the best so far goes out")
	require.Contains(t, string(v.Full.Response), "takes no more for now")
	require.Contains(t, string(v.Full.Response), "The harbour lies quiet.")
	require.Equal(t, []string{"m"}, r.Tried)
	require.Nil(t, r.Answer)
	require.Equal(t, 1, r.Round)
	require.Contains(t, string(r.Body), "it repeats itself")
	require.Equal(t, 1.0, r.Earlier.CostUSD)

	r.Answer, r.Calls, r.CostUSD, r.Selected.Model = reply(answer, "stop"), 2, 3, "n"
	require.Equal(t, stages.ActionAnswer, decide(t, s, r).Action)
	require.Equal(t, asked, string(r.Body), "what is scored is the question as it was asked")
	require.Len(t, r.Attempts, 2)
	require.Equal(t, []bool{false, true}, []bool{r.Attempts[0].Used, r.Attempts[1].Used})
	require.Equal(t, []float64{1, 2}, []float64{r.Attempts[0].CostUSD, r.Attempts[1].CostUSD})
}

func TestAHitThatIsNotGoodEnoughIsAskedAnewAndKept(t *testing.T) {
	answers := kept{}
	s := cascading(answers, false)
	r := scoredRequest(`{"quality":{"max_attempts":1}}`)
	r.Cache, r.Calls, r.CostUSD = "hit", 0, 0
	poor := reply(strings.Repeat("The harbour lies quiet. ", 40), "stop")
	r.Answer = poor
	require.Equal(t, stages.ActionSkip, decide(t, s, r).Action)
	require.Equal(t, "miss", r.Cache)
	require.Equal(t, schemas.Spent{}, r.Earlier)
	require.True(t, r.EndWithBest("insufficient_quota"))
	require.Equal(t, stages.ActionAnswer, decide(t, s, r).Action)
	require.Equal(t, string(poor), string(r.Answer))
	require.Contains(t, string(r.Quality), `"ended":"insufficient_quota"`)

	settled := scoredRequest(``)
	settled.Cache, settled.Calls, settled.Settled, settled.Answer = "hit", 0, true, poor
	require.Equal(t, stages.ActionAnswer, decide(t, s, settled).Action, "it was the best of all")
}

func TestWhyThereIsNoOtherAttempt(t *testing.T) {
	poor := reply("no", "length")
	for name, c := range map[string]struct {
		change func(*stages.Request)
		ended  string
	}{
		"attempts":    {func(r *stages.Request) { r.Options = []byte(`{"quality":{"max_attempts":1}}`) }, endedAttempts},
		"streamed":    {func(r *stages.Request) { r.Stream = true }, endedStreamed},
		"deadline":    {func(r *stages.Request) { r.Deadline = 1 }, endedDeadline},
		"temperature": {func(r *stages.Request) { r.Body = schemas.SetMember(r.Body, "temperature", []byte("0")) }, endedModels},
		"auto":        {func(r *stages.Request) { r.Model = "auto" }, endedModels},
	} {
		t.Run(name, func(t *testing.T) {
			r := scoredRequest(``)
			r.Answer = poor
			c.change(r)
			require.Equal(t, stages.ActionAnswer, decide(t, cascading(kept{}, false), r).Action)
			require.Contains(t, string(r.Quality), fmt.Sprintf(`"ended":%q`, c.ended))
		})
	}
	r := scoredRequest(``)
	r.Answer = poor
	require.Equal(t, stages.ActionSkip, decide(t, cascading(kept{}, false), r).Action, "the same model may answer otherwise")
}

func TestWishesThatCannotBeRead(t *testing.T) {
	s := cascading(kept{}, false)
	for options, param := range map[string]string{
		`{"quality":7}`:                           "processor.quality",
		`{"quality":"high"}`:                      "processor.quality",
		`{"quality":{"threshold":2}}`:             "processor.quality.threshold",
		`{"quality":{"threshold":"0.9"}}`:         "processor.quality.threshold",
		`{"quality":{"max_attempts":0}}`:          "processor.quality.max_attempts",
		`{"quality":{"max_attempts":1.5}}`:        "processor.quality.max_attempts",
		`{"quality":{"metrics":"relevance"}}`:     "processor.quality.metrics",
		`{"quality":{"metrics":["taste"]}}`:       "processor.quality.metrics",
		`{"quality":{"required":1}}`:              "processor.quality.required",
		`{"quality":{"threshhold":0.5}}`:          "processor.quality",
		`{"quality":{"threshold":0.5,"more":[]}}`: "processor.quality",
	} {
		verdict, decided := s.Ask(t.Context(), scoredRequest(options))
		require.True(t, decided, options)
		var e *schemas.Error
		require.ErrorAs(t, verdict.Err, &e)
		require.Equal(t, param, e.Param, options)
	}
	for _, options := range []string{``, `{"quality":false}`, `{"quality":true}`, `{"quality":null}`, `{"quality":{}}`, `{"quality":{"threshold":0.9,"max_attempts":2,"required":true,"metrics":["coherence"]}}`} {
		_, decided := s.Ask(t.Context(), scoredRequest(options))
		require.False(t, decided, options)
	}
}
