package cache

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/adpa/processor/schemas"
)

// maxNormalized is the longest text that is normalized, in bytes: what is
// longer is no question that somebody else words a little differently.
const maxNormalized = 8 << 10

// normalizedPrefix tells a normalized fingerprint from an exact one. Its number
// changes with the form of Normalize: what was stored under another form is not
// found any more.
const normalizedPrefix = "n3-"

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
// false for code, mathematics, tasks with a text that is given along with them,
// questions about signs and what has no words: there each sign matters.
//
// Symbols stay, so that C++ is not C, and so do the capitals of single letters,
// so that vitamin A is no article, and of acronyms in short texts. What is quoted
// keeps its articles and plurals.
func Normalize(text string) (normal string, ok bool) {
	text = strings.Map(plainQuote, strings.TrimSpace(text))
	if strings.Count(text, "'") > 1 {
		text = singleQuoted.ReplaceAllString(text, `"$1"`)
	}
	if isCode(text) || hasMaterial(text) || quotesSigns(text) {
		return "", false
	}
	words := splitWords(text)
	if slices.ContainsFunc(words, word.isAboutText) {
		return "", false
	}
	english := isASCII(text)
	if english {
		words = withoutArticles(withoutGreeting(slices.DeleteFunc(words, word.isPolite)))
	}
	shouted := text == strings.ToUpper(text)
	short := countOthers(words) < minThe
	kept := make([]string, len(words))
	for i, w := range words {
		switch {
		case !shouted && (isAcronym[w.text] || short && w.isCapitals()):
			kept[i] = w.text
		case english && i > 0 && len(words) >= minPlural && !w.quoted && w.text[0] >= 'a':
			kept[i] = singular(w.lower)
		default:
			kept[i] = w.lower
		}
	}
	return strings.Join(kept, " "), len(kept) > 0
}

// minPlural is how many words a text must have for the plural not to matter:
// what security is, and what securities are, are two questions. Of pairs with
// six to eight words that differ in it alone, one in eleven asks for two things.
const minPlural = 9

// minThe is how many words a text must have, but articles, for "the" and the
// capitals of acronyms not to matter: what the cloud is, and what a cloud is, are
// two questions, and so are what REST is, and what rest is.
const minThe = 4

// isAcronym are those that would be other words without their capitals.
var isAcronym = map[string]bool{"US": true, "IT": true, "WHO": true}

// hasMaterial finds what is given along with a task, behind a colon or a break of
// lines, in a text without white space around it.
func hasMaterial(text string) bool {
	return strings.Contains(text, ": ") || strings.ContainsAny(text, "\n\r")
}

// singleQuoted is what stands in single quotation marks, without apostrophes.
var singleQuoted = regexp.MustCompile(`\B'([^']+)'\B`)

// quotesSigns finds a quotation without a letter or a digit: what signs mean is
// asked about.
func quotesSigns(text string) bool {
	parts := strings.Split(text, `"`)
	for i := 1; i+1 < len(parts); i += 2 {
		if parts[i] != "" && !strings.ContainsFunc(parts[i], isAlphanumeric) {
			return true
		}
	}
	return false
}

func isAlphanumeric(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// aboutText are words of tasks with a text that is given along with them.
var aboutText = wordSet("following below translate translation proofread grammar grammatical grammatically spell spelled " +
	"spelling punctuation capitalize rewrite rephrase paraphrase summarize summarise sentence sentences paragraph passage " +
	"passages phrase phrases word words letters plural singular rhyme rhymes")

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		set[w] = true
	}
	return set
}

// word is one of a text, without the punctuation around it.
type word struct {
	text       string // as it is written
	lower      string
	starts     bool // a sentence
	apart      bool // starts a sentence or stands behind a comma
	quoted     bool
	afterLower bool // the word before begins with a small letter
}

