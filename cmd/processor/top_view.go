package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/adpa/processor/kv/budget"
)

// style is how a cell looks on a terminal with colours.
type style string

const (
	plain  style = ""
	strong style = "\x1b[1m"
	faint  style = "\x1b[2m"
	good   style = "\x1b[32m"
	warn   style = "\x1b[33m"
	bad    style = "\x1b[31m"
)

// cell is a piece of text of one style.
type cell struct {
	text string
	style
}

// column is one of a panel. Where a panel is too wide, those of the highest
// rank are left out first; rank 0 always stays.
type column struct {
	head  string
	rank  int
	right bool // aligned
}

// panel is a titled table.
type panel struct {
	title   string
	columns []column
	rows    [][]cell
	empty   string // is said where there are no rows
}

const (
	// twoColumns is the width from which panels stand beside each other.
	twoColumns = 150
	// gutter is between columns of a panel, panelGap between panels side by side.
	gutter, panelGap = 2, 4
	// fewRows is what a panel keeps where there is little room.
	fewRows = 2
)

// lines lays a frame out for a width and a height; a height of 0 is without
// bound. No line is wider than width.
func (f *frame) lines(width, height int, colour bool) []string {
	head := f.header(width, colour)
	room := 0
	if height > 0 {
		room = max(height-len(head), 1)
	}
	left := []*panel{f.stagePanel(), f.modelPanel(), f.budgetPanel(), f.replicaPanel(), f.streamPanel()}
	var body []string
	if width < twoColumns {
		body = stack(left, width, room, colour)
	} else {
		right := []*panel{left[1], left[2]}
		left = []*panel{left[0], left[4], left[3]}
		half := (width - panelGap) / 2
		body = beside(stack(left, half, room, colour), stack(right, half, room, colour), half)
	}
	lines := head
	if height == 0 || len(head)+len(body) < height {
		lines = append(lines, "")
	}
	lines = append(lines, body...)
	if height > 0 && len(lines) > height {
		lines = lines[:height]
	}
	return lines
}

// header is the line of totals, broken where it is too long.
func (f *frame) header(width int, colour bool) []string {
	items := [][]cell{
		{{"processor top", strong}, {f.At.Local().Format(" 15:04:05"), plain}},
		{{"replicas ", faint}, {strconv.Itoa(len(f.Replicas)), ifElse(len(f.Replicas) == 0, bad, strong)}},
		{{"accepted ", faint}, {perSecondText(f.Accepted), strong}},
		{{"answered ", faint}, {perSecondText(f.Answered), strong}},
		{{"hits ", faint}, {percent(f.HitRate), strong}},
		{{"calls ", faint}, {perSecondText(f.Calls), plain}},
		{{"failing ", faint}, {perSecondText(f.FailedCalls), ifElse(f.FailedCalls > 0, warn, plain)}},
		{{"cost ", faint}, {fmt.Sprintf("$%.2f/h", f.CostUSD), plain}},
		{{"tokens in ", faint}, {perSecondText(f.Prompt), plain}},
		{{"out ", faint}, {perSecondText(f.Completion), plain}},
		{{"saved ", faint}, {perSecondText(f.Saved), plain}},
		{{"delayed ", faint}, {short64(float64(f.Delayed)), plain}},
		{{"dead ", faint}, {short64(float64(f.DeadLetters)), ifElse(f.DeadLetters > 0, warn, plain)}},
		{{"denied ", faint}, {perSecondText(f.Denied), ifElse(f.Denied > 0, warn, plain)}},
		{{"again ", faint}, {perSecondText(f.Redelivered), plain}},
	}
	if len(f.WorkedByNone) > 0 {
		items = append(items, []cell{{"no replica runs " + strings.Join(f.WorkedByNone, ", "), bad}})
	}
	var lines []string
	line, used := "", 0
	for _, item := range items {
		text, n := "", 0
		for _, c := range item {
			text, n = text+paint(c.text, c.style, colour), n+utf8.RuneCountInString(c.text)
		}
		if used > 0 && used+gutter+n > width {
			lines, line, used = append(lines, line), "", 0
		}
		if used > 0 {
			line, used = line+strings.Repeat(" ", gutter), used+gutter
		}
		if n > width {
			text, n = clipText(item[0].text, width), width
		}
		line, used = line+text, used+n
	}
	return append(lines, line)
}

