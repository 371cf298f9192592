package score

import (
	"context"
	"hash/fnv"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/stages/structure"
)

// Why no better answer is asked for, as the response says.
const (
	endedAttempts = "max_attempts is reached"
	endedDeadline = "the deadline leaves no time for another answer"
	endedModels   = "there is no better model, and nothing to tell this one"
	endedStreamed = "its tokens were streamed already"
	endedFull     = "the generate stage takes no more for now"
	endedOff      = "off: "
)

// below has a request whose answer is not good enough asked again, with the next
// better model or with what was wrong; where that cannot be or is not worth its
// cost, the best answer so far goes out.
func (s *Stage) below(ctx context.Context, r *stages.Request, w want, result Result, score float64) stages.Verdict {
	if s.deps.Rejected != nil {
		s.deps.Rejected(r)
	}
	if s.deps.Answers == nil {
		return s.last(r, w, endedAttempts)
	}
	if len(r.Attempts) == 0 {
		r.Attempts = append(r.Attempts, attempt(r, result, score))
	}
	r.Attempts[len(r.Attempts)-1].Used = false
	if r.Best == nil || score > r.Best.Score {
		r.Best = &schemas.Best{
			Attempt: len(r.Attempts) - 1, Round: r.Round, Score: score, Cache: r.Cache, Selected: r.Selected,
			Parameters: r.Parameters, Quality: r.Quality, Structure: r.Structure,
		}
	}
	wrong, wish := feedback(result)
	if why := s.over(r, w, len(wrong) > 0); why != "" {
		return s.end(ctx, r, w, why)
	}
	if !Paid(r) && s.deps.Answers.Keep(ctx, r) != nil {
		return s.end(ctx, r, w, "the answer could not be kept")
	}
	full := s.full(ctx, r, w)
	if !Paid(r) { // an answer to an equal request: this one's own begin now
		r.Cache, r.Usage = cache.Miss, schemas.Usage{}
	}
	r.Again()
	if len(wrong) > 0 {
		structure.AskAgain(r, wrong, wish)
	}
	r.Answer, r.AnswerRecorded = nil, false
	r.Parameters, r.Structure, r.Quality = nil, nil, nil
	return stages.SkipBackTo(stages.Generate, full)
}

// over says why a request is not asked again, or "". It notes the model that
// did not do where another takes over.
func (s *Stage) over(r *stages.Request, w want, helps bool) string {
	if r.Stream {
		return endedStreamed
	}
	if r.Calls > 0 && r.Round+1 >= w.attempts || r.Round+1 >= schemas.MaxRounds {
		return endedAttempts
	}
	if r.Deadline != 0 && time.Now().Add(lastCall(r)).After(r.Deadline.Time()) {
		return endedDeadline
	}
	if s.deps.Earns != nil {
		if on, because := s.deps.Earns.Allowed(scopeOf(r), r.Key()); !on {
			return endedOff + because
		}
	}
	if n := len(r.Tried); n == 0 || r.Tried[n-1] != r.Selected.Model {
		r.Tried = append(slices.Clone(r.Tried), r.Selected.Model)
	}
	if better := s.deps.Better != nil && s.deps.Better(r); !better && !helps && !sampled(r) {
		return endedModels
	}
	return ""
}

// lastCall is how long the last call of a model took.
func lastCall(r *stages.Request) time.Duration {
	for i := len(r.Stages) - 1; i >= 0; i-- {
		if t := r.Stages[i]; t.Stage == stages.Generate {
			return time.Duration(t.RanMS * float64(time.Millisecond))
		}
	}
	return 0
}

// sampled reports whether a model that was asked for by name may well answer
// the same question otherwise: unless its temperature is 0.
func sampled(r *stages.Request) bool {
	t := 1.0
	if span, ok := schemas.Member(r.Body, "temperature"); ok && json.Unmarshal(span.Of(r.Body), &t) != nil {
		t = 1
	}
	return r.Model == r.Selected.Model && t > 0
}

