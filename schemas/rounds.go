package schemas

import "github.com/go-json-experiment/json/jsontext"

// Attempt is one of several answers that were asked for on behalf of a request.
type Attempt struct {
	Model   string   `json:"model"`
	Score   float64  `json:"score"`
	Flags   []string `json:"flags,omitzero"`
	CostUSD float64  `json:"cost_usd"`
	Usage   Usage    `json:"usage"`
	Used    bool     `json:"used,omitzero" jsonschema:"this answer went out"`
}

// Best is the best of the answers that were judged and not good enough. The
// answer itself is in the record of its round.
type Best struct {
	Attempt    int            `json:"attempt"` // its place among the attempts
	Round      int            `json:"round,omitzero"`
	Score      float64        `json:"score"`
	Cache      string         `json:"cache,omitzero"`
	Selected   Selected       `json:"selected"`
	Parameters jsontext.Value `json:"parameters,omitzero"`
	Quality    jsontext.Value `json:"quality"`
	Structure  jsontext.Value `json:"structure,omitzero"`
	// Ended says why there is no better answer to come; empty while one is asked for.
	Ended string `json:"ended,omitzero"`
}

// EndWithBest ends the attempts at a better answer: the best so far goes out.
// The reason is for the response. It is false where there is none.
func (s *State) EndWithBest(reason string) bool {
	if s.Best == nil {
		return false
	}
	best := *s.Best // others may share it
	best.Ended = reason
	s.Best = &best
	return true
}

// GivenUp reports whether the request ends with the best answer so far, which
// does not travel with it.
func (s *State) GivenUp() bool { return s.Best != nil && s.Best.Ended != "" }

// Minus gives what is left of u without v.
func (u Usage) Minus(v Usage) Usage {
	return Usage{
		PromptTokens:     u.PromptTokens - v.PromptTokens,
		CompletionTokens: u.CompletionTokens - v.CompletionTokens,
		TotalTokens:      u.TotalTokens - v.TotalTokens,
		CachedTokens:     u.CachedTokens - v.CachedTokens,
		ReasoningTokens:  u.ReasoningTokens - v.ReasoningTokens,
	}
}