func ifElse(yes bool, a, b style) style {
	if yes {
		return a
	}
	return b
}

func (f *frame) stagePanel() *panel {
	p := &panel{title: "stages", columns: []column{
		{"STAGE", 0, false}, {"REQ/S", 0, true}, {"FAIL/S", 5, true}, {"INTERACT.", 0, true}, {"BATCH", 1, true},
		{"IN WORK", 3, true}, {"OLDEST", 4, true}, {"WAIT P50", 7, true}, {"WAIT P95", 0, true}, {"WORK P50", 6, true}, {"WORK P95", 2, true},
	}}
	for _, s := range f.Stages {
		p.rows = append(p.rows, []cell{
			{s.Stage, strong}, {rateText(s.Rate), plain}, {rateText(s.Failed), ifElse(s.Failed > 0, warn, faint)},
			{short64(float64(s.Interactive)), ifElse(s.Interactive > 0, strong, faint)}, {short64(float64(s.Batch)), ifElse(s.Batch > 0, strong, faint)},
			{short64(float64(s.InWork)), plain}, {ageText(s.Oldest), ifElse(s.Oldest > 60, warn, plain)},
			{millis(s.WaitedP50), plain}, {millis(s.WaitedP95), plain}, {millis(s.WorkedP50), plain}, {millis(s.WorkedP95), plain},
		})
	}
	return p
}

func (f *frame) modelPanel() *panel {
	p := &panel{title: "models", empty: "none was called yet", columns: []column{
		{"MODEL", 0, false}, {"PROVIDER", 6, false}, {"BREAKER", 0, false}, {"IN FLIGHT", 2, true}, {"WAITING", 3, true},
		{"QUALITY", 1, true}, {"P50", 5, true}, {"P95", 0, true}, {"FAILED", 4, true}, {"COST", 7, true},
	}}
	for _, m := range f.Models {
		breaker, flight, failed, quality := cell{cmp.Or(strings.ReplaceAll(m.Breaker, "_", " "), "-"), good}, "-", "-", "-"
		switch m.Breaker {
		case "":
			breaker.style = faint
		case breakers[1]:
			breaker.style = warn
		case breakers[2]:
			breaker.style = bad
		}
		if m.Breaker != "" {
			flight = fmt.Sprintf("%d/%d", m.InFlight, m.Limit)
		}
		if m.Success > 0 || m.P50 > 0 {
			failed = fmt.Sprintf("%.1f%%", 100*(1-m.Success))
		}
		if m.Quality != nil {
			quality = fmt.Sprintf("%.2f", *m.Quality)
		}
		p.rows = append(p.rows, []cell{
			{short(m.Model, 24), strong}, {cmp.Or(short(m.Provider, 12), "-"), plain}, breaker, {flight, plain},
			{strconv.Itoa(m.Waiting), ifElse(m.Waiting > 0, warn, faint)}, {quality, plain},
			{millis(m.P50), plain}, {millis(m.P95), plain}, {failed, plain}, {usdText(m.CostUSD), plain},
		})
	}
	return p
}

// budgetPanel shows the fullest first. Limits of one request do not fill up.
func (f *frame) budgetPanel() *panel {
	p := &panel{title: "budgets", empty: "none", columns: []column{
		{"TENANT", 0, false}, {"WINDOW", 0, false}, {"USED", 1, true}, {"LIMIT", 0, true}, {"", 3, false}, {"OF LIMIT", 0, true}, {"RESETS IN", 2, true},
	}}
	list := slices.DeleteFunc(slices.Clone(f.Budgets), func(s budget.Status) bool { return !slices.Contains(budget.Scopes, s.Window) })
	part := func(s budget.Status) float64 {
		return float64(s.Settled.N+s.Open.N) / float64(max(s.Limit.N, 1))
	}
	slices.SortStableFunc(list, func(x, y budget.Status) int { return cmp.Compare(part(y), part(x)) })
	for _, s := range list {
		share, resets := part(s), "-"
		if !s.ResetsAt.IsZero() {
			resets = ageText(max(s.ResetsAt.Sub(f.At).Seconds(), 0))
		}
		look := ifElse(share >= 1, bad, ifElse(share >= 0.8, warn, good))
		const width = 10
		full := min(int(share*width+0.5), width)
		p.rows = append(p.rows, []cell{
			{short(s.Tenant, 20), strong}, {string(s.Window), plain}, {sumText(s.Settled, s.Open), plain}, {sumText(s.Limit), plain},
			{strings.Repeat("#", full) + strings.Repeat(".", width-full), look}, {fmt.Sprintf("%.1f%%", 100*share), look}, {resets, plain},
		})
	}
	return p
}

