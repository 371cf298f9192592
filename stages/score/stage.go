package score

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// unfit are the flags of answers that must not be used for later requests.
var unfit = []string{Truncated, Empty, Refusal, Repetition, Language, Format, Schema, Echo, ToolCall}

// Stage makes the score stage, the last one: it judges each answer and ends the
// request with it. unfit, which may be nil, is told of answers that are not to
// be kept for later requests; observe of every score.
func Stage(s *Scorer, rejected func(*stages.Request), observe func(score float64)) stages.Stage {
	return stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		verdicts := make([]stages.Verdict, len(requests))
		for i, r := range requests {
			verdicts[i] = stages.Answer()
			asked := r.Asked().Quality
			if r.Kind != schemas.Chat || string(asked) == "false" {
				continue
			}
			var options schemas.QualityOptions
			if len(asked) > 0 && json.Unmarshal(asked, &options) != nil {
				options = schemas.QualityOptions{}
			}
			result, err := s.Score(promptOf(r), r.Answer, Options{Metrics: options.Metrics})
			if err != nil {
				verdicts[i] = stages.Reject(unreadable(err))
				continue
			}
			r.Quality = quality(result)
			observe(result.Score)
			if rejected != nil && slices.ContainsFunc(unfit, result.Has) {
				rejected(r)
			}
		}
		return verdicts
	})
}

// promptOf gives the body that an answer is judged by: as it was published, or
// as a template made it, where that brought all the messages.
func promptOf(r *stages.Request) []byte {
	if _, ok := schemas.Member(r.Published(), "messages"); ok {
		return r.Published()
	}
	return r.Body
}

func unreadable(err error) error {
	return &schemas.Error{
		Type: schemas.ServerError, Code: schemas.CodeProviderError,
		Message: "the provider's answer is no chat completion", Details: map[string]any{"reason": err.Error()},
	}
}

// quality writes the score, the metrics and the flags as one object.
func quality(r Result) jsontext.Value {
	flags := r.Flags
	if flags == nil {
		flags = []string{}
	}
	out := append([]byte(`{"score":`), shortNumber(r.Score)...)
	for _, m := range r.Metrics {
		out = append(append(append(append(out, ',', '"'), m.Name...), '"', ':'), shortNumber(m.Value)...)
	}
	list, _ := json.Marshal(flags)
	out = append(append(out, `,"flags":`...), list...)
	return append(out, '}')
}

func shortNumber(f float64) []byte {
	text, _ := json.Marshal(float64(int64(f*10000+0.5)) / 10000)
	return text
}
