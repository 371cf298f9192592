package compress

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// Half of a set: what was looked at while the compressor was made, and what was
// kept for the report.
const (
	develop = 1
	report  = 0
)

// nqTasks builds prompts of 20 documents: the passage with the answer, at a place
// that goes round, and 19 passages of other questions without it. The hard ones
// are the nearest to the question by BM25, the others random.
func nqTasks(passages []passage, part int, hard bool) []task {
	index := newIndex(passages)
	random := rand.New(rand.NewPCG(3, 4))
	var tasks []task
	for i, p := range passages {
		if i%2 != part {
			continue
		}
		var others []int
		if hard {
			others = index.nearest(p.Question)
		} else {
			others = random.Perm(len(passages))
		}
		others = slices.DeleteFunc(others, func(d int) bool {
			text := passages[d].Contexts[0].Text
			return text == p.Contexts[0].Text || holds(text, p.Answers)
		})
		const documents = 20
		if len(others) < documents-1 {
			continue
		}
		chosen := slices.Insert(slices.Clone(others[:documents-1]), len(tasks)%documents, i)
		var titled, plain strings.Builder
		for n, d := range chosen {
			c := passages[d].Contexts[0]
			fmt.Fprintf(&titled, "Document [%d](Title: %s) %s\n", n+1, c.Title, c.Text)
			fmt.Fprintf(&plain, "%s\n\n", c.Text)
		}
		tasks = append(tasks, task{titled.String(), plain.String(), p.Question, p.Answers})
	}
	return tasks
}

// withoutTitles gives the tasks with their documents as plain paragraphs.
func withoutTitles(tasks []task) []task {
	plain := slices.Clone(tasks)
	for i := range plain {
		plain[i].documents = plain[i].untitled
	}
	return plain
}

// index finds passages by BM25 over words in lower case.
type index struct {
	holds   map[string]map[int]float64 // word, passage, how often
	lengths []float64
	average float64
}

func newIndex(passages []passage) *index {
	x := &index{holds: map[string]map[int]float64{}, lengths: make([]float64, len(passages))}
	for i, p := range passages {
		for _, w := range wordsOf(p.Contexts[0].Title + " " + p.Contexts[0].Text) {
			if x.holds[w] == nil {
				x.holds[w] = map[int]float64{}
			}
			x.holds[w][i]++
			x.lengths[i]++
		}
		x.average += x.lengths[i] / float64(len(passages))
	}
	return x
}

func (x *index) nearest(question string) []int {
	scores := map[int]float64{}
	for _, w := range wordsOf(question) {
		n := float64(len(x.holds[w]))
		idf := math.Log(1 + (float64(len(x.lengths))-n+0.5)/(n+0.5))
		for d, f := range x.holds[w] {
			scores[d] += idf * f * 2.2 / (f + 1.2*(0.25+0.75*x.lengths[d]/x.average))
		}
	}
	order := make([]int, 0, len(scores))
	for d := range scores {
		order = append(order, d)
	}
	slices.SortFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(scores[b], scores[a]), cmp.Compare(a, b))
	})
	return order
}

// wordsOf cuts at everything but letters and digits and takes common endings off.
func wordsOf(text string) []string {
	list := strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return r < 128 && (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	for i, w := range list {
		for _, ending := range []string{"ing", "ed", "es", "s"} {
			if len(w) > len(ending)+3 && strings.HasSuffix(w, ending) {
				list[i] = strings.TrimSuffix(w, ending)
				break
			}
		}
	}
	return list
}

// xquadTasks builds prompts of the 15 paragraphs of three articles, the one with
// the answer in the middle.
func xquadTasks(articles []article, part int) []task {
	var tasks []task
	for i := range articles {
		if i%2 == part {
			before, behind := articles[(i-1+len(articles))%len(articles)], articles[(i+1)%len(articles)]
			tasks = append(tasks, articles[i].tasks(before, behind)...)
		}
	}
	return tasks
}

// squadTasks builds the same prompts of the longer articles of SQuAD: each five
// paragraphs in a row, between five each of two others of the same part.
func squadTasks(articles []article, part int) []task {
	var runs []article
	var from []int // the article of each run
	for i, a := range articles {
		const run = 5
		for n := 0; i%2 == part && n+run <= len(a.Paragraphs); n += run {
			runs = append(runs, article{a.Paragraphs[n : n+run]})
			from = append(from, i)
		}
	}
	if len(from) == 0 || from[0] == from[len(from)-1] {
		return nil // no two articles
	}
	random := rand.New(rand.NewPCG(7, 8))
	other := func(i int) article {
		for {
			if k := random.IntN(len(runs)); from[k] != from[i] {
				return runs[k]
			}
		}
	}
	var tasks []task
	for i, r := range runs {
		tasks = append(tasks, r.tasks(other(i), other(i))...)
	}
	return tasks
}

// tasks are the questions on an article, asked of its paragraphs between those
// of two others.
func (a article) tasks(before, behind article) []task {
	var paragraphs []string
	for _, x := range []article{before, a, behind} {
		for _, p := range x.Paragraphs {
			paragraphs = append(paragraphs, p.Context)
		}
	}
	documents := strings.Join(paragraphs, "\n\n")
	var tasks []task
	for _, p := range a.Paragraphs {
		for _, q := range p.Questions {
			if len(q.Answers) > 0 {
				tasks = append(tasks, task{documents, "", q.Question, []string{q.Answers[0].Text}})
			}
		}
	}
	return tasks
}
