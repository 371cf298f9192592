package compress

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// segment is the smallest part of a document that is kept or dropped: a
// sentence, a turn of a dialogue, an item of a list, a row of a table, a member
// of JSON, a block of code. White space behind it belongs to it.
type segment struct {
	source     int32 // the text in which it stands
	start, end int
	group      int32 // what surrounds it
	kind       segmentKind
	lineBreak  uint8 // behind it: 0 none, 1 a line ends, 2 a blank line follows
	tokens     int32 // set by the planner
}

type segmentKind uint8

const (
	sentence segmentKind = iota
	turn
	item
	row
	member
	code
	glue // a header or footer: kept if something of its group is
)

// group is a document, or a structure within one whose header and footer are
// kept with any of its parts.
type group struct {
	parent         int32 // -1 for a document
	header, footer int32 // segments, -1 for none
	doc            int32 // the group of the document
	dialogue       bool  // the document is a dialogue
}

// outline is the compressible parts of one or more texts, cut into segments.
type outline struct {
	sources  []string
	segments []segment
	groups   []group

	// Of the text that is being added:
	text     string
	dialogue bool
	scan     int // how many bytes the search for JSON may still look at
}

func (o *outline) of(i int) string {
	s := &o.segments[i]
	return o.sources[s.source][s.start:s.end]
}

func (o *outline) doc(i int) int32 { return o.groups[o.segments[i].group].doc }

const (
	minTurns    = 6  // of a dialogue
	maxSpeakers = 64 // of a dialogue
)

// maxTurn is the length in bytes from which on a turn, an item or a row is cut
// into sentences.
const maxTurn = 1500

// addText cuts text[start:end] into segments and adds them.
func (o *outline) addText(text string, start, end int) {
	o.sources = append(o.sources, text)
	o.text, o.scan = text, 2*(end-start)
	first := len(o.segments)
	o.segments = slices.Grow(o.segments, (end-start)/64+8)
	titled := o.survey(start, end)
	doc := int32(-1)
	parted := true // a blank line came before
	for at := start; at < end; {
		line, next := cutLine(text[:end], at)
		if strings.TrimSpace(line) == "" {
			o.extend(next)
			parted = true
			at = next
			continue
		}
		if doc >= 0 && line[0] == '<' && strings.HasPrefix(line, "</") && isDocName(tagName(line[1:])) {
			o.groups[doc].footer = o.add(doc, glue, at, next)
			at, parted = next, false
			continue
		}
		title := 0
		if titled || !o.dialogue {
			title = titleLen(line)
		}
		if doc < 0 || title > 0 || parted && !titled && !o.dialogue {
			doc = o.openGroup(-1)
			if title > 0 {
				o.groups[doc].header = o.add(doc, glue, at, at+title)
				at = o.skipBlank(at+title, end)
				parted = false
				continue
			}
		}
		parted = false
		at = o.block(doc, at, end)
	}
	o.setBreaks(first)
}

// survey looks over the lines: whether documents have titles, and whether the
// whole is a dialogue.
func (o *outline) survey(start, end int) (titled bool) {
	lines, turns, titles := 0, 0, 0
	speakers := map[string]bool{}
	for at := start; at < end; {
		line, next := cutLine(o.text[:end], at)
		at = next
		if strings.TrimSpace(line) == "" {
			continue
		}
		lines++
		if n := speakerLen(line); n > 0 {
			turns++
			if len(speakers) <= maxSpeakers {
				speakers[line[numberLen(line):n]] = true
			}
		}
		if titleLen(line) > 0 {
			titles++
		}
	}
	// Names that come once each are no speakers but the terms of a list.
	o.dialogue = turns >= minTurns && turns*10 >= lines*6 && len(speakers) <= min(maxSpeakers, turns/3)
	return titles > 0 && !o.dialogue
}

