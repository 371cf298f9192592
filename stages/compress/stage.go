package compress

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// report is what the response says of the compression.
type report struct {
	Saved        map[string]int `json:"saved"` // tokens, by pass
	Preservation float64        `json:"preservation"`
	Lossy        bool           `json:"lossy"`
}

// Stage makes the compress stage. Requests that cannot be made shorter pass as
// they are, and cost one scan.
func Stage(c *Compressor) stages.Stage {
	return stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		verdicts := make([]stages.Verdict, len(requests))
		for i, r := range requests {
			if r.Kind != schemas.Chat {
				continue
			}
			options, err := ParseOptions(r.Asked().Compress)
			if err != nil {
				verdicts[i] = stages.Reject(invalidOptions(err))
				continue
			}
			if result := c.Body(r.Body, options); result.Changed {
				use(r, result)
			}
		}
		return verdicts
	})
}

// use gives the request its shorter body, and keeps what was published.
func use(r *stages.Request, result Result) {
	r.Original, r.Body = r.Published(), result.Body
	r.Tokens = schemas.Tokens{PromptOriginal: result.Original, PromptSent: result.Sent, Saved: result.Saved()}
	about := report{Saved: map[string]int{}, Preservation: result.Preservation, Lossy: result.Lossy()}
	for _, s := range result.Savings {
		about.Saved[s.Pass] += s.Tokens
	}
	r.Compress, _ = json.Marshal(&about, json.Deterministic(true))
}

func invalidOptions(err error) error {
	if field, ok := errors.AsType[*FieldError](err); ok {
		param := "processor.compress"
		if field.Field != "" {
			param += "." + field.Field
		}
		return schemas.Invalid(schemas.CodeInvalidField, param, "%s", field.Reason)
	}
	return schemas.Invalid(schemas.CodeInvalidField, "processor.compress", "%v", err)
}
