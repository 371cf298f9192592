// Package compress makes prompts shorter and keeps what they say.
//
// Structural passes rewrite JSON, tables, logs, repeated blocks and white space
// without losing anything; each verifies its own result and is kept only if it
// saves tokens. The semantic pass keeps of documents, old turns and tool output
// what the question needs. The package knows nothing of transport and works on
// raw chat completion bodies and on texts.
package compress

import "slices"

// Counter counts the tokens of a text. It must be safe for concurrent use.
type Counter func(text string) int

// Compressor compresses bodies and texts. It is safe for concurrent use.
type Compressor struct {
	config Config
	count  Counter
	passes []pass // of the configuration
}

// New gives a compressor. An error is a *FieldError of the configuration.
func New(config Config, count Counter) (*Compressor, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Compressor{config: config, count: count, passes: selectPasses(config)}, nil
}

// Result says what became of a body or a text.
type Result struct {
	// Body is the body to send. It is the slice that was given when nothing
	// could be saved. Only Compressor.Body sets it.
	Body []byte
	// Text is the text to send. Only Compressor.Text sets it.
	Text string
	// Changed is true when something was saved.
	Changed bool
	// Original and Sent are the tokens of the texts that were changed, before
	// and after; of the whole text for Compressor.Text. The tokens of an
	// unchanged body are not counted: both are 0.
	Original, Sent int
	// Savings says which pass saved what, in the order in which they ran.
	Savings []Saving
	// Preservation estimates how much of what the question needs is left, 0 to
	// 1. It is 1 when the semantic pass removed nothing.
	Preservation float64
	// QueryMatch is false when the semantic pass ran without a query, or none of
	// the query's words occurred.
	QueryMatch bool
}

// Saved is the number of tokens that were saved.
func (r Result) Saved() int { return r.Original - r.Sent }

// Lossy reports whether something was removed that cannot be restored.
func (r Result) Lossy() bool {
	return slices.ContainsFunc(r.Savings, func(s Saving) bool { return s.Lossy })
}

// settings gives what holds for one request.
func (c *Compressor) settings(o Options) (Config, []pass) {
	config := o.apply(c.config)
	if o.Techniques == nil && o.PreserveMeaning == nil {
		return config, c.passes
	}
	return config, selectPasses(config)
}

// Body compresses the message contents of a chat completions body. The body
// must be valid JSON without repeated members, nested to a bounded depth. Every
// byte outside of the contents that were shortened survives as it was. The
// given slice is never written to; the result holds it when nothing was saved.
func (c *Compressor) Body(body []byte, o Options) Result {
	result := Result{Body: body, Preservation: 1}
	config, passes := c.settings(o)
	if !config.Enabled {
		return result
	}
	var edits []bodyEdit
	if slices.Contains(config.Techniques, Semantic) {
		edits = c.semantic(body, passes, config, o, &result)
	} else {
		edits = c.structural(body, passes, &result)
	}
	if len(edits) == 0 {
		return result
	}
	if out, err := spliceBody(body, edits); err == nil {
		result.Body, result.Changed = out, true
	}
	return result
}

// structural gives the edits of the passes that pay. It reads nothing but the
// texts that look promising.
func (c *Compressor) structural(body []byte, passes []pass, result *Result) []bodyEdit {
	if len(passes) == 0 {
		return nil
	}
	lossless := !slices.ContainsFunc(passes, func(p pass) bool { return !p.lossless })
	var edits []bodyEdit
	eachMessage(body, func(m *message) {
		for _, p := range m.parts {
			if lossless && !promising(body[p.start+1:p.end-1]) {
				continue
			}
			text, ok := unquote(body[p.start:p.end])
			if !ok {
				continue
			}
			if r, ok := rewrite(text, m.from, passes, c.count); ok {
				edits = append(edits, bodyEdit{p, r.text})
				result.Original += r.original
				result.Sent += r.sent
				result.addSavings(r.savings)
			}
		}
	})
	return edits
}

// semantic gives the edits of the structural passes and of the extraction that
// runs on what they leave.
func (c *Compressor) semantic(body []byte, passes []pass, config Config, o Options, result *Result) []bodyEdit {
	given := readTexts(body)
	texts := slices.Clone(given)
	for i, t := range texts {
		if r, ok := rewrite(t.text, t.from, passes, c.count); ok {
			texts[i].text = r.text
			result.addSavings(r.savings)
		}
	}
	c.extractTexts(texts, config, o, result)
	var edits []bodyEdit
	for i, t := range texts {
		if t.text != given[i].text {
			edits = append(edits, bodyEdit{t.part, t.text})
			result.Original += c.count(given[i].text)
			result.Sent += c.count(t.text)
		}
	}
	return edits
}

func (r *Result) addSavings(savings []Saving) {
	for _, s := range savings {
		r.Savings = addSaving(r.Savings, s)
	}
}

// extracted notes what the semantic pass did.
func (r *Result) extracted(x extraction, saved int) {
	r.Preservation, r.QueryMatch = x.preservation, x.queryMatch
	r.Savings = addSaving(r.Savings, Saving{Pass: Semantic, Tokens: saved, Lossy: true})
}

// Text compresses a text that stands alone. With a query the whole text is read
// for it; without one the semantic pass looks for a question in the text.
func (c *Compressor) Text(text, query string, o Options) Result {
	result := Result{Text: text, Preservation: 1}
	config, passes := c.settings(o)
	result.Original = c.count(text)
	result.Sent = result.Original
	if !config.Enabled {
		return result
	}
	if r, ok := rewrite(text, roleOther, passes, c.count); ok {
		result.Text, result.Sent, result.Savings, result.Changed = r.text, r.sent, r.savings, true
	}
	if slices.Contains(config.Techniques, Semantic) {
		c.extractText(&result, query, config, o)
	}
	return result
}

func (c *Compressor) extractText(result *Result, query string, config Config, o Options) {
	if query == "" {
		query = o.Query
	}
	s := source{text: result.Text, end: len(result.Text)}
	if query == "" {
		s.start, s.end, query = splitPrompt(s.text)
	}
	if s.end == s.start {
		return
	}
	x, ok := extract([]source{s}, query, config, o.Keep, c.count)
	if !ok {
		return
	}
	sent := c.count(x.texts[0])
	if sent >= result.Sent {
		return
	}
	result.extracted(x, result.Sent-sent)
	result.Text, result.Sent, result.Changed = x.texts[0], sent, true
}
