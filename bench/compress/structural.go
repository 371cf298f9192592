package compress

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/adpa/processor/stages/compress"
)

// json prints what the table form saves.
func (b *bench) json(w io.Writer) error {
	raw, err := os.ReadFile(filepath.Join(b.dir, "toon", "github-repos.json"))
	if err != nil {
		return fmt.Errorf("reading the repositories: %w", err)
	}
	r := b.structural.Text(string(raw), "", compress.Options{})
	back, err := compress.DecodeTables(r.Text)
	if err != nil {
		return fmt.Errorf("decoding the repositories: %w", err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return fmt.Errorf("reading the repositories: %w", err)
	}
	fmt.Fprintf(w, "\nJSON of 100 repositories: %d tokens, compact %d, sent %d: %.1f%% fewer; decoded back to the same bytes: %t\n",
		r.Original, b.count(compact.String()), r.Sent, 100*float64(r.Saved())/float64(r.Original), bytes.Equal(back, compact.Bytes()))
	return nil
}

// floors prints what a preservation floor keeps, beside a fixed ratio of the
// same mean.
func (b *bench) floors(w io.Writer) error {
	passages, err := loadNQ(b.dir)
	if err != nil {
		return err
	}
	articles, err := loadXQuAD(b.dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\nPreservation as a floor: answers kept, and at a fixed ratio of the same mean\n%-18s %6s %8s %20s %20s\n", "", "floor", "ratio", "floor", "fixed")
	hard := nqTasks(passages, b.part, true)
	for _, set := range []struct {
		name  string
		tasks []task
	}{
		{"NQ hard", hard},
		{"NQ without titles", withoutTitles(hard)},
		{"NQ random", nqTasks(passages, b.part, false)},
		{"XQuAD", xquadTasks(articles, b.part)},
	} {
		for _, floor := range []float64{0.5, 0.7, 0.8, 0.9, 0.95} {
			kept, ratio := b.withFloor(set.tasks, floor)
			same := b.retention(set.tasks, method{apply: func(documents, question string, ratio float64) string {
				return fixed(b.semantic, documents, question, ratio).Text
			}}, ratio)
			fmt.Fprintf(w, "%-18s %6.2f %8.3f %20s %20s\n", set.name, floor, ratio, kept, same)
		}
	}
	return nil
}

func (b *bench) withFloor(tasks []task, floor float64) (kept share, ratio float64) {
	for _, t := range tasks {
		r := adaptive(b.semantic, t.documents, t.question, floor)
		kept.add(holds(r.Text, t.answers))
		ratio += float64(r.Sent) / float64(r.Original) / float64(len(tasks))
	}
	return kept, ratio
}

// speed prints the time of the passes on one core, with a counter that costs
// next to nothing. Times are of this machine; that they grow with the size is not.
func (b *bench) speed(w io.Writer) error {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	cheap := func(text string) int { return (len(text) + 3) / 4 }
	raw, err := os.ReadFile(filepath.Join(b.dir, "toon", "github-repos.json"))
	if err != nil {
		return fmt.Errorf("reading the repositories: %w", err)
	}
	meetings, err := loadQMSum(b.dir)
	if err != nil {
		return err
	}
	passages, err := loadNQ(b.dir)
	if err != nil {
		return err
	}
	config := compress.Defaults()
	structural, err := compress.New(config, cheap)
	if err != nil {
		return err
	}
	config.Techniques = []string{compress.Semantic}
	semantic, err := compress.New(config, cheap)
	if err != nil {
		return err
	}
	fence := "Read this.\n\n```json\n" + strings.TrimSpace(string(raw)) + "\n```\n"
	fmt.Fprintf(w, "\nSpeed on one core, counting apart\n")
	for _, n := range []int{1, 4, 16} {
		text := strings.Repeat(fence, n)
		took := fastest(func() { structural.Text(text, "", compress.Options{}) })
		fmt.Fprintf(w, "structural, JSON    %8d bytes %7.1f MB/s\n", len(text), float64(len(text))/took.Seconds()/1e6)
	}
	for _, n := range []int{1, 4, 16} {
		text := strings.Repeat(strings.Join(meetings[0].turns, "  \n")+"\n\n\n\n", n)
		took := fastest(func() { structural.Text(text, "", compress.Options{}) })
		fmt.Fprintf(w, "structural, text    %8d bytes %7.1f MB/s\n", len(text), float64(len(text))/took.Seconds()/1e6)
	}
	hard := nqTasks(passages, b.part, true)[:64]
	for _, n := range []int{1, 4, 16, 64} {
		var all strings.Builder
		for _, t := range hard[:n] {
			all.WriteString(t.documents)
		}
		text := all.String()
		size := float64(b.count(text)) / 1000
		took := fastest(func() { fixed(semantic, text, hard[0].question, 0.25) })
		fmt.Fprintf(w, "semantic, documents %8.0f tokens %6.1f µs per 1,000 tokens\n", 1000*size, took.Seconds()*1e6/size)
	}
	text := strings.Join(meetings[0].turns, "\n")
	size := float64(b.count(text)) / 1000
	took := fastest(func() { fixed(semantic, text, meetings[0].queries[0].text, 0.25) })
	fmt.Fprintf(w, "semantic, dialogue  %8.0f tokens %6.1f µs per 1,000 tokens\n", 1000*size, took.Seconds()*1e6/size)
	return nil
}

// fastest gives the shortest of some runs: what the work takes when the machine
// does nothing else.
func fastest(f func()) time.Duration {
	best := time.Duration(1 << 62)
	for start := time.Now(); time.Since(start) < 300*time.Millisecond; {
		from := time.Now()
		f()
		best = min(best, time.Since(from))
	}
	return best
}
