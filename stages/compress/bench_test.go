package compress

import (
	"fmt"
	"strings"
	"testing"
)

// cheap stands for a tokeniser, so that a benchmark shows the passes alone.
func cheap(text string) int { return (len(text) + 3) / 4 }

func BenchmarkStructural(b *testing.B) {
	var log, table, page strings.Builder
	for i := range 8000 {
		fmt.Fprintf(&log, "2026-01-02 10:%02d:%02d INFO request %d from 10.0.0.%d took %dms\n", i/60%60, i%60, 1000+i, i%3, i*7%50)
	}
	table.WriteString("| name        | price   |\n| ----------- | ------- |\n")
	for i := range 8000 {
		fmt.Fprintf(&table, "| article %-4d | %7d |\n", i, i*i)
		fmt.Fprintf(&page, "<p class=\"x\">Article <b>%d</b> costs <a href=\"/p/%d\">%d</a>.</p>\n", i, i, i*i)
	}
	for _, tt := range []struct{ name, text string }{
		{"log", log.String()}, {"table", table.String()}, {"html", "<html>" + page.String() + "</html>"},
		{"repeats", strings.Repeat(ordinary+"\n\n", 400)}, {"prose", strings.Repeat("One sentence.  And another one, which is longer.\n", 10_000)},
	} {
		b.Run(tt.name, func(b *testing.B) {
			config := Defaults()
			everyPass(&config)
			c, err := New(config, cheap)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(tt.text)))
			for b.Loop() {
				c.Text(tt.text, "", Options{})
			}
		})
	}
}

func BenchmarkSemantic(b *testing.B) {
	c, err := New(Defaults(), cheap)
	if err != nil {
		b.Fatal(err)
	}
	text := library(400)
	for name, query := range map[string]string{"query": "Where does the thing number 17 lie?", "no query": ""} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				c.Text(text, query, at(0.25))
			}
		})
	}
}
