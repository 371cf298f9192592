package tokens

import (
	"fmt"
	"math"
)

// Counter counts the tokens of requests by the rules of a table. It is safe
// for concurrent use.
type Counter struct {
	table Table
}

// NewCounter returns a counter by the table. A table without a rule for every
// model (one whose prefix is empty) gets the one of DefaultTable. It is an
// error if a rule names an encoding that Load does not know, or if its factor
// is negative.
func NewCounter(table Table) (*Counter, error) {
	table = append(DefaultTable()[:1:1], table...)
	for i, rule := range table {
		if _, ok := encodings[rule.Encoding]; !ok {
			_, err := Load(rule.Encoding)
			return nil, fmt.Errorf("reading the rule for models %q: %w", rule.Prefix, err)
		}
		if rule.Factor < 0 || math.IsNaN(rule.Factor) || math.IsInf(rule.Factor, 0) {
			return nil, fmt.Errorf("reading the rule for models %q: factor %v: want a positive number", rule.Prefix, rule.Factor)
		}
		if rule.Factor == 0 {
			table[i].Factor = 1
		}
	}
	return &Counter{table: table}, nil
}

// Count is what a request is estimated to be billed for, in prompt tokens.
type Count struct {
	Messages int // texts of messages, with what their form costs
	Tools    int // definitions of functions and of the answer's schema
	Images   int
	Longest  int // of an embeddings request: the longest of its inputs
}

// Total is the sum.
func (c Count) Total() int { return c.Messages + c.Tools + c.Images }

// Text counts the tokens of a text for a model, as in a completion.
func (c *Counter) Text(model, text string) (int, error) {
	rule, enc, err := c.rule(model)
	if err != nil {
		return 0, err
	}
	return rule.scale(enc.Count(text)), nil
}

func (c *Counter) rule(model string) (Rule, *Encoding, error) {
	rule, _ := c.table.Lookup(model)
	enc, err := Load(rule.Encoding)
	return rule, enc, err
}

func (r Rule) scale(count int) int { return int(math.Ceil(float64(count) * r.Factor)) }
