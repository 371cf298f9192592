package compress

import "slices"

const (
	// shortTurn is the size in bytes up to which one of the last turns is part of
	// the conversation and stays; what is longer is a document.
	shortTurn = 1000
	// lastTurns is how many turns before the question stay when they are short.
	lastTurns = 2
	// minTerms is how many terms a question must have to stand alone; with less
	// it is read together with the user's turn before.
	minTerms = 3
)

// bodyText is a text of a body with what is known of it.
type bodyText struct {
	part
	from    role
	text    string
	message int
	cached  bool // the provider keeps it in its prompt cache
}

// readTexts unquotes the texts of a body.
func readTexts(body []byte) []bodyText {
	var texts []bodyText
	number := 0
	eachMessage(body, func(m *message) {
		for _, p := range m.parts {
			if text, ok := unquote(body[p.start:p.end]); ok {
				texts = append(texts, bodyText{part: p, from: m.from, text: text, message: number})
			}
		}
		number++
	})
	// A mark for the provider's cache holds for everything before it.
	for i := len(texts) - 1; i >= 0; i-- {
		texts[i].cached = texts[i].part.cached || i+1 < len(texts) && texts[i+1].cached
	}
	return texts
}

// extractTexts runs the semantic pass over the documents, old turns and tool
// results of a body and puts what is left in their place.
func (c *Compressor) extractTexts(texts []bodyText, config Config, o Options, result *Result) {
	sources, question := sourcesOf(texts)
	if o.Query != "" {
		question = o.Query
	}
	sources = o.Prefix.spare(sources, texts, config.TargetRatio, c.count)
	x, ok := extract(sources, question, config, o.Keep, c.count)
	if !ok {
		return
	}
	for i, s := range sources {
		texts[s.id].text = x.texts[i]
	}
	result.extracted(x, x.original-x.sent)
}

// sourcesOf gives what of a conversation may be compressed, and the question
// that it is compressed for: that of the last user turn.
func sourcesOf(texts []bodyText) (sources []source, question string) {
	last := -1 // the last text of the user
	for i, t := range texts {
		if t.from == roleUser {
			last = i
		}
	}
	if last < 0 {
		return nil, ""
	}
	for i, t := range texts {
		if s, ok := sourceOf(texts, i, last); ok && !t.cached {
			s.id = i
			sources = append(sources, s)
		}
	}
	return sources, questionOf(texts, last)
}

// sourceOf gives the part of a text that may be compressed.
func sourceOf(texts []bodyText, i, last int) (source, bool) {
	t := texts[i]
	s := source{text: t.text, end: len(t.text)}
	switch {
	case t.from == roleSystem || t.from == roleOther:
		return s, false
	case t.from == roleTool:
	case t.message == texts[last].message:
		s.start, s.end, _ = splitPrompt(t.text)
	case i > last: // what the model has begun to answer
		return s, false
	case texts[last].message-t.message <= lastTurns && len(t.text) <= shortTurn:
		return s, false
	case t.from == roleUser:
		if start, end, _ := splitPrompt(t.text); end > start {
			s.start, s.end = start, end
		}
	}
	return s, s.end-s.start >= minDocuments
}

// questionOf gives the text of the question: the tail or head of the user's
// last turn, the whole turn when it is short, and the turn before when it says
// too little.
func questionOf(texts []bodyText, last int) string {
	_, _, question := splitPrompt(texts[last].text)
	if question == "" && len(texts[last].text) <= maxTail {
		question = texts[last].text
	}
	if question == "" {
		return ""
	}
	if newQuery(question).size >= minTerms {
		return question
	}
	for i := last - 1; i >= 0; i-- {
		if texts[i].from == roleUser && texts[i].message < texts[last].message && len(texts[i].text) <= shortTurn {
			return texts[i].text + "\n" + question
		}
	}
	return question
}

// Prefix is what is known about the provider's prompt cache for a request.
type Prefix struct {
	// Messages is how many messages at the start of the request the provider has
	// probably cached. 0 means none.
	Messages int
	// Hit is the probability of that, 0 to 1.
	Hit float64
	// Price is what a cached token costs in relation to one that is not; OpenAI
	// and Anthropic take 0.1 to 0.5.
	Price float64
}

// spare leaves out the sources within the cached prefix where the cache saves
// more than compression: a prefix that is changed is read at the full price.
func (p Prefix) spare(sources []source, texts []bodyText, ratio float64, count Counter) []source {
	if p.Messages == 0 {
		return sources
	}
	prefix, within := 0, 0
	for _, t := range texts {
		if t.message < p.Messages {
			prefix += count(t.text)
		}
	}
	for _, s := range sources {
		if texts[s.id].message < p.Messages {
			within += count(s.text[s.start:s.end])
		}
	}
	saved := float64(within) * (1 - ratio)
	lost := p.Hit * float64(prefix) * (1 - p.Price)
	if saved > lost {
		return sources
	}
	return slices.DeleteFunc(sources, func(s source) bool { return texts[s.id].message < p.Messages })
}