func splitWords(text string) []word {
	fields := strings.Fields(text)
	words := make([]word, 0, len(fields))
	starts, apart, quoted, afterLower := true, true, false, false
	for _, written := range fields {
		marks := strings.Count(written, `"`)
		if trimmed := trimSentence(written); trimmed != "" {
			words = append(words, word{
				text: trimmed, lower: strings.ToLower(trimmed),
				starts: starts, apart: apart, quoted: quoted || marks > 0, afterLower: afterLower,
			})
			afterLower = trimmed[0] >= 'a'
		}
		quoted = quoted != (marks%2 == 1)
		starts = endsSentence(written)
		apart = starts || strings.HasSuffix(written, ",")
	}
	return words
}

// isArticle takes a capital for that of a name (vitamin A, watch The Office), but
// where a sentence begins, and for The where all words have one (Is The Best).
func (w word) isArticle() bool {
	switch w.text {
	case "a", "an", "the", "THE":
		return !w.quoted
	case "A", "An":
		return !w.quoted && w.starts
	case "The":
		return !w.quoted && (w.starts || !w.afterLower)
	}
	return false
}

// isCapitals finds acronyms, and words that are stressed.
func (w word) isCapitals() bool {
	return len(w.text) > 1 && !strings.ContainsFunc(w.text, func(r rune) bool { return !unicode.IsUpper(r) })
}

func (w word) isPolite() bool {
	switch w.lower {
	case "please", "pls", "plz", "kindly":
		return !w.quoted
	}
	return false
}

func (w word) isAboutText() bool { return aboutText[w.lower] }

// withoutArticles drops the articles, but "the" where there are few other words,
// and those that make another amount: few are not a few.
func withoutArticles(words []word) []word {
	keepThe := countOthers(words) < minThe
	kept := make([]word, 0, len(words))
	for i, w := range words {
		counts := keepThe && w.lower == "the" || i+1 < len(words) && isAmount[words[i+1].lower]
		if counts || !w.isArticle() {
			kept = append(kept, w)
		}
	}
	return kept
}

// isAmount are words before which an article makes a difference.
var isAmount = wordSet("few little number")

// countOthers counts the words that are no articles.
func countOthers(words []word) (n int) {
	for _, w := range words {
		if !w.isArticle() {
			n++
		}
	}
	return n
}

// isCode reports whether a text of one line has signs of code or mathematics.
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
		case r == '(' && i > 0 && isLetter(text[i-1]): // a call
			return true
		case r == ';' && i+1 == len(text):
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

// withoutGreeting drops a greeting before and thanks behind a text, where a comma
// or the end of a sentence sets them apart: Hello Kitty is no greeting.
func withoutGreeting(words []word) []word {
	for len(words) > 1 && words[1].apart && isGreeting[words[0].lower] {
		words = words[1:]
	}
	for i := max(1, len(words)-longestThanks); i < len(words); i++ {
		if words[i].apart && isThanks(words[i:]) {
			return words[:i]
		}
	}
	return words
}

var isGreeting = wordSet("hi hello hey")

// longestThanks is how many words isThanks knows at most.
const longestThanks = 4

func isThanks(words []word) bool {
	lower := make([]string, len(words))
	for i, w := range words {
		lower[i] = w.lower
	}
	switch strings.Join(lower, " ") {
	case "thanks", "thank you", "thanks in advance", "thank you in advance":
		return true
	}
	return false
}

// notPlural are words whose last s makes another word.
var notPlural = map[string]bool{
	"news": true, "series": true, "species": true, "means": true, "goods": true, "arms": true, "customs": true,
	"glasses": true, "always": true, "besides": true, "times": true, "lens": true, "whereas": true, "thus": true,
	"sometimes": true, "contents": true, "savings": true, "manners": true, "premises": true, "remains": true, "odds": true,
	"regards": true, "shorts": true, "pants": true, "clothes": true, "windows": true, "canvas": true,
	"does": true, "this": true, "his": true, "hers": true, "ours": true, "yours": true, "theirs": true, "as": true,
}

// singular takes the plural from an English word in lower case.
func singular(word string) string {
	n := len(word)
	switch {
	case n < 4 || word[n-1] != 's' || notPlural[word] || strings.ContainsFunc(word, func(r rune) bool { return r < 'a' || r > 'z' }):
		return word
	case strings.HasSuffix(word, "ics"): // economics are not economic
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
