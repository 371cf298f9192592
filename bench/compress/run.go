// Package compress measures prompt compression on public data.
package compress

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/stages/compress"
)

// Run prints every figure of docs/prompt-optimization.md that concerns
// compression. The data directory holds the sets named in data.go. The figures
// are of the halves that were not looked at while the compressor was made; with
// the argument "develop" they are of the other halves. "develop -squad FILE" prints
// what is kept of a file of SQuAD's training set instead.
func Run(w io.Writer, dataDir string, args []string) error {
	if dataDir == "" {
		return errors.New("no data directory: set PROCESSOR_DATA to one that holds nq, qmsum, xquad and toon")
	}
	part := report
	switch {
	case len(args) == 3 && args[0] == "develop" && args[1] == "-squad":
		return squad(w, dataDir, args[2])
	case len(args) == 1 && args[0] == "develop":
		part = develop
	case len(args) > 0:
		return fmt.Errorf("unknown argument %.64q: give none, develop, or develop -squad FILE", strings.Join(args, " "))
	}
	b, err := newBench(dataDir, part)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "Tokens are those of o200k_base; shares in percent with 95%% intervals; the %s halves of the sets.\n", []string{"held-out", "develop"}[b.part])
	for _, part := range []func(io.Writer) error{b.answers, b.meetings, b.pairs, b.json, b.floors, b.speed} {
		if err := part(w); err != nil {
			return err
		}
	}
	return nil
}

// bench is what the parts of a run share.
type bench struct {
	dir        string
	part       int // develop or report
	count      compress.Counter
	semantic   *compress.Compressor
	structural *compress.Compressor
}

func newBench(dir string, part int) (*bench, error) {
	encoding, err := tokens.Load("o200k_base")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, part: part, count: remember(encoding.Count)}
	config := compress.Defaults()
	if b.structural, err = compress.New(config, b.count); err != nil {
		return nil, err
	}
	config.Techniques = []string{compress.Semantic}
	b.semantic, err = compress.New(config, b.count)
	return b, err
}

// remember keeps the counts of short texts, since the same sentences are counted
// for many questions.
func remember(count compress.Counter) compress.Counter {
	var (
		mu    sync.Mutex
		known = map[string]int{}
	)
	return func(text string) int {
		const short, most = 4 << 10, 1 << 20
		if len(text) > short {
			return count(text)
		}
		mu.Lock()
		defer mu.Unlock()
		n, ok := known[text]
		if !ok {
			n = count(text)
			if len(known) < most {
				known[strings.Clone(text)] = n
			}
		}
		return n
	}
}

// answers prints how often an answer is still in what the methods keep.
func (b *bench) answers(w io.Writer) error {
	passages, err := loadNQ(b.dir)
	if err != nil {
		return err
	}
	articles, err := loadXQuAD(b.dir)
	if err != nil {
		return err
	}
	hard := nqTasks(passages, b.part, true)
	for _, set := range []struct {
		name  string
		tasks []task
	}{
		{"Natural Questions, 20 documents, hard", hard},
		{"Natural Questions, 20 paragraphs without titles, hard", withoutTitles(hard)},
		{"Natural Questions, 20 documents, random", nqTasks(passages, b.part, false)},
		{"XQuAD, 15 paragraphs", xquadTasks(articles, b.part)},
	} {
		b.table(w, set.name, set.tasks)
		b.oneText(w, set.tasks)
	}
	return nil
}

// squad prints how often answers are kept of a file of SQuAD, by the halves of its
// articles.
func squad(w io.Writer, dataDir, path string) error {
	articles, err := loadSQuAD(path)
	if err != nil {
		return err
	}
	b, err := newBench(dataDir, develop)
	if err != nil {
		return err
	}
	for _, part := range []int{0, 1} {
		tasks := squadTasks(articles, part)
		b.table(w, fmt.Sprintf("SQuAD, 15 paragraphs, half %d of the articles", part), tasks)
		for _, floor := range []float64{0.5, 0.9} {
			kept, ratio := b.withFloor(tasks, floor)
			fmt.Fprintf(w, "floor %.2f: %s at %.3f of the tokens\n", floor, kept, ratio)
		}
	}
	return nil
}

// table prints how often answers are kept.
func (b *bench) table(w io.Writer, name string, tasks []task) {
	fmt.Fprintf(w, "\n%s: answers kept (n = %d)\n%-18s %20s %20s %20s\n", name, len(tasks), "", "2x", "4x", "10x")
	for _, m := range documentMethods(b.count, b.semantic) {
		fmt.Fprintf(w, "%-18s", m.name)
		for _, ratio := range ratios {
			fmt.Fprintf(w, " %20s", b.retention(tasks, m, ratio))
		}
		fmt.Fprintln(w)
	}
}

