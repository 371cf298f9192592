package schemas

import (
	"math"
	"strings"

	"github.com/go-json-experiment/json"
)

// MaxFeedback bounds a message of feedback, in bytes.
const MaxFeedback = 16 << 10

// Feedback is what an application says of an answer: a score in 0..1, or a label.
type Feedback struct {
	ID    string   `json:"id"`
	Score *float64 `json:"score,omitzero"`
	Label string   `json:"label,omitzero"`
}

// goodLabels and badLabels are what a label may say; upper and lower case are alike.
var (
	goodLabels = []string{"good", "correct", "right", "accepted", "up", "yes", "true"}
	badLabels  = []string{"bad", "incorrect", "wrong", "rejected", "down", "no", "false"}
)

// ParseFeedback reads a message of feedback. Members that it does not know are
// the application's own. The value is what is thought of the answer, in 0..1.
func ParseFeedback(data []byte) (f Feedback, value float64, err error) {
	if len(data) > MaxFeedback {
		return f, 0, Invalid(CodeTooLarge, "", "feedback has %d bytes, it may have %d", len(data), MaxFeedback)
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, 0, Invalid(CodeInvalidJSON, "", `feedback is an object like {"id": "...", "score": 0.8} or {"id": "...", "label": "good"}`)
	}
	switch {
	case !ValidName(f.ID):
		return f, 0, Invalid(CodeInvalidField, "id", "the id is not 1 to %d characters of A-Z a-z 0-9 _ -", MaxNameLength)
	case f.Score != nil:
		if !(*f.Score >= 0 && *f.Score <= 1) || math.IsNaN(*f.Score) {
			return f, 0, Invalid(CodeInvalidField, "score", "the score is not within 0 and 1")
		}
		return f, *f.Score, nil
	}
	for _, list := range []struct {
		labels []string
		value  float64
	}{{goodLabels, 1}, {badLabels, 0}} {
		for _, label := range list.labels {
			if strings.EqualFold(f.Label, label) {
				return f, list.value, nil
			}
		}
	}
	return f, 0, Invalid(CodeInvalidField, "label", "%.40q is none of %s, %s; or give a score", f.Label, strings.Join(goodLabels, ", "), strings.Join(badLabels, ", "))
}
