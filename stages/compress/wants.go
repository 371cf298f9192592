package compress

import (
	"strings"
	"unicode"
)

// want is what a question asks for, as far as its answer can be told by its form.
type want uint8

const (
	anything want = iota
	aYear
	aNumber
)

// The bonuses of sentences that hold what is asked for.
const (
	yearBonus   = 0.35
	numberBonus = 0.2
)

// wantOf reads a question in English; of others it gives anything.
func wantOf(question string) want {
	before, which := "", false
	for word := range strings.FieldsFuncSeq(strings.ToLower(question), func(r rune) bool { return !unicode.IsLetter(r) }) {
		switch word {
		case "when":
			return aYear
		case "what", "which":
			which = true
		case "year", "years", "month", "date", "day", "decade", "century":
			if which {
				return aYear
			}
		case "many", "much", "long", "old", "far", "large", "big", "high", "tall", "often":
			if before == "how" {
				return aNumber
			}
		case "percent", "percentage", "population":
			return aNumber
		}
		before = word
	}
	return anything
}

// bonus gives what a sentence gets for holding what is asked for.
func (w want) bonus(text string) float64 {
	switch {
	case w == aYear && holdsYear(text):
		return yearBonus
	case w == aNumber && strings.ContainsAny(text, "0123456789"):
		return numberBonus
	}
	return 0
}

// holdsYear reports whether a text has a number of four digits that can be a year,
// or a decade ("50s").
func holdsYear(text string) bool {
	for i := 0; i < len(text); i++ {
		if !digit(text[i]) {
			continue
		}
		start := i
		for i < len(text) && digit(text[i]) {
			i++
		}
		if i-start == 4 && (text[start] == '1' || text[start] == '2') || i < len(text) && text[i] == 's' {
			return true
		}
	}
	return false
}
