package selection

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/adpa/processor/schemas"
)

// Options is what one request says of how its model is chosen: the object
// processor.select. What it leaves out is as configured; of the weights, one
// that is named leaves none for those that are not.
type Options struct {
	Quality       *float64 `json:"quality,omitempty"`
	Speed         *float64 `json:"speed,omitempty"`
	Cost          *float64 `json:"cost,omitempty"`
	MaxCostUSD    *float64 `json:"max_cost_usd,omitempty"`
	MinQuality    *float64 `json:"min_quality,omitempty"`
	Deterministic *bool    `json:"deterministic,omitempty"`
}

// ParseOptions reads the raw value of processor.select: an object, null or
// nothing. Its error is the application's.
func ParseOptions(raw []byte) (Options, error) {
	var o Options
	if len(raw) == 0 || string(raw) == "null" {
		return o, nil
	}
	if jsontext.Value(raw).Kind() != '{' {
		return o, wrong("", `must be an object like {"quality": 0.6, "cost": 0.4} or {"max_cost_usd": 0.01, "min_quality": 0.9}`)
	}
	if err := json.Unmarshal(raw, &o, json.RejectUnknownMembers(true)); err != nil {
		return Options{}, wrong("", "takes the numbers quality, speed, cost, max_cost_usd and min_quality, and deterministic, which is true or false")
	}
	return o, o.validate()
}

func (o *Options) validate() error {
	sum, named := 0.0, false
	for _, w := range []struct {
		name  string
		value *float64
		most  float64
	}{
		{"quality", o.Quality, 1e6}, {"speed", o.Speed, 1e6}, {"cost", o.Cost, 1e6},
		{"max_cost_usd", o.MaxCostUSD, 1e6}, {"min_quality", o.MinQuality, 1},
	} {
		if w.value == nil {
			continue
		}
		if !(*w.value >= 0 && *w.value <= w.most) {
			return wrong("."+w.name, fmt.Sprintf("%v is not within 0 and %v", *w.value, w.most))
		}
		if w.name == "quality" || w.name == "speed" || w.name == "cost" {
			sum, named = sum+*w.value, true
		}
	}
	if named && sum == 0 {
		return wrong("", "at least one of quality, speed and cost must weigh more than 0")
	}
	return nil
}

func wrong(member, reason string) error {
	return schemas.Invalid(schemas.CodeInvalidField, "processor.select"+member, "%s", reason)
}

// Apply lays the request's settings over the configured ones in ask.
func (o *Options) Apply(ask *Ask) {
	if o.Quality != nil || o.Speed != nil || o.Cost != nil {
		ask.Weights = Weights{value(o.Quality), value(o.Speed), value(o.Cost)}
	}
	if o.MaxCostUSD != nil {
		ask.MaxCostUSD = *o.MaxCostUSD
	}
	if o.MinQuality != nil {
		ask.MinQuality = *o.MinQuality
	}
	if o.Deterministic != nil {
		ask.Deterministic = *o.Deterministic
	}
}

func value(p *float64) float64 {
	if p == nil {
		return 0
	}
	return *p
}
