package compress

import (
	"slices"
	"strings"
)

// source is a text of which a part may be compressed by extraction.
type source struct {
	text       string
	start, end int // the part; what is outside stays as it is
	id         int // for the caller
}

// extraction is the outcome of the semantic pass.
type extraction struct {
	texts          []string // by source; as given where nothing was left out
	original, sent int      // tokens of the compressible parts
	preservation   float64
	queryMatch     bool
}

// maxTries bounds how often a choice is made again because the tokens that were
// counted are more than those that were added up.
const maxTries = 6

// extract keeps of the sources what the query needs. ok is false when they stay
// as they are: nothing to leave out, nothing asked for, or compressed before.
func extract(sources []source, queryText string, config Config, keep []string, count Counter) (x extraction, ok bool) {
	g, bounded := goalOf(config)
	if len(sources) == 0 || !bounded || compressedBefore(sources) {
		return x, false
	}
	o := &outline{}
	for _, s := range sources {
		o.addText(s.text, s.start, s.end)
		x.original += count(s.text[s.start:s.end])
	}
	for i := range o.segments {
		o.segments[i].tokens = int32(count(o.of(i)))
	}
	q := newQuery(queryText)
	var w worth
	if score, matched := rank(o, q); matched {
		x.queryMatch = true
		w = worthOf(o, score)
		g.rescue = rescued(o, q, score)
	} else {
		facts := factsOf(o)
		w = worthOfFacts(o, rankWithoutQuery(o, facts), facts)
	}
	g.always = marked(o, keep)
	ok = x.fit(o, w, g, int(config.TargetRatio*float64(x.original)), sources, count)
	return x, ok
}

// goalOf gives the floor that holds; bounded is false when neither ratio nor
// threshold asks for anything.
func goalOf(config Config) (g goal, bounded bool) {
	if config.PreserveMeaning || config.TargetRatio == 0 {
		g.floor = config.QualityThreshold
	}
	return g, config.TargetRatio > 0 && config.TargetRatio < 1 || config.TargetRatio == 0 && g.floor > 0
}

// fit chooses until the tokens of what is emitted are within the budget. It
// reports false when that saves nothing, or would leave nothing but notices.
func (x *extraction) fit(o *outline, w worth, g goal, budget int, sources []source, count Counter) bool {
	g.budget = budget - len(sources)*count(notice)
	for range maxTries {
		p := choose(o, w, g)
		if !slices.Contains(p.keep, true) {
			return false
		}
		x.preservation = p.preservation
		x.emit(o, p.keep, sources, count)
		if x.sent <= budget || p.kept > g.budget { // or the floor decides
			break
		}
		g.budget = p.kept - max(1, x.sent-budget)
	}
	return x.sent < x.original
}

// emit writes the texts and counts their compressible parts.
func (x *extraction) emit(o *outline, keep []bool, sources []source, count Counter) {
	x.texts, x.sent = x.texts[:0], 0
	first := 0
	for n, s := range sources {
		last := first
		all := true
		for last < len(o.segments) && int(o.segments[last].source) == n {
			all = all && keep[last]
			last++
		}
		part := s.text[s.start:s.end]
		if !all {
			if short := emit(o, keep, first, last); len(short) < len(part) {
				part = short
			}
		}
		x.sent += count(part)
		x.texts = append(x.texts, s.text[:s.start]+part+s.text[s.end:])
		first = last
	}
}

// compressedBefore reports whether a source carries the notice: its shares are
// those of a text that is gone, so it is not compressed again.
func compressedBefore(sources []source) bool {
	for _, s := range sources {
		if strings.Contains(s.text, noticeMark) {
			return true
		}
	}
	return false
}

// rescued gives for each identifier of the query the best segment that holds it.
func rescued(o *outline, q *query, score []float64) []int {
	var found []int
	for _, name := range q.names {
		best := -1
		eachHolder(o, name, func(i int) {
			if o.segments[i].kind != glue && (best < 0 || score[i] > score[best]) {
				best = i
			}
		})
		if best >= 0 {
			found = append(found, best)
		}
	}
	return found
}

// marked gives the segments that hold a string that the caller wants to keep.
func marked(o *outline, keep []string) []int {
	var found []int
	for _, s := range keep {
		if s != "" {
			eachHolder(o, s, func(i int) { found = append(found, i) })
		}
	}
	return found
}

// eachHolder calls visit for the segments in which a string begins.
func eachHolder(o *outline, s string, visit func(segment int)) {
	i := 0
	for n, text := range o.sources {
		for at := 0; at < len(text); {
			k := strings.Index(text[at:], s)
			if k < 0 {
				break
			}
			at += k
			for i < len(o.segments) && (int(o.segments[i].source) < n || int(o.segments[i].source) == n && o.segments[i].end <= at) {
				i++
			}
			if i < len(o.segments) && int(o.segments[i].source) == n && o.segments[i].start <= at && standsAlone(text, at, at+len(s)) {
				visit(i)
			}
			at += len(s)
		}
	}
}

// standsAlone reports whether text[start:end] is not a part of a longer word.
func standsAlone(text string, start, end int) bool {
	return (start == 0 || !wordByte[text[start-1]] || !wordByte[text[start]]) &&
		(end == len(text) || !wordByte[text[end]] || !wordByte[text[end-1]])
}
