package compress

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode"

	"github.com/adpa/processor/stages/compress"
)

// method shortens documents for a question to a share of their tokens.
type method struct {
	name  string
	apply func(documents, question string, ratio float64) string
}

// methods are the product and what it is compared with. The others choose among
// the units that split gives.
func methods(count compress.Counter, c *compress.Compressor, split func(string) []string) []method {
	return []method{
		{"truncation", func(documents, _ string, ratio float64) string { return truncate(documents, ratio, count) }},
		{"random sentences", func(documents, _ string, ratio float64) string {
			random := rand.New(rand.NewPCG(uint64(len(documents)), 1))
			return pick(split(documents), ratio, count, func(units []string) []float64 {
				scores := make([]float64, len(units))
				for i := range scores {
					scores[i] = random.Float64()
				}
				return scores
			})
		}},
		{"whitespace BM25", func(documents, question string, ratio float64) string {
			return pick(split(documents), ratio, count, func(units []string) []float64 { return plainBM25(units, question) })
		}},
		{"processor", func(documents, question string, ratio float64) string {
			return fixed(c, documents, question, ratio).Text
		}},
	}
}

// documentMethods are methods with one more that is made for documents.
func documentMethods(count compress.Counter, c *compress.Compressor) []method {
	recipe := method{"stemmed BM25", func(documents, question string, ratio float64) string {
		return pick(sentencesOf(documents), ratio, count, func(units []string) []float64 { return stemmedBM25(units, question) })
	}}
	list := methods(count, c, sentencesOf)
	return slices.Insert(list, len(list)-1, recipe)
}

// fixed compresses to a ratio, without a floor.
func fixed(c *compress.Compressor, documents, question string, ratio float64) compress.Result {
	none := 0.0
	return c.Text(documents, question, compress.Options{TargetRatio: &ratio, QualityThreshold: &none})
}

// adaptive compresses as far as a preservation allows.
func adaptive(c *compress.Compressor, documents, question string, floor float64) compress.Result {
	none := 0.0
	return c.Text(documents, question, compress.Options{TargetRatio: &none, QualityThreshold: &floor})
}

// truncate keeps the beginning.
func truncate(text string, ratio float64, count compress.Counter) string {
	budget := int(ratio * float64(count(text)))
	low, high := 0, len(text)
	for low < high {
		if middle := (low + high + 1) / 2; count(text[:middle]) <= budget {
			low = middle
		} else {
			high = middle - 1
		}
	}
	return text[:low]
}

// pick keeps the units of the highest scores that fit.
func pick(units []string, ratio float64, count compress.Counter, score func([]string) []float64) string {
	scores := score(units)
	order := make([]int, len(units))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	budget := int(ratio * float64(count(strings.Join(units, ""))))
	keep := make([]bool, len(units))
	for _, i := range order {
		if n := count(units[i]); n <= budget {
			budget -= n
			keep[i] = true
		}
	}
	var b strings.Builder
	for i, u := range units {
		if keep[i] {
			b.WriteString(u)
		}
	}
	return b.String()
}

// turnsOf cuts at the ends of lines.
func turnsOf(text string) []string { return strings.SplitAfter(text, "\n") }

// sentencesOf cuts behind a stop that a blank and a capital follow, and at the
// ends of lines.
func sentencesOf(text string) []string {
	var list []string
	from := 0
	for i := 1; i < len(text); i++ {
		stop := text[i-1] == '\n' || i > 1 && text[i-1] == ' ' && strings.IndexByte(".?!", text[i-2]) >= 0 && unicode.IsUpper(rune(text[i]))
		if stop {
			list = append(list, text[from:i])
			from = i
		}
	}
	return append(list, text[from:])
}

// plainBM25 is the baseline of the literature on prompt compression: words are
// what stands between blanks.
func plainBM25(units []string, question string) []float64 {
	const k1, b = 1.5, 0.75
	counts := make([]map[string]float64, len(units))
	holders := map[string]float64{}
	average := 0.0
	for i, u := range units {
		counts[i] = map[string]float64{}
		for w := range strings.FieldsSeq(u) {
			counts[i][w]++
		}
		for w := range counts[i] {
			holders[w]++
		}
		average += float64(len(strings.Fields(u))) / float64(len(units))
	}
	scores := make([]float64, len(units))
	for i, u := range units {
		length := float64(len(strings.Fields(u)))
		for w := range strings.FieldsSeq(question) {
			f := counts[i][w]
			idf := math.Log(1 + (float64(len(units))-holders[w]+0.5)/(holders[w]+0.5))
			scores[i] += idf * f * (k1 + 1) / (f + k1*(1-b+b*length/average))
		}
	}
	return scores
}
