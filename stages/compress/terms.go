package compress

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A term is what two texts are compared by: a word in lower case, without
// accents and stemmed; a number; two neighbouring characters of Chinese,
// Japanese or Korean.

const maxTerm = 64 // bytes; longer words are cut, which only makes them more alike

// termReader reads the terms of a text one after the other. The zero value with
// text set is ready.
type termReader struct {
	text string
	at   int
	cjk  rune // the character before, when it was Chinese, Japanese or Korean
	buf  [maxTerm + utf8.UTFMax]byte
	// start is where the term that was read stands.
	start int
	// accept says by its first two bytes whether a term is wanted; nil takes all.
	// Terms that are not wanted are counted but neither stemmed nor returned.
	accept *prefixSet
}

// prefixSet holds the first two bytes of terms.
type prefixSet [1 << 13]uint8

func (s *prefixSet) add(term string) {
	i := prefixOf(term)
	s[i>>3] |= 1 << (i & 7)
}

func (s *prefixSet) has(term []byte) bool {
	i := prefixOf(term)
	return s[i>>3]&(1<<(i&7)) != 0
}

func prefixOf[T string | []byte](term T) uint16 {
	if len(term) < 2 {
		return uint16(term[0])
	}
	return uint16(term[0]) | uint16(term[1])<<8
}

// next gives the next term, in a buffer that the call after overwrites. wanted
// is false for a term that accept does not hold; term is then nil.
func (r *termReader) next() (term []byte, wanted, ok bool) {
	for r.at < len(r.text) {
		c := r.text[r.at]
		if wordByte[c] {
			r.cjk = 0
			return r.word()
		}
		if c < utf8.RuneSelf {
			r.cjk = 0
			r.at++
			continue
		}
		char, n := utf8.DecodeRuneInString(r.text[r.at:])
		switch {
		case isCJK(char):
			before := r.cjk
			r.cjk = char
			r.at += n
			if before != 0 {
				r.start = r.at - n
				return r.pair(before, char)
			}
		case unicode.IsLetter(char) || unicode.IsDigit(char):
			r.cjk = 0
			return r.word()
		default:
			r.cjk = 0
			r.at += n
		}
	}
	return nil, false, false
}

func (r *termReader) word() (term []byte, wanted, ok bool) {
	r.start = r.at
	w := r.buf[:0]
	for r.at < len(r.text) {
		c := r.text[r.at]
		if wordByte[c] {
			r.at++
			if len(w) < maxTerm {
				w = append(w, lower[c])
			}
			continue
		}
		if c < utf8.RuneSelf {
			break
		}
		char, n := utf8.DecodeRuneInString(r.text[r.at:])
		if isCJK(char) || !unicode.IsLetter(char) && !unicode.IsDigit(char) && !unicode.IsMark(char) {
			break
		}
		r.at += n
		if len(w) < maxTerm {
			w = appendFolded(w, char)
		}
	}
	if len(w) == 0 {
		return nil, false, true
	}
	if r.accept != nil && !r.accept.has(w) {
		return nil, false, true
	}
	return stem(w), true, true
}

func (r *termReader) pair(a, b rune) (term []byte, wanted, ok bool) {
	w := utf8.AppendRune(utf8.AppendRune(r.buf[:0], a), b)
	if r.accept != nil && !r.accept.has(w) {
		return nil, false, true
	}
	return w, true, true
}

var wordByte, lower = func() (word [256]bool, low [256]byte) {
	for c := range 256 {
		low[c] = byte(c)
		switch {
		case c >= 'A' && c <= 'Z':
			low[c] = byte(c) | 0x20
			word[c] = true
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			word[c] = true
		}
	}
	return word, low
}()

// folded gives the Latin letters with marks their plain letter.
var folded = func() (t [0x250]string) {
	for r := rune(0xc0); r < 0x250; r++ {
		t[r] = strings.ToLower(string(r))
		if plain := norm.NFD.String(t[r]); plain[0] < utf8.RuneSelf {
			t[r] = plain[:1]
		}
	}
	t['ß'], t['æ'], t['ø'], t['ł'], t['đ'] = "ss", "ae", "o", "l", "d"
	return t
}()

func appendFolded(dst []byte, r rune) []byte {
	if unicode.IsMark(r) {
		return dst
	}
	if r < rune(len(folded)) && folded[r] != "" {
		return append(dst, folded[r]...)
	}
	return utf8.AppendRune(dst, unicode.ToLower(r))
}

// isCJK reports whether a character belongs to a script that is written without
// blanks between words.
func isCJK(r rune) bool {
	switch {
	case r < 0x2e80:
		return false
	case r >= 0x3040 && r <= 0x30ff: // kana
		return true
	case r >= 0x3400 && r <= 0x4dbf, r >= 0x4e00 && r <= 0x9fff, r >= 0xf900 && r <= 0xfaff, r >= 0x20000 && r <= 0x2fa1f: // han
		return true
	case r >= 0xac00 && r <= 0xd7a3: // hangul
		return true
	}
	return false
}

// Terms gives what a text is compared by, in its order: the stems of its words
// but those that say nothing about what it is about, its numbers, and pairs of
// characters in Chinese, Japanese and Korean.
func Terms(text string) []string {
	var terms []string
	r := termReader{text: text}
	for {
		term, _, ok := r.next()
		if !ok {
			return terms
		}
		if carries(string(term)) {
			terms = append(terms, string(term))
		}
	}
}

// carries reports whether a term says what a text is about.
func carries(term string) bool {
	return term != "" && !stopStems[term] && (len(term) > 1 || digit(term[0]))
}