// block adds the segments of what starts at a line and gives the index behind it.
func (o *outline) block(doc int32, at, end int) int {
	line, next := cutLine(o.text[:end], at)
	if mark, info := fenceMark(line); mark != "" {
		return o.fence(doc, at, next, end, mark, info)
	}
	switch line[0] {
	case '{', '[':
		if after := o.json(doc, at, end); after > at {
			return after
		}
	case '|':
		return o.table(doc, at, end)
	}
	if strings.HasPrefix(line, tableRef) || line[0] == '[' && strings.HasSuffix(line, "}:") {
		return o.rows(doc, at, next, end)
	}
	if o.dialogue && speakerLen(line) > 0 {
		o.whole(doc, turn, at, next)
		return next
	}
	if isItem(line) {
		o.whole(doc, item, at, next)
		return next
	}
	return o.prose(doc, at, end)
}

// prose adds the sentences of the lines up to one that starts something else.
func (o *outline) prose(doc int32, at, end int) int {
	from, stop := at, at
	for stop < end {
		line, next := cutLine(o.text[:end], stop)
		if stop > at && (strings.TrimSpace(line) == "" || o.startsBlock(line)) {
			break
		}
		stop = next
		if stop < end && endsLine(line) {
			o.sentences(doc, from, stop)
			from = stop
		}
	}
	o.sentences(doc, from, stop)
	return stop
}

func (o *outline) sentences(doc int32, from, to int) {
	eachSentence(o.text, from, to, func(start, end int) { o.add(doc, sentence, start, end) })
}

// startsBlock reports whether a line does not go on with the paragraph.
func (o *outline) startsBlock(line string) bool {
	mark, _ := fenceMark(line)
	if o.dialogue && speakerLen(line) > 0 {
		return true
	}
	return mark != "" || strings.IndexByte("|{[", line[0]) >= 0 || isItem(line) || !o.dialogue && titleLen(line) > 0
}

// endsLine reports whether a line ends a sentence of its own, rather than
// being wrapped: it is short, as headings and verses are.
func endsLine(line string) bool {
	const wrapped = 60
	return len(strings.TrimSpace(line)) < wrapped
}

// whole adds a line as one segment, or as sentences when it is long.
func (o *outline) whole(doc int32, kind segmentKind, start, end int) {
	if end-start <= maxTurn {
		o.add(doc, kind, start, end)
		return
	}
	eachSentence(o.text, start, end, func(start, end int) { o.add(doc, kind, start, end) })
}

// fence adds a fenced block: its marks as header and footer, code by the blocks
// between blank lines, anything else by lines.
func (o *outline) fence(doc int32, at, next, end int, mark, info string) int {
	bodyEnd, after, closed := closeFence(o.text[:end], next, mark)
	if !closed {
		o.add(doc, code, at, after)
		return after
	}
	g := o.openGroup(doc)
	o.groups[g].header = o.add(g, glue, at, next)
	from := next
	for i := next; i < bodyEnd; {
		line, lineEnd := cutLine(o.text[:bodyEnd], i)
		blank := strings.TrimSpace(line) == ""
		if plainFence(info) && !blank {
			o.add(g, row, i, lineEnd)
		} else if plainFence(info) {
			o.extend(lineEnd)
		} else if blank || lineEnd >= bodyEnd {
			o.add(g, code, from, lineEnd)
			from = lineEnd
		}
		i = lineEnd
	}
	o.groups[g].footer = o.add(g, glue, bodyEnd, after)
	return after
}

// table adds the rows of a Markdown table under their header.
func (o *outline) table(doc int32, at, end int) int {
	_, second := cutLine(o.text[:end], at)
	dashes, third := cutLine(o.text[:end], second)
	if !isDashes(unpadRow(dashes)) {
		o.add(doc, row, at, second)
		return second
	}
	return o.rowsWhile(doc, at, third, end, func(line string) bool { return line[0] == '|' })
}

// rows adds the rows of the table form of JSON under their header.
func (o *outline) rows(doc int32, at, next, end int) int {
	return o.rowsWhile(doc, at, next, end, func(line string) bool { return !strings.HasPrefix(line, tableRef) })
}