// sumText writes the sum of quantities of one unit briefly.
func sumText(list ...budget.Quantity) string {
	sum := budget.Quantity{Unit: list[0].Unit}
	for _, q := range list {
		sum.N += q.N
	}
	switch sum.Unit {
	case budget.Dollars:
		return fmt.Sprintf("$%.2f", float64(sum.N)/1e9)
	case budget.Requests:
		return short64(float64(sum.N)) + " req"
	}
	return short64(float64(sum.N)) + " tok"
}

func (f *frame) replicaPanel() *panel {
	p := &panel{title: "replicas", empty: "none answers: is processor run at work on this server?", columns: []column{
		{"PROCESS", 0, false}, {"STAGES", 1, false}, {"REQ/S", 0, true}, {"MEMORY", 0, true}, {"UP", 0, true},
	}}
	for _, r := range f.Replicas {
		p.rows = append(p.rows, []cell{
			{short(r.Process, 24), strong}, {short(strings.ReplaceAll(r.Groups, ", ", " "), 40), plain}, {rateText(r.Rate), plain},
			{bytesText(r.Memory), plain}, {ageText(f.At.Sub(r.Began).Seconds()), plain},
		})
	}
	return p
}

func (f *frame) streamPanel() *panel {
	p := &panel{title: "streams", columns: []column{
		{"STREAM", 0, false}, {"MESSAGES", 0, true}, {"HOLDS", 0, true}, {"MAY HOLD", 1, true}, {"FULL", 0, true},
	}}
	for _, s := range f.Streams {
		full := float64(s.Bytes) / float64(max(s.MaxBytes, 1))
		p.rows = append(p.rows, []cell{
			{s.Stream, strong}, {short64(float64(s.Messages)), plain}, {bytesText(float64(s.Bytes)), plain}, {bytesText(float64(s.MaxBytes)), plain},
			{fmt.Sprintf("%.1f%%", 100*full), ifElse(full >= 0.9, bad, ifElse(full >= 0.7, warn, plain))},
		})
	}
	return p
}

// stack puts panels below each other. Where there is little room, the longest
// are cut.
func stack(panels []*panel, width, room int, colour bool) []string {
	shown := make([]int, len(panels))
	need := -1
	for i, p := range panels {
		shown[i] = len(p.rows)
		need += 3 + max(len(p.rows), 1) // blank, title, heads
	}
	for room > 0 && need > room {
		at := 0
		for i := range shown {
			if i > 0 && (at == 0 || shown[i] > shown[at]) {
				at = i
			}
		}
		if shown[at] <= fewRows {
			break
		}
		shown[at]--
		need--
	}
	var lines []string
	for i, p := range panels {
		if i > 0 {
			lines = append(lines, "")
		}
		block := p.lines(width, shown[i], colour)
		if room > 0 && i > 0 && len(lines)+len(block) > room {
			return lines[:len(lines)-1]
		}
		lines = append(lines, block...)
	}
	return lines
}

