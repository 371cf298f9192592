package compress

import "strings"

// role is who wrote a text: what a pass may do to it depends on that.
type role uint8

const (
	roleOther role = iota // a text that stands alone
	roleSystem
	roleUser
	roleAssistant
	roleTool
)

// edit replaces text[start:end] by with.
type edit struct {
	start, end int
	with       string
}

// pass rewrites the parts of a text that it understands. find returns edits in
// order that do not overlap, each verified by the pass; whether an edit is kept
// is decided by the tokens that it saves.
type pass struct {
	name     string
	lossless bool
	find     func(text string, from role) []edit
	// minGain is the share of the tokens that an edit must save at least. It is
	// above zero for passes whose result is harder to read than the original.
	minGain float64
}

// passes in the order in which they run: what hides structure goes first,
// what needs the lines as they were before what joins them.
var passes = []pass{
	{name: Ansi, lossless: true, find: ansiEdits},
	{name: DataURIs, find: dataURIEdits},
	{name: HTML, find: htmlEdits},
	{name: Comments, find: commentEdits},
	{name: JSON, lossless: true, find: jsonEdits},
	{name: Tables, lossless: true, find: tableEdits},
	{name: LogSummary, find: logSummaryEdits},
	{name: Logs, lossless: true, find: logEdits, minGain: 0.1},
	{name: Space, lossless: true, find: spaceEdits},
	{name: Repeats, lossless: true, find: repeatEdits},
}

// selectPasses gives the passes that a configuration asks for.
func selectPasses(c Config) []pass {
	var chosen []pass
	for _, p := range passes {
		if wantsPass(c, p) {
			chosen = append(chosen, p)
		}
	}
	return chosen
}

func wantsPass(c Config, p pass) bool {
	for _, name := range c.Techniques {
		if name == p.name {
			return true
		}
		if name == Structural && (p.lossless || !c.PreserveMeaning && p.name != Comments) {
			return true
		}
	}
	return false
}

// Saving is what one pass saved.
type Saving struct {
	Pass   string `json:"pass"`
	Tokens int    `json:"tokens"`
	Lossy  bool   `json:"lossy,omitempty"`
}

// maxRounds bounds how often the passes run over a text. One pass can make
// room for another (a table that a page of HTML held), so they run until
// nothing changes: what they gave is then what they give for their own result.
const maxRounds = 4

// rewritten is the outcome of the structural passes on one text.
type rewritten struct {
	text     string
	original int // tokens
	sent     int // tokens
	savings  []Saving
}

// rewrite runs the passes over a text until nothing changes. ok is false when
// the text stays as it is: nothing to save, or no stable result in maxRounds.
func rewrite(text string, from role, passes []pass, count Counter) (r rewritten, ok bool) {
	if strings.Contains(text, noticeMark) {
		return r, false // the semantic pass wrote it, after these passes
	}
	r.text = text
	stable := false
	for round := 0; round <= maxRounds && !stable; round++ {
		next, changed := rewriteOnce(r.text, from, passes, count, &r.savings)
		r.text, stable, ok = next, !changed, ok || changed
	}
	if !ok || !stable {
		return rewritten{}, false
	}
	// Tokens join across the borders of an edit, so the sum of what the edits
	// saved is not the whole truth.
	r.original, r.sent = count(text), count(r.text)
	return r, r.sent < r.original
}

func rewriteOnce(text string, from role, passes []pass, count Counter, savings *[]Saving) (string, bool) {
	changed := false
	for _, p := range passes {
		kept, saved := worthwhile(text, p.find(text, from), p.minGain, count)
		if len(kept) == 0 {
			continue
		}
		text = splice(text, kept)
		changed = true
		*savings = addSaving(*savings, Saving{Pass: p.name, Tokens: saved, Lossy: !p.lossless})
	}
	return text, changed
}

// worthwhile keeps the edits after which there are fewer tokens.
func worthwhile(text string, edits []edit, minGain float64, count Counter) (kept []edit, saved int) {
	for _, e := range edits {
		old := text[e.start:e.end]
		if len(e.with) >= len(old) {
			continue
		}
		before, after := count(old), count(e.with)
		if after < before && float64(before-after) >= minGain*float64(before) {
			kept = append(kept, e)
			saved += before - after
		}
	}
	return kept, saved
}

func splice(text string, edits []edit) string {
	var b strings.Builder
	b.Grow(len(text))
	at := 0
	for _, e := range edits {
		b.WriteString(text[at:e.start])
		b.WriteString(e.with)
		at = e.end
	}
	b.WriteString(text[at:])
	return b.String()
}

func addSaving(list []Saving, s Saving) []Saving {
	for i := range list {
		if list[i].Pass == s.Pass {
			list[i].Tokens += s.Tokens
			return list
		}
	}
	return append(list, s)
}