func (o *outline) rowsWhile(doc int32, at, next, end int, more func(line string) bool) int {
	g := o.openGroup(doc)
	o.groups[g].header = o.add(g, glue, at, next)
	for next < end {
		line, after := cutLine(o.text[:end], next)
		if strings.TrimSpace(line) == "" || !more(line) {
			break
		}
		o.add(g, row, next, after)
		next = after
	}
	return next
}

// minMembers is how many members JSON must have to be cut into them.
const minMembers = 4

// json adds the members of an object, or the elements of an array, between its
// brackets. It gives at when there is none.
func (o *outline) json(doc int32, at, end int) int {
	raw := []byte(o.text[at:end])
	if o.scan -= len(raw); o.scan < 0 {
		return at
	}
	var cuts []int
	mark := func(start int) bool {
		cuts = append(cuts, at+start)
		return true
	}
	var after int
	if raw[0] == '{' {
		names := 0
		after = eachMember(raw, 0, func(name []byte, _, _ int) bool {
			names++
			return mark(sliceOffset(raw, name))
		})
	} else {
		after = eachElement(raw, 0, func(start, _ int) bool { return mark(start) })
	}
	if after < 0 || len(cuts) < minMembers || o.text[at+after-2] == ',' {
		return at
	}
	g := o.openGroup(doc)
	o.groups[g].header = o.add(g, glue, at, cuts[0])
	closer := at + after - 1
	for i, start := range cuts {
		stop := closer
		if i+1 < len(cuts) {
			stop = cuts[i+1]
		}
		o.add(g, member, start, stop)
	}
	_, next := cutLine(o.text[:end], at+after)
	if strings.TrimSpace(o.text[at+after:next]) != "" {
		next = at + after
	}
	o.groups[g].footer = o.add(g, glue, closer, next)
	return next
}

// sliceOffset gives where a part of a slice starts in it.
func sliceOffset(whole, part []byte) int { return cap(whole) - cap(part) }

func (o *outline) openGroup(parent int32) int32 {
	g := int32(len(o.groups))
	doc := g
	if parent >= 0 {
		doc = o.groups[parent].doc
	}
	o.groups = append(o.groups, group{parent: parent, header: -1, footer: -1, doc: doc, dialogue: o.dialogue})
	return g
}

func (o *outline) add(g int32, kind segmentKind, start, end int) int32 {
	o.segments = append(o.segments, segment{source: int32(len(o.sources)) - 1, start: start, end: end, group: g, kind: kind})
	return int32(len(o.segments)) - 1
}

// extend gives blank lines to the segment before them.
func (o *outline) extend(end int) {
	if n := len(o.segments); n > 0 && int(o.segments[n-1].source) == len(o.sources)-1 {
		o.segments[n-1].end = end
	}
}

func (o *outline) skipBlank(at, end int) int {
	for at < end && o.text[at] == ' ' {
		at++
	}
	o.extend(at)
	return at
}

func (o *outline) setBreaks(first int) {
	for i := first; i < len(o.segments); i++ {
		s := &o.segments[i]
		text := o.of(i)
		tail := text[len(strings.TrimRight(text, " \t\r\n")):]
		s.lineBreak = uint8(min(2, strings.Count(tail, "\n")))
	}
}

// titleLen gives the length of what a document starts with: "Document [3](Title:
// x)", "[Doc 3]", "Passage 3:", "# Heading", "<document id=3>"; 0 for none.
func titleLen(line string) int {
	switch c := line[0]; {
	case c == '#':
		if i := strings.IndexByte(line, ' '); i > 0 && strings.Trim(line[:i], "#") == "" {
			return len(line)
		}
	case c == '<':
		if name := tagName(line[1:]); isDocName(name) {
			if end := strings.IndexByte(line, '>'); end > 0 {
				return end + 1
			}
			return len(line)
		}
	case c == '[':
		return bracketTitle(line)
	case c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z':
		return namedTitle(line)
	case c == '=' || c == '-':
		if len(line) > 6 && strings.Trim(line, "=- ") != "" && line[:3] == line[len(line)-3:] && line[1] == c && line[2] == c {
			return len(line)
		}
	}
	return 0
}