// feedback gives what a model can be told of its answer, and what is wished
// for instead; nothing where that is no help.
func feedback(r Result) (wrong []string, wish string) {
	for _, f := range r.Flags {
		switch f {
		case Format:
			wrong, wish = append(wrong, "it is not the JSON value alone that was asked for"), "Give the whole answer again, corrected, as one JSON value and with nothing else."
		case Schema:
			wrong, wish = append(wrong, "it does not fit the JSON Schema"), "Give the whole answer again, corrected, as one JSON value that fits the schema and with nothing else."
		case ToolCall:
			wrong, wish = append(wrong, "the tool call cannot be made"), "Make the call again, corrected."
		case Language:
			wrong = append(wrong, "it is in another language than was asked for")
		case Repetition:
			wrong = append(wrong, "it repeats itself")
		case Echo:
			wrong = append(wrong, "it gives the question back")
		}
	}
	if len(wrong) > 0 && r.Reason != "" {
		wrong = append(wrong, r.Reason)
	}
	if wish == "" {
		wish = "Answer the question again, without these faults."
	}
	return wrong, wish
}

// full is what happens where the generate stage takes no more: the best answer
// goes out as it is.
func (s *Stage) full(ctx context.Context, r *stages.Request, w want) stages.Verdict {
	now := *r
	if now.Attempts = slices.Clone(r.Attempts); r.Best != nil {
		best := *r.Best
		now.Best = &best
	}
	if err := s.restore(ctx, &now); err != nil {
		return stages.Retry(err, 0)
	}
	verdict := s.last(&now, w, endedFull)
	if verdict.Action != stages.ActionAnswer {
		return verdict
	}
	response, err := schemas.AnswerResponse(&now.Handoff)
	if err != nil {
		return stages.Reject(err)
	}
	return stages.Reply(response)
}

// end ends a request with the best answer of all rounds.
func (s *Stage) end(ctx context.Context, r *stages.Request, w want, why string) stages.Verdict {
	if err := s.restore(ctx, r); err != nil {
		return stages.Retry(err, 0)
	}
	used := slices.IndexFunc(r.Attempts, func(a schemas.Attempt) bool { return a.Used })
	if s.deps.Won != nil && !slices.ContainsFunc(r.Attempts[used].Flags, isUnfit) {
		s.deps.Won(r)
	}
	return s.last(r, w, why)
}

// restore gives a request the best answer of all rounds. One that cannot be
// found any more gives way to the answer at hand, if there is one.
func (s *Stage) restore(ctx context.Context, r *stages.Request) error {
	b, used := r.Best, len(r.Attempts)-1
	if r.Answer != nil && b.Round == r.Round {
		used = b.Attempt
	} else {
		answer, err := s.deps.Answers.Find(ctx, r, b.Round)
		if err == nil {
			used = b.Attempt
			r.Answer, r.Selected, r.Parameters = answer, b.Selected, b.Parameters
			r.Quality, r.Structure = b.Quality, b.Structure
		} else if r.Answer == nil {
			return err
		}
	}
	for i := range r.Attempts {
		r.Attempts[i].Used = i == used
	}
	return nil
}

func isUnfit(flag string) bool { return slices.Contains(unfit, flag) }

// last ends a request with an answer that is not good enough.
func (s *Stage) last(r *stages.Request, w want, why string) stages.Verdict {
	if w.Required {
		return stages.Fail(belowThreshold(r, w))
	}
	r.Quality = withCascade(r.Quality, why)
	return stages.Answer()
}

func withCascade(quality jsontext.Value, why string) jsontext.Value {
	return schemas.SetMember(quality, "ended", schemas.Quote(why))
}

func belowThreshold(r *stages.Request, w want) error {
	return schemas.Typed(&schemas.Error{
		Type: schemas.QualityType, Code: schemas.CodeQualityBelowThreshold, Param: "processor.quality.threshold",
		Message: "no answer reached the threshold, and processor.quality.required is true; without it the best answer goes out",
		Details: map[string]any{"threshold": w.threshold, "quality": r.Quality, "attempts": r.Calls, "answers": r.Attempts},
	})
}

// RouteOf is the name under which a request's statistics are kept.
func RouteOf(r *stages.Request) string { return r.Asked().Route }

// scopeOf names a route of one tenant: what is measured is told to that tenant alone.
func scopeOf(r *stages.Request) string { return r.Tenant + "/" + RouteOf(r) }

// earned tells what another answer brought.
func (s *Stage) earned(r *stages.Request, score float64) {
	if s.deps.Earns == nil {
		return
	}
	cost := r.CostUSD - r.Earlier.CostUSD
	if change, switched := s.deps.Earns.Observe(scopeOf(r), score-r.Best.Score, cost); switched && s.deps.Switched != nil {
		s.deps.Switched(r, change)
	}
}

// share gives a number in 0..1 that depends on a name alone.
func share(name string) float64 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return float64(mix(uint64(h.Sum32()))%hashedShares) / hashedShares
}
