package compress

// The English stemmer of Martin Porter, second version
// (snowballstem.org/algorithms/english/stemmer.html), without its lists of
// exceptions: it serves to compare words, not to print them. A word keeps its
// first two letters.

// stem shortens an ASCII word in lower case in place and gives what is left.
func stem(w []byte) []byte {
	if len(w) < 3 {
		return w
	}
	for _, c := range w {
		if c < 'a' || c > 'z' {
			return w // numbers, and words of other languages
		}
	}
	r1, r2 := stemRegions(w)
	w = stemPlural(w)
	w = stemVerb(w, r1)
	if n := len(w); n > 2 && w[n-1] == 'y' && !isVowel(w, n-2) {
		w[n-1] = 'i'
	}
	w = stemSuffix(w, r1)
	w = stemLast(w, r2)
	return stemE(w, r1, r2)
}

func isVowel(w []byte, i int) bool {
	switch w[i] {
	case 'a', 'e', 'i', 'o', 'u':
		return true
	case 'y':
		return i > 0 && !isVowel(w, i-1)
	}
	return false
}

// stemRegions gives where R1 and R2 start: behind the first consonant that
// follows a vowel, and the same again within R1.
func stemRegions(w []byte) (r1, r2 int) {
	r1 = regionFrom(w, 0)
	return r1, regionFrom(w, r1)
}

func regionFrom(w []byte, at int) int {
	for i := at + 1; i < len(w); i++ {
		if !isVowel(w, i) && isVowel(w, i-1) {
			return i + 1
		}
	}
	return len(w)
}

func ends(w []byte, suffix string) bool {
	return len(w) >= len(suffix) && string(w[len(w)-len(suffix):]) == suffix
}

func hasVowel(w []byte) bool {
	for i := range w {
		if isVowel(w, i) {
			return true
		}
	}
	return false
}

// stemPlural is step 1a.
func stemPlural(w []byte) []byte {
	n := len(w)
	switch {
	case ends(w, "sses"):
		return w[:n-2]
	case ends(w, "ied"), ends(w, "ies"):
		if n > 4 {
			return w[:n-2]
		}
		return w[:n-1]
	case w[n-1] != 's' || ends(w, "us") || ends(w, "ss"):
		return w
	case hasVowel(w[:n-2]):
		return w[:n-1]
	}
	return w
}

// stemVerb is step 1b.
func stemVerb(w []byte, r1 int) []byte {
	for _, s := range [...]string{"eedly", "eed"} {
		if ends(w, s) {
			if cut := len(w) - len(s); cut >= r1 {
				return w[:cut+2]
			}
			return w
		}
	}
	for _, s := range [...]string{"ingly", "edly", "ing", "ed"} {
		if !ends(w, s) {
			continue
		}
		cut := len(w) - len(s)
		if cut < 2 || !hasVowel(w[:cut]) {
			return w
		}
		return restoreVerb(w[:cut], r1)
	}
	return w
}

func restoreVerb(w []byte, r1 int) []byte {
	n := len(w)
	switch {
	case ends(w, "at"), ends(w, "bl"), ends(w, "iz"):
		return append(w, 'e')
	case n > 2 && w[n-1] == w[n-2] && !isVowel(w, n-1) && w[n-1] != 'l' && w[n-1] != 's' && w[n-1] != 'z':
		return w[:n-1]
	case n > 3 && (w[n-1] == 'l' && w[n-2] == 'l'):
		return w[:n-1]
	case r1 >= n && isShort(w):
		return append(w, 'e')
	}
	return w
}

// isShort reports whether a word ends in a short syllable.
func isShort(w []byte) bool {
	n := len(w)
	if n == 2 {
		return isVowel(w, 0) && !isVowel(w, 1)
	}
	return n > 2 && !isVowel(w, n-3) && isVowel(w, n-2) && !isVowel(w, n-1) && w[n-1] != 'w' && w[n-1] != 'x' && w[n-1] != 'y'
}

type suffixRule struct{ suffix, with string }

// stemSuffix is steps 2 and 3. Longer suffixes stand before those that they end in.
func stemSuffix(w []byte, r1 int) []byte {
	return replaceSuffix(replaceSuffix(w, r1, suffixes2[:]), r1, suffixes3[:])
}

var suffixes2 = [...]suffixRule{
	{"ization", "ize"}, {"ational", "ate"}, {"fulness", "ful"}, {"ousness", "ous"}, {"iveness", "ive"},
	{"tional", "tion"}, {"biliti", "ble"}, {"lessli", "less"}, {"entli", "ent"}, {"ation", "ate"}, {"alism", "al"},
	{"aliti", "al"}, {"ousli", "ous"}, {"iviti", "ive"}, {"fulli", "ful"}, {"enci", "ence"}, {"anci", "ance"},
	{"abli", "able"}, {"izer", "ize"}, {"ator", "ate"}, {"alli", "al"}, {"bli", "ble"},
}

var suffixes3 = [...]suffixRule{
	{"ational", "ate"}, {"tional", "tion"}, {"alize", "al"}, {"icate", "ic"}, {"iciti", "ic"}, {"ical", "ic"},
	{"ness", ""}, {"ful", ""},
}

func replaceSuffix(w []byte, r1 int, rules []suffixRule) []byte {
	for _, r := range rules {
		if ends(w, r.suffix) {
			if cut := len(w) - len(r.suffix); cut >= r1 {
				return append(w[:cut], r.with...)
			}
			return w
		}
	}
	return w
}

var suffixes4 = [...]string{
	"ement", "ance", "ence", "able", "ible", "ment", "ant", "ent", "ism", "ate", "iti", "ous", "ive", "ize", "ion", "al", "er", "ic",
}

// stemLast is step 4.
func stemLast(w []byte, r2 int) []byte {
	for _, s := range suffixes4 {
		if !ends(w, s) {
			continue
		}
		cut := len(w) - len(s)
		if cut < r2 || s == "ion" && (cut == 0 || w[cut-1] != 's' && w[cut-1] != 't') {
			return w
		}
		return w[:cut]
	}
	return w
}

// stemE is step 5.
func stemE(w []byte, r1, r2 int) []byte {
	n := len(w)
	if n < 3 {
		return w
	}
	switch {
	case w[n-1] == 'e' && (n-1 >= r2 || n-1 >= r1 && !isShort(w[:n-1])):
		return w[:n-1]
	case w[n-1] == 'l' && w[n-2] == 'l' && n-1 >= r2:
		return w[:n-1]
	}
	return w
}
