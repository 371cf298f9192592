package compress

import "strings"

const (
	// notice opens a text of which parts were left out. It tells a model what
	// the marks mean, and the compressor that the text was compressed before.
	noticeMark = "[… parts omitted]"
	notice     = noticeMark + "\n"
	gap        = "… "
)

// emit writes what stays of the segments first to last, which are those of one
// source, in their order.
func emit(o *outline, keep []bool, first, last int) string {
	var b strings.Builder
	b.WriteString(notice)
	open := b.Len()
	before := -1 // the segment written last
	for i := first; i < last; i++ {
		if !keep[i] {
			continue
		}
		switch {
		case before < 0:
			if i > first && o.doc(i) == o.doc(i-1) && !o.structured(i) {
				b.WriteString(gap)
			}
		case before < i-1:
			writeGap(&b, o, before, i)
		}
		text := o.of(i)
		if o.segments[i].kind == member && i+1 < last && !keep[i+1] && closes(o, keep, i, last) {
			text = strings.TrimRight(text, ", \t\r\n") + "\n"
		}
		b.WriteString(text)
		before = i
	}
	if b.Len() == open {
		return noticeMark + trailing(o.of(last-1))
	}
	if before < last-1 {
		// What was last kept ends as the text ended.
		return strings.TrimRight(b.String(), " \t\r\n") + trailing(o.of(last-1))
	}
	return b.String()
}

// structured reports whether a segment stands in JSON or a table, where a mark
// would be taken for data.
func (o *outline) structured(i int) bool {
	k := o.segments[i].kind
	return k == member || k == row || k == glue
}

// writeGap parts two segments between which others were left out: by the mark
// within a document, and by the widest break that stood between them.
func writeGap(b *strings.Builder, o *outline, before, next int) {
	lines := uint8(0)
	for i := before; i < next; i++ {
		lines = max(lines, o.segments[i].lineBreak)
	}
	if o.segments[before].lineBreak < lines {
		b.WriteString("\n\n"[:lines-o.segments[before].lineBreak])
	}
	if o.doc(before) == o.doc(next) && !o.structured(next) {
		b.WriteString(gap)
	}
}

// closes reports whether no later member of the same JSON value stays.
func closes(o *outline, keep []bool, i, last int) bool {
	g := o.segments[i].group
	for j := i + 1; j < last && o.segments[j].group == g; j++ {
		if keep[j] && o.segments[j].kind == member {
			return false
		}
	}
	return true
}

func trailing(text string) string {
	return text[len(strings.TrimRight(text, " \t\r\n")):]
}
