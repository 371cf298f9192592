package compress

import (
	"slices"
	"strings"
)

// wantedBonus is what a segment with the kind of answer that a question asks for
// gains. It decides only between segments that are nearly as relevant. Found as
// the other weights are.
const wantedBonus = 0.2

// wantedBy gives the test for the kind of answer that a question in English asks
// for: a time for "when" and "what year", a quantity for "how many"; nil for
// others. Names, the answers to "who" and "where", stand in most sentences, so
// they tell nothing.
func wantedBy(question string) func(text string) bool {
	const most = 1 << 10 // bytes; what is longer is no question
	words := strings.FieldsFunc(strings.ToLower(question[:min(len(question), most)]), func(r rune) bool {
		return r < 'a' || r > 'z'
	})
	for i, w := range words {
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		switch {
		case w == "how" && slices.Contains(degrees, next), (w == "what" || w == "which" || w == "the") && slices.Contains(measures, next):
			return holdsQuantity
		case w == "when", (w == "what" || w == "which") && slices.Contains(times, next):
			return holdsTime
		}
	}
	return nil
}

var (
	degrees  = strings.Fields("many much long old tall high far large big fast often deep wide heavy")
	measures = strings.Fields("percent percentage number amount population distance age size proportion fraction temperature cost price")
	times    = strings.Fields("year date day month century decade time")
)

// holdsTime reports whether a text names a year, a month or a century. March and
// May, which are words as well, are left out: they come with a year as a rule.
func holdsTime(text string) bool {
	for i := 0; i < len(text); i++ {
		from := i
		for i < len(text) && digit(text[i]) {
			i++
		}
		if n := i - from; n == 3 || n == 4 {
			return true
		}
	}
	return holdsWord(text, timeWords)
}

// holdsQuantity reports whether a text has a number, in digits or in words.
func holdsQuantity(text string) bool {
	return strings.ContainsAny(text, "0123456789") || holdsWord(text, quantityWords)
}

// wordSet is words that termReader finds in a text, in any form.
type wordSet struct {
	heads prefixSet
	stems map[string]bool
}

var (
	timeWords = newWordSet("january february april june july august september october november december century centuries")
	// "one" is left out: it seldom says how many.
	quantityWords = newWordSet(`two three four five six seven eight nine ten eleven twelve dozen twenty thirty forty fifty sixty seventy
	eighty ninety hundred thousand million billion half third quarter percent twice once couple several`)
)

func newWordSet(words string) *wordSet {
	s := &wordSet{stems: map[string]bool{}}
	for w := range strings.FieldsSeq(words) {
		s.heads.add(w)
		s.stems[string(stem([]byte(w)))] = true
	}
	return s
}

func holdsWord(text string, s *wordSet) bool {
	r := termReader{text: text, accept: &s.heads}
	for {
		term, wanted, ok := r.next()
		if !ok {
			return false
		}
		if wanted && s.stems[string(term)] {
			return true
		}
	}
}