func isDocName(name string) bool {
	switch strings.ToLower(name) {
	case "doc", "document", "passage", "source", "context", "article", "chunk", "result", "item", "file", "page", "snippet", "excerpt", "section":
		return true
	}
	return false
}

// bracketTitle reads "[3]", "[Doc 3]", "[Document 3: x]" at the start of a line.
func bracketTitle(line string) int {
	end := strings.IndexByte(line, ']')
	if end < 2 || end > 120 {
		return 0
	}
	inner := line[1:end]
	if !digits(inner) && !isDocName(tagName(inner)) {
		return 0
	}
	return end + 1 + len(titleTail(line[end+1:]))
}

// namedTitle reads "Document 3:", "Document [3](Title: x)", "Title: x".
func namedTitle(line string) int {
	name := tagName(line)
	if strings.EqualFold(name, "title") && strings.HasPrefix(line[len(name):], ":") {
		return len(line)
	}
	if !isDocName(name) {
		return 0
	}
	rest := line[len(name):]
	trimmed := strings.TrimLeft(rest, " #([")
	n := 0
	for n < len(trimmed) && digit(trimmed[n]) {
		n++
	}
	if n == 0 || n > 6 {
		return 0
	}
	trimmed = strings.TrimLeft(trimmed[n:], ")]")
	tail := titleTail(trimmed)
	if tail == "" && trimmed != "" {
		return 0
	}
	return len(line) - len(trimmed) + len(tail)
}

// titleTail gives what belongs to a title behind its number: "(Title: x)", ":",
// or a short rest of the line.
func titleTail(rest string) string {
	if strings.HasPrefix(strings.TrimLeft(rest, " "), "(") {
		depth := 0
		for i := range len(rest) {
			switch rest[i] {
			case '(':
				depth++
			case ')':
				if depth--; depth == 0 {
					return rest[:i+1]
				}
			}
		}
		return ""
	}
	const short = 100
	if len(rest) <= short && !strings.ContainsAny(strings.TrimRight(rest, " "), ".?!") {
		return rest
	}
	if strings.HasPrefix(rest, ":") {
		return ":"
	}
	return ""
}

// speakerLen gives the length of "Name:" at the start of a line, 0 for none. A
// number or time in brackets may stand before it.
func speakerLen(line string) int {
	const longest = 48
	from := numberLen(line)
	rest := line[from:]
	colon := strings.IndexByte(rest[:min(len(rest), longest)], ':')
	if colon < 1 || colon+1 < len(rest) && rest[colon+1] != ' ' {
		return 0
	}
	name := rest[:colon]
	if !isLetter(name[0]) && name[0] != '*' && name[0] < utf8.RuneSelf || strings.Count(name, " ") > 4 || strings.ContainsAny(name, ",;?!\"{}") {
		return 0
	}
	return from + colon + 1
}

// numberLen gives the length of "[12] " or "(00:12:03) " at the start of a line.
func numberLen(line string) int {
	const longest = 16
	if line[0] != '[' && line[0] != '(' {
		return 0
	}
	end := strings.IndexAny(line[:min(len(line), longest)], "])")
	if end < 0 || !digits(strings.NewReplacer(":", "", ".", "", "-", "").Replace(line[1:end])) {
		return 0
	}
	for end++; end < len(line) && line[end] == ' '; end++ {
	}
	return end
}

// isItem reports whether a line is an item of a list.
func isItem(line string) bool {
	s := strings.TrimLeft(line, " \t")
	if len(s) < 3 {
		return false
	}
	if (s[0] == '-' || s[0] == '*' || s[0] == '+') && s[1] == ' ' || strings.HasPrefix(s, "• ") {
		return true
	}
	n := 0
	for n < len(s) && n < 4 && digit(s[n]) {
		n++
	}
	return n > 0 && n+1 < len(s) && (s[n] == '.' || s[n] == ')') && s[n+1] == ' '
}

func digits(s string) bool {
	for i := range len(s) {
		if !digit(s[i]) {
			return false
		}
	}
	return true
}