// lines writes the first rows of a panel.
func (p *panel) lines(width, rows int, colour bool) []string {
	title := strings.ToUpper(p.title)
	if rows < len(p.rows) {
		title += fmt.Sprintf(" (%d of %d)", rows, len(p.rows))
	}
	lines := []string{paint(clipText(title, width), strong, colour)}
	if len(p.rows) == 0 {
		return append(lines, clipText(p.empty, width))
	}
	shown, widths := p.fit(width, rows)
	heads := make([]cell, len(p.columns))
	for i, c := range p.columns {
		heads[i] = cell{c.head, faint}
	}
	for _, row := range append([][]cell{heads}, p.rows[:rows]...) {
		cells := make([]string, len(shown))
		for k, i := range shown {
			text := clipText(row[i].text, widths[k])
			blank := strings.Repeat(" ", widths[k]-utf8.RuneCountInString(text))
			cells[k] = paint(text, row[i].style, colour)
			if p.columns[i].right {
				cells[k] = blank + cells[k]
			} else if k < len(shown)-1 {
				cells[k] += blank
			}
		}
		lines = append(lines, strings.Join(cells, strings.Repeat(" ", gutter)))
	}
	return lines
}

// fit chooses columns that fit, and their widths. If even those that always
// stay are too wide, the first is made narrower.
func (p *panel) fit(width, rows int) (shown, widths []int) {
	natural := make([]int, len(p.columns))
	for i, c := range p.columns {
		natural[i] = utf8.RuneCountInString(c.head)
		for _, row := range p.rows[:rows] {
			natural[i] = max(natural[i], utf8.RuneCountInString(row[i].text))
		}
	}
	rank := 0
	for _, c := range p.columns {
		rank = max(rank, c.rank)
	}
	for ; ; rank-- {
		shown, widths = nil, nil
		sum := -gutter
		for i, c := range p.columns {
			if c.rank <= rank {
				shown, widths = append(shown, i), append(widths, natural[i])
				sum += gutter + natural[i]
			}
		}
		if sum <= width {
			return shown, widths
		}
		if rank > 0 {
			continue
		}
		for k := range widths { // none of the rest can go
			cut := min(widths[k]-1, sum-width)
			widths[k], sum = widths[k]-cut, sum-cut
			if sum <= width {
				return shown, widths
			}
		}
		return shown[:1], []int{width}
	}
}

// beside joins two columns of lines.
func beside(left, right []string, width int) []string {
	lines := make([]string, max(len(left), len(right)))
	for i := range lines {
		if i < len(left) {
			lines[i] = left[i]
		}
		if i < len(right) && right[i] != "" {
			lines[i] += strings.Repeat(" ", max(width+panelGap-visible(lines[i]), 0)) + right[i]
		}
	}
	return lines
}

// visible counts the letters of a line, without what sets its colours.
func visible(line string) int {
	n, hidden := 0, false
	for _, r := range line {
		switch {
		case r == '\x1b':
			hidden = true
		case hidden:
			hidden = r != 'm'
		default:
			n++
		}
	}
	return n
}

func paint(text string, look style, colour bool) string {
	if !colour || look == plain || text == "" {
		return text
	}
	return string(look) + text + "\x1b[0m"
}

func clipText(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:max(most, 0)])
}

func percent(share *float64) string {
	if share == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100**share)
}

func perSecondText(rate float64) string { return rateText(rate) + "/s" }

func rateText(rate float64) string {
	if rate > 0 && rate < 10 {
		return fmt.Sprintf("%.1f", rate)
	}
	return short64(rate)
}

// short64 writes a number with at most four digits: 950, 12.3k, 4.5M.
func short64(n float64) string {
	for _, unit := range []string{"", "k", "M", "G"} {
		switch {
		case unit == "" && n < 1000:
			return fmt.Sprintf("%.0f", n)
		case n < 9.95:
			return fmt.Sprintf("%.2f%s", n, unit)
		case n < 99.95:
			return fmt.Sprintf("%.1f%s", n, unit)
		case n < 999.5:
			return fmt.Sprintf("%.0f%s", n, unit)
		}
		n /= 1000
	}
	return fmt.Sprintf("%.0fT", n)
}

func bytesText(n float64) string { return short64(n) + "B" }

func ageText(seconds float64) string {
	switch {
	case seconds <= 0:
		return "-"
	case seconds < 1:
		return "<1s"
	case seconds < 100:
		return fmt.Sprintf("%.0fs", seconds)
	case seconds < 6000:
		return fmt.Sprintf("%.0fm", seconds/60)
	case seconds < 48*3600:
		return fmt.Sprintf("%.0fh", seconds/3600)
	}
	return fmt.Sprintf("%.0fd", seconds/86400)
}
