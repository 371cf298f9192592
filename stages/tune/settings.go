package tune

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Range is where the values of a parameter are taken from: so many, evenly
// spread from Min to Max, both included.
type Range struct {
	// Min is the least value.
	Min float64 `yaml:"min" json:"min"`
	// Max is the greatest value.
	Max float64 `yaml:"max" json:"max"`
	// Steps is how many values are tried, 1 to 20.
	Steps int `yaml:"steps" json:"steps"`
}

// DefaultRanges are those of the parameters that may be tuned without a range of
// their own. Together with the setting that leaves all as it is, those of
// temperature and top_p make ten.
func DefaultRanges() map[string]Range {
	return map[string]Range{
		"temperature":       {0, 1, 5},
		"top_p":             {0.6, 0.9, 4},
		"frequency_penalty": {0.2, 0.6, 3},
		"presence_penalty":  {0.2, 0.6, 3},
	}
}

// fixed are numeric members of a request that are no matter of taste: what they
// change is what was asked for, what it may cost, or that it can be repeated.
var fixed = []string{"n", "seed", "max_tokens", "max_completion_tokens", "top_logprobs", "best_of", "dimensions"}

// ValidName reports whether a parameter may be tuned.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 64 || slices.Contains(fixed, name) {
		return false
	}
	return strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// Validate says what is wrong with a range, and what would be right.
func (r Range) Validate() error {
	switch {
	case !(math.Abs(r.Min) <= 1e6 && math.Abs(r.Max) <= 1e6):
		return fmt.Errorf("%v to %v is not within -1000000 and 1000000", r.Min, r.Max)
	case r.Min > r.Max:
		return fmt.Errorf("min is %v, which is more than max, %v", r.Min, r.Max)
	case r.Steps < 1 || r.Steps > 20:
		return fmt.Errorf("steps: %d is not within 1 and 20", r.Steps)
	}
	return nil
}

// Setting is one value of one parameter. The zero Setting leaves a request as it is.
type Setting struct {
	Parameter string
	Value     string // as in JSON
}

// maxSettings bounds those of one search, so that each gets its trials.
const maxSettings = 40

// settings lists what is tried: a request as it is, and each value of each
// parameter alone. No two parameters are set together: temperature and top_p
// have much the same effect, and providers advise to change one of them.
func settings(names []string, ranges map[string]Range) []Setting {
	list := []Setting{{}}
	for _, name := range names {
		r := ranges[name]
		for i := range r.Steps {
			value := r.Min
			if r.Steps > 1 {
				value += (r.Max - r.Min) * float64(i) / float64(r.Steps-1)
			}
			if len(list) < maxSettings {
				list = append(list, Setting{name, strconv.FormatFloat(math.Round(value*1e4)/1e4, 'f', -1, 64)})
			}
		}
	}
	return list
}

// named is a short name for what is searched, and for what: another search has another.
func named(list []Setting, objective string) string {
	h := fnv.New64a()
	h.Write([]byte(objective))
	for _, s := range list {
		h.Write([]byte("|" + s.Parameter + "=" + s.Value))
	}
	return strconv.FormatUint(h.Sum64(), 36)
}