// oneText prints the figures of prompts that hold the documents and the question
// in one text, as the template of the literature does; the product has to find
// out which is which.
func (b *bench) oneText(w io.Writer, tasks []task) {
	const head = "Write a high-quality answer for the given question using only the provided search results (some of which might be irrelevant).\n\n"
	fmt.Fprintf(w, "%-18s", "  in one text")
	for _, ratio := range ratios {
		inOne := method{apply: func(documents, question string, ratio float64) string {
			tail := "\nQuestion: " + question + "\nAnswer:"
			out := fixed(b.semantic, head+documents+tail, "", ratio).Text
			return strings.TrimSuffix(strings.TrimPrefix(out, head), tail)
		}}
		fmt.Fprintf(w, " %20s", b.retention(tasks, inOne, ratio))
	}
	fmt.Fprintln(w)
}

// ratios are the shares of the tokens that are kept in the tables.
var ratios = []float64{0.5, 0.25, 0.1}

func (b *bench) retention(tasks []task, m method, ratio float64) share {
	var kept share
	for _, t := range tasks {
		out := m.apply(t.documents, t.question, ratio)
		if n, most := b.count(out), ratio*float64(b.count(t.documents)); float64(n) > most {
			out = "" // over the budget counts as lost
		}
		kept.add(holds(out, t.answers))
	}
	return kept
}

// meetings prints the share of the annotated turns' tokens that the methods keep.
func (b *bench) meetings(w io.Writer) error {
	list, err := loadQMSum(b.dir)
	if err != nil {
		return err
	}
	chosen, queries := b.half(list)
	fmt.Fprintf(w, "\nQMSum: tokens of the annotated turns kept (%d meetings, %d queries)\n%-18s %20s %20s %20s\n", len(chosen), queries, "", "2x", "4x", "10x")
	for _, m := range methods(b.count, b.semantic, turnsOf) {
		fmt.Fprintf(w, "%-18s", m.name)
		for _, ratio := range ratios {
			fmt.Fprintf(w, " %20s", b.turnsKept(chosen, m, ratio))
		}
		fmt.Fprintln(w)
	}
	return nil
}

// half gives the meetings of the part, and how many queries they have.
func (b *bench) half(list []meeting) (chosen []meeting, queries int) {
	for i, m := range list {
		if i%2 == b.part {
			chosen = append(chosen, m)
			queries += len(m.queries)
		}
	}
	return chosen, queries
}

func (b *bench) turnsKept(meetings []meeting, m method, ratio float64) clustered {
	var values clustered
	for _, meeting := range meetings {
		text := strings.Join(meeting.turns, "\n") + "\n"
		var shares []float64
		for _, q := range meeting.queries {
			kept := keptTurns(meeting.turns, m.apply(text, q.text, ratio))
			all, got := 0, 0
			for i, turn := range meeting.turns {
				if q.relevant[i] {
					n := b.count(turn)
					all += n
					if kept[i] {
						got += n
					}
				}
			}
			shares = append(shares, 100*float64(got)/float64(max(all, 1)))
		}
		values = append(values, shares)
	}
	return values
}

// keptTurns finds the turns in an output that has them in their order, whole.
func keptTurns(turns []string, out string) []bool {
	kept := make([]bool, len(turns))
	next := 0
	for line := range strings.SplitSeq(out, "\n") {
		line = strings.TrimSpace(strings.TrimPrefix(line, "… "))
		for i := next; i < len(turns) && line != ""; i++ {
			if strings.HasPrefix(turns[i], line) {
				kept[i] = len(line)*2 > len(turns[i])
				next = i + 1
				break
			}
		}
	}
	return kept
}

// pairs prints whether keys and values survive.
func (b *bench) pairs(w io.Writer) error {
	tasks, err := loadKV(b.dir)
	if err != nil {
		return err
	}
	var asked, one, all share
	for i, t := range tasks {
		if i%2 != b.part {
			continue
		}
		out := fixed(b.semantic, t.object, "What is the value of the key \""+t.key+"\"?", 0.1).Text
		asked.add(strings.Contains(out, t.key) && strings.Contains(out, t.value) && b.count(out)*10 <= b.count(t.object))
		template := "Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n" + t.object + "\n\nKey: \"" + t.key + "\"\nCorresponding value:"
		out = fixed(b.semantic, template, "", 0.1).Text
		one.add(strings.Contains(out, t.key+`": "`+t.value))
		lossless := b.structural.Text(template, "", compress.Options{}).Text
		every := true
		for _, p := range t.pairs {
			every = every && strings.Contains(lossless, p[0]) && strings.Contains(lossless, p[1])
		}
		all.add(every)
	}
	fmt.Fprintf(w, "\n75 UUID pairs (n = %d): the asked pair at 10x, question apart %s, in one text with it %s; all pairs under lossless passes %s\n", asked.of, asked, one, all)
	return nil
}
