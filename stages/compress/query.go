package compress

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// query is what documents are read for.
type query struct {
	terms map[string]int // term to its number
	size  int            // how many different terms
	heads map[string]int // how long terms begin, to their number
	set   prefixSet
	names []string // identifiers, numbers and quoted strings, as they are written

	roots []string // the terms by their number, without their other forms
	stops int      // how many words say nothing by themselves
	wants want

	// What the thesaurus knows, behind relate:
	prior     []float64        // the weight of each term
	related   map[string]int32 // words that are related to terms, to their number
	relations [][]relation     // by the number of the word
}

// maxQueryTerms bounds the terms of a query, and with it the work for each
// segment.
const maxQueryTerms = 64

// headSize is how many bytes of two terms must agree to be taken for forms of
// one word.
const headSize = 5

func newQuery(text string) *query {
	q := &query{terms: map[string]int{}, heads: map[string]int{}, related: map[string]int32{}}
	r := termReader{text: text}
	for {
		term, _, ok := r.next()
		if !ok {
			break
		}
		q.addTerm(string(term))
	}
	q.names = identifiers(text)
	q.wants = wantOf(text)
	return q
}

func (q *query) addTerm(term string) {
	if !carries(term) {
		q.stops++
		return
	}
	if _, known := q.terms[term]; known {
		return
	}
	if q.size == maxQueryTerms {
		return
	}
	n := q.size
	q.size++
	q.set.add(term)
	q.terms[term] = n
	q.roots = append(q.roots, term)
	if _, known := q.heads[term[:min(len(term), headSize)]]; !known && hasHead([]byte(term)) {
		q.heads[term[:headSize]] = n
	}
	for _, other := range formsOf[term] {
		if _, known := q.terms[other]; !known {
			q.terms[other] = n
			q.set.add(other)
		}
	}
}

// begins gives the term of the query that begins as a term does.
func (q *query) begins(term []byte) (n int, found bool) {
	if !hasHead(term) {
		return 0, false
	}
	n, found = q.heads[string(term[:headSize])]
	return n, found
}

// hasHead reports whether a term is long enough to be compared by its beginning,
// in an alphabet in which bytes are letters.
func hasHead(term []byte) bool { return len(term) >= headSize && term[0] < utf8.RuneSelf }

// identifiers gives the parts of a query that have to be found as they are:
// numbers, quoted strings, code identifiers, paths, addresses, UUIDs.
func identifiers(text string) []string {
	const most = 16
	var names []string
	add := func(s string) {
		s = strings.Trim(s, ".,:;?!()[]{}\"'`")
		if len(s) > 1 && len(names) < most && !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	for _, quote := range []string{`"`, "`"} {
		parts := strings.Split(text, quote)
		for i := 1; i+1 < len(parts); i += 2 {
			if len(parts[i]) <= 200 {
				add(parts[i])
			}
		}
	}
	for word := range strings.FieldsSeq(text) {
		if isIdentifier(strings.Trim(word, ".,:;?!()[]{}\"'`")) {
			add(word)
		}
	}
	return names
}

// isIdentifier reports whether a word is more than a word of a language.
func isIdentifier(word string) bool {
	inner := false
	for i := range len(word) {
		switch c := word[i]; {
		case digit(c), c == '_', c == '/', c == '\\', c == '@', c == ':':
			return len(word) > 1
		case i > 0 && c >= 'A' && c <= 'Z' && word[i-1] >= 'a' && word[i-1] <= 'z':
			inner = true
		case i > 0 && i+1 < len(word) && c == '.' && isLetter(word[i-1]) && isLetter(word[i+1]):
			inner = len(word) > 4
		}
	}
	return inner
}
