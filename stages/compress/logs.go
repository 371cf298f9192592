package compress

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	// logBar parts the values of a line; no value holds it.
	logBar = '|'
	// minLogLines is how many lines a paragraph must have to count as a log.
	minLogLines = 10
	// minLogShare is the share of them that must look like log lines.
	minLogShare = 0.7
	// minTemplateUses is how often a template must occur to be named.
	minTemplateUses = 2
)

// logEdits writes log lines as templates, and a row of values for each line:
//
//	[log: {} filled by number|values, = the value before, | a line as it was]
//	1: {} INFO request {} took {}
//	---
//	1|10:00:01|a1|3ms
//	1|=|a2|4ms
//	|panic: out of memory
func logEdits(text string, _ role) []edit {
	var edits []edit
	for _, block := range logBlocks(text) {
		out, ok := foldLog(text[block.start:block.end])
		if !ok {
			continue
		}
		if back, err := DecodeLog(out); err != nil || back != text[block.start:block.end] {
			continue
		}
		edits = append(edits, edit{block.start, block.end, out})
	}
	return edits
}

// logBlocks finds the paragraphs outside of code that look like logs.
func logBlocks(text string) []lineSpan {
	if strings.Count(text, "\n") < minLogLines-1 {
		return nil
	}
	var blocks []lineSpan
	for _, r := range regions(text) {
		if r.fence && !plainFence(r.info) {
			continue
		}
		for at := r.start; at < r.end; {
			end, next, isLog := paragraph(text[:r.end], at)
			if isLog {
				blocks = append(blocks, lineSpan{at, end})
			}
			at = next
		}
	}
	return blocks
}

// paragraph gives the end of the lines from a position to the next blank one,
// and whether they look like a log.
func paragraph(text string, start int) (end, next int, isLog bool) {
	lines, logs := 0, 0
	end, next = start, start
	for next < len(text) {
		line, after := cutLine(text, next)
		if strings.TrimSpace(line) == "" {
			next = after
			break
		}
		lines++
		if looksLikeLog(line) {
			logs++
		}
		end, next = next+len(line), after
	}
	isLog = lines >= minLogLines && float64(logs) >= minLogShare*float64(lines) && !strings.HasPrefix(text[start:end], logMark)
	return end, next, isLog
}

// looksLikeLog reports whether a time of day or a level stands near the start
// of a line.
func looksLikeLog[T string | []byte](line T) bool {
	head := line[:min(len(line), 64)]
	for i := range len(head) {
		switch c := head[i]; {
		case c == ':':
			if isTime(head, i) {
				return true
			}
		case c >= 'D' && c <= 'W' || c == 'l':
			if startsLevel(head[i:]) {
				return true
			}
		}
	}
	return false
}

