package cache

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/adpa/processor/schemas"
)

// maxNormalized is the longest text that is normalized, in bytes: what is
// longer is no question that somebody else words a little differently.
const maxNormalized = 8 << 10

// normalizedPrefix tells a normalized fingerprint from an exact one.
const normalizedPrefix = "n-"

// NormalizedFingerprint is the fingerprint of a chat request in which the text
// of the last message, the user's, is brought into the form of Normalize;
// everything else counts as in Fingerprint. It is empty where a request has
// none: if the last message is not the user's or not text alone, or if Normalize
// leaves it alone.
func NormalizedFingerprint(body, options []byte) string {
	whole, ok := schemas.Member(body, "messages")
	if !ok {
		return ""
	}
	var last schemas.Span
	schemas.Elements(whole.Of(body), func(e schemas.Span) bool {
		last = schemas.Span{Start: whole.Start + e.Start, End: whole.Start + e.End}
		return true
	})
	message := last.Of(body)
	role, _ := schemas.Member(message, "role")
	content, ok := schemas.Member(message, "content")
	if !ok || string(role.Of(message)) != `"user"` || message[content.Start] != '"' || content.End-content.Start > maxNormalized {
		return ""
	}
	text, err := schemas.Unquote(content.Of(message))
	if err != nil {
		return ""
	}
	text, ok = Normalize(text)
	if !ok {
		return ""
	}
	start, end := last.Start+content.Start, last.Start+content.End
	return normalizedPrefix + Fingerprint(slices.Concat(body[:start], schemas.Quote(text), body[end:]), options)
}

// Normalize gives the form that texts share which ask the same in nearly the
// same words: without differences of case, white space, punctuation of
// sentences, articles, politeness and, of words in lower case, the plural. ok is
// false for code, mathematics and what has no words: there each sign matters.
//
// It is the canonical equality that finds duplicates among real questions with
// 97 % precision, where similarity of words or embeddings errs in half of them.
// Symbols stay, so that C++ is not C, and so do the capitals of single letters,
// so that vitamin A is no article.
func Normalize(text string) (normal string, ok bool) {
	if isCode(text) {
		return "", false
	}
	text = strings.Map(plainQuote, text)
	words := strings.Fields(text)
	english := isASCII(text)
	kept := words[:0]
	startsSentence := true
	for _, written := range words {
		word := trimSentence(written)
		first := startsSentence
		startsSentence = endsSentence(written)
		if word == "" || english && (isArticle(word, first) || isPolite(strings.ToLower(word))) {
			continue
		}
		kept = append(kept, word)
	}
	for i, word := range kept {
		if english && i > 0 && len(kept) >= minPlural && word[0] >= 'a' {
			word = singular(word)
		}
		kept[i] = strings.ToLower(word)
	}
	if english {
		kept = withoutGreeting(kept)
	}
	return strings.Join(kept, " "), len(kept) > 0
}

// minPlural is how many words a text must have for the plural not to matter:
// what security is, and what securities are, are two questions. Of pairs with
// six to eight words that differ in it alone, one in eleven asks for two things.
const minPlural = 9

// isCode reports whether a text has signs of code or mathematics.
func isCode(text string) bool {
	digits, operators := false, false
	for i, r := range text {
		switch {
		case r >= '0' && r <= '9':
			digits = true
		case strings.ContainsRune("`{}[]<>=\\|~^_", r), r > unicode.MaxASCII && unicode.Is(unicode.Sm, r):
			return true
		case strings.ContainsRune("+*/%", r), r == '-' && strings.HasPrefix(text[i+1:], " "), r == '-' && i > 0 && isDigit(text[i-1]):
			operators = true
		case r == '\n' && i+1 < len(text) && (text[i+1] == ' ' || text[i+1] == '\t'): // indented
			return true
		case r == '(' && i > 0 && isLetter(text[i-1]): // a call
			return true
		case r == ';' && (i+1 == len(text) || text[i+1] == '\n'):
			return true
		}
	}
	return digits && operators
}

func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// plainQuote makes one form of the quotation marks and drops what has no width.
func plainQuote(r rune) rune {
	switch r {
	case '‘', '’', 'ʼ':
		return '\''
	case '“', '”', '„':
		return '"'
	case '\u200b', '\ufeff', '\u00ad':
		return -1
	}
	return r
}

// trimSentence takes the punctuation of sentences from the ends of a word.
func trimSentence(word string) string {
	word = strings.TrimRight(word, ".,?!;:\"'…。，？！；：、")
	return strings.TrimLeft(word, "\"'¿¡")
}

func endsSentence(word string) bool {
	word = strings.TrimRight(word, `"'`)
	return word != "" && strings.IndexByte(".?!:", word[len(word)-1]) >= 0
}

// isArticle takes a capital A for a name, but where a sentence begins.
func isArticle(word string, startsSentence bool) bool {
	switch word {
	case "a", "an", "the", "The", "THE":
		return true
	case "A", "An":
		return startsSentence
	}
	return false
}

func isPolite(word string) bool {
	switch word {
	case "please", "pls", "plz", "kindly":
		return true
	}
	return false
}

// withoutGreeting drops a greeting before and thanks behind a text.
func withoutGreeting(words []string) []string {
	for len(words) > 1 && (words[0] == "hi" || words[0] == "hello" || words[0] == "hey") {
		words = words[1:]
	}
	for _, thanks := range [][]string{{"thanks"}, {"thank", "you"}, {"thanks", "in", "advance"}} {
		if n := len(words) - len(thanks); n > 1 && slices.Equal(words[n:], thanks) {
			return words[:n]
		}
	}
	return words
}

// notPlural are words whose last s makes another word.
var notPlural = map[string]bool{
	"news": true, "series": true, "species": true, "means": true, "goods": true, "arms": true, "customs": true,
	"glasses": true, "always": true, "besides": true, "times": true, "lens": true, "whereas": true, "thus": true,
	"does": true, "this": true, "his": true, "hers": true, "ours": true, "yours": true, "theirs": true, "as": true,
}

// singular takes the plural from an English word in lower case.
func singular(word string) string {
	n := len(word)
	switch {
	case n < 4 || word[n-1] != 's' || notPlural[word] || strings.ContainsFunc(word, func(r rune) bool { return r < 'a' || r > 'z' }):
		return word
	case strings.HasSuffix(word, "ies") && n > 4:
		return word[:n-3] + "y"
	case strings.HasSuffix(word, "sses"), strings.HasSuffix(word, "shes"), strings.HasSuffix(word, "ches"), strings.HasSuffix(word, "xes"):
		return word[:n-2]
	}
	switch word[n-2] {
	case 's', 'u', 'i', '\'': // glass, virus, basis
		return word
	}
	return word[:n-1]
}
