package evaluate

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteText prints a report for a terminal.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s against %s: %s requests, %s pairs of %s distinct requests\n\n", r.Replay.Candidate, r.Replay.Baseline,
		thousands(r.Replay.Requests), thousands(r.Replay.Pairs), thousands(r.Replay.Distinct))
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "METRIC\tBASELINE\tCANDIDATE\tDIFFERENCE\t95 % INTERVAL\tP (HOLM)\tVERDICT")
	for _, m := range r.Metrics {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s to %s\t%s\t%s\n", m.Name, short(m.Baseline), short(m.Candidate), signed(m.Difference), signed(m.Low), signed(m.High), probability(m.Adjusted), m.verdictText())
	}
	_ = table.Flush() // to memory
	if len(r.Groups) > 0 {
		b.WriteString("\n")
		fmt.Fprintf(table, "BY\tNAME\tPAIRS\t%s\tCOST\tVERDICT\n", strings.ToUpper(r.Verdict.RestsOn))
		for _, g := range r.Groups {
			quality, cost := g.find(r.Verdict.RestsOn), g.find(Cost)
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\n", g.By, printable(g.Name), g.Pairs, quality.change(), cost.change(), quality.Verdict)
		}
		_ = table.Flush()
	}
	fmt.Fprintf(&b, "\n%s\n", r.Verdict.Text)
	if f := r.Feedback; f != nil {
		fmt.Fprintf(&b, "Feedback: of %d answers rated good %d are the same and %d changed; of %d rated bad %d are the same and %d changed.\n",
			f.GoodKept+f.GoodChanged, f.GoodKept, f.GoodChanged, f.BadKept+f.BadChanged, f.BadKept, f.BadChanged)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (g *Group) find(name string) Result {
	for _, m := range g.Metrics {
		if m.Name == name {
			return m
		}
	}
	return Result{}
}

func (m Result) change() string {
	if m.Name == "" {
		return "-"
	}
	return fmt.Sprintf("%s (%s to %s)", signed(m.Difference), signed(m.Low), signed(m.High))
}

func (m Result) verdictText() string {
	if m.Verdict == CannotTell && m.More != nil {
		return fmt.Sprintf("%s; %s more would", m.Verdict, thousands(*m.More))
	}
	return m.Verdict
}

// printable keeps what others named from changing the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func short(f float64) string {
	switch a := math.Abs(f); {
	case a >= 1e6:
		return strconv.FormatFloat(f, 'e', 2, 64)
	case a >= 100:
		return strconv.FormatFloat(f, 'f', 0, 64)
	}
	return strconv.FormatFloat(f, 'g', 3, 64)
}

func signed(f float64) string {
	if f > 0 {
		return "+" + short(f)
	}
	return short(f)
}

func money(f float64) string { return strconv.FormatFloat(f, 'g', 3, 64) }

func percent(f float64) string { return strconv.FormatFloat(100*f, 'g', 3, 64) + " %" }

func percentOf(relative *float64) string {
	if relative == nil {
		return ""
	}
	return " (" + strings.TrimPrefix(fmt.Sprintf("%+.1f %%", 100**relative), " ") + ")"
}

func probability(p float64) string {
	if p < 0.0001 {
		return "< 0.0001"
	}
	return strconv.FormatFloat(p, 'f', 4, 64)
}

func thousands(n int) string {
	text := strconv.Itoa(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