// isTime reports whether hh:mm:ss has its first colon at head[i].
func isTime[T string | []byte](head T, i int) bool {
	return i >= 2 && i+5 < len(head) && head[i+3] == ':' &&
		digit(head[i-2]) && digit(head[i-1]) && digit(head[i+1]) && digit(head[i+2]) && digit(head[i+4]) && digit(head[i+5])
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func startsLevel[T string | []byte](s T) bool {
	for _, level := range [...]string{"INFO", "WARN", "ERROR", "DEBUG", "TRACE", "FATAL", "level="} {
		if len(s) >= len(level) && string(s[:len(level)]) == level {
			return true
		}
	}
	return false
}

// logTemplate is a line with its values taken out.
type logTemplate struct {
	text   string
	uses   int
	number int      // in the output; 0 when the template is not used there
	last   []string // values of the line before
}

// logLine is a line as its template and where its values stand.
type logLine struct {
	template int
	line     string
}

func foldLog(block string) (string, bool) {
	hole := holeFor(block)
	if hole == "" {
		return "", false
	}
	templates, lines := templatesOf(block, hole)
	var b strings.Builder
	b.Grow(len(block))
	b.WriteString(logMark + hole + logMarkEnd)
	number := 0
	for i := range templates {
		if t := &templates[i]; t.uses >= minTemplateUses {
			number++
			t.number = number
			fmt.Fprintf(&b, "\n%d: %s", number, t.text)
		}
	}
	b.WriteString("\n" + logRows)
	var values []string
	for _, l := range lines {
		t := &templates[l.template]
		b.WriteByte('\n')
		if t.number == 0 {
			b.WriteByte(logBar)
			b.WriteString(l.line)
			continue
		}
		values = valuesOf(values[:0], l.line)
		b.WriteString(strconv.Itoa(t.number))
		writeValues(&b, t, values)
	}
	return b.String(), number > 0
}

func writeValues(b *strings.Builder, t *logTemplate, values []string) {
	for i, v := range values {
		b.WriteByte(logBar)
		if i < len(t.last) && t.last[i] == v {
			b.WriteByte('=')
		} else {
			b.WriteString(v)
		}
	}
	t.last = append(t.last[:0], values...)
}

const (
	logMark    = "[log: "
	logMarkEnd = " filled by number|values, = the value before, | a line as it was]"
	logRows    = "---"
)

// holeFor gives a sign for "a value stands here" that the block does not hold.
func holeFor(block string) string {
	for _, hole := range []string{"{}", "<>", "{*}", "<*>"} {
		if !strings.Contains(block, hole) {
			return hole
		}
	}
	return ""
}

func templatesOf(block, hole string) ([]logTemplate, []logLine) {
	var (
		templates []logTemplate
		lines     []logLine
		known     = map[string]int{}
		key       []byte
	)
	for line := range strings.SplitSeq(block, "\n") {
		key = appendTemplate(key[:0], line, hole)
		i, ok := known[string(key)]
		if !ok {
			i = len(templates)
			templates = append(templates, logTemplate{text: string(key)})
			known[templates[i].text] = i
		}
		templates[i].uses++
		lines = append(lines, logLine{i, line})
	}
	return templates, lines
}

// appendTemplate writes a line with a hole for each value.
func appendTemplate(dst []byte, line, hole string) []byte {
	at := 0
	for {
		start, end := nextValue(line, at)
		if start < 0 {
			return append(dst, line[at:]...)
		}
		dst = append(append(dst, line[at:start]...), hole...)
		at = end
	}
}

func valuesOf(dst []string, line string) []string {
	at := 0
	for {
		start, end := nextValue(line, at)
		if start < 0 {
			return dst
		}
		dst = append(dst, line[start:end])
		at = end
	}
}

// nextValue finds the next run of letters, digits and the signs of numbers,
// paths and identifiers that holds a digit.
func nextValue(line string, at int) (start, end int) {
	for at < len(line) {
		if !valueByte[line[at]] {
			at++
			continue
		}
		start, digit := at, false
		for at < len(line) && valueByte[line[at]] {
			digit = digit || line[at] >= '0' && line[at] <= '9'
			at++
		}
		if digit {
			return start, at
		}
	}
	return -1, -1
}

var valueByte = func() (t [256]bool) {
	for c := range 256 {
		t[c] = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_-.:/+@%#", byte(c)) >= 0
	}
	return t
}()

var errLog = errors.New("not the folded form of a log")

// DecodeLog gives back the lines of a log that was folded.
func DecodeLog(text string) (string, error) {
	head, rest, _ := strings.Cut(text, "\n")
	hole, ok := strings.CutSuffix(strings.TrimPrefix(head, logMark), logMarkEnd)
	if !ok || hole == "" {
		return "", errLog
	}
	templates := []logTemplate{{}}
	for {
		line, after, more := strings.Cut(rest, "\n")
		rest = after
		if line == logRows {
			break
		}
		_, template, ok := strings.Cut(line, ": ")
		if !ok || !more {
			return "", errLog
		}
		templates = append(templates, logTemplate{text: template})
	}
	var b strings.Builder
	for line := range strings.SplitSeq(rest, "\n") {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		if b.Len() > maxDecoded {
			return "", errDecoded
		}
		if err := decodeLogRow(&b, line, hole, templates); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

func decodeLogRow(b *strings.Builder, row, hole string, templates []logTemplate) error {
	number, values, _ := strings.Cut(row, string(logBar))
	if number == "" {
		b.WriteString(values)
		return nil
	}
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n >= len(templates) {
		return fmt.Errorf("%w: no template %q", errLog, number)
	}
	t := &templates[n]
	rest := t.text
	for i := 0; ; i++ {
		before, after, found := strings.Cut(rest, hole)
		b.WriteString(before)
		if !found {
			return nil
		}
		var v string
		v, values, _ = strings.Cut(values, string(logBar))
		if i == len(t.last) {
			t.last = append(t.last, v)
		}
		if v != "=" {
			t.last[i] = v
		}
		b.WriteString(t.last[i])
		rest = after
	}
}
