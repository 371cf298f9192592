package score

import (
	"unicode"
	"unicode/utf8"
)

// maxWords bounds the words of one text that are looked at, and so time and memory:
// the first half of them and, of a longer text, the last half are kept.
const maxWords = 1 << 16

// script is a writing system, as far as telling languages apart needs.
type script uint8

const (
	latin script = iota
	cyrillic
	greek
	arabic
	hebrew
	devanagari
	thai
	han
	kana
	hangul
	otherScript
	scripts // how many there are
)

// Marks of a word.
const (
	startsSentence = 1 << iota // the first word after a full stop, a line break or the beginning
	startsLine                 // the first word of a line
	isNumber                   // begins with a digit
	isStop                     // a frequent English word that says nothing about the topic
)

// word is a word of a text. Full is the hash of its lower-case form without apostrophes
// (so that "can't", "can’t" and "cant" are equal), stem the same of its stem.
type word struct {
	full, stem uint32
	marks      uint8
}

// wordList is a text as words, with what one pass over its bytes can tell.
type wordList struct {
	words    []word
	letters  [scripts]int // letters by script
	controls int          // control and replacement characters
	spaces   int          // white space
	runes    int
}

const (
	fnvOffset = 2166136261
	fnvPrime  = 16777619
)

// hashWord gives the hash that read gives to a lower-case word.
func hashWord(w string) uint32 {
	h := uint32(fnvOffset)
	for i := range len(w) {
		h = (h ^ uint32(w[i])) * fnvPrime
	}
	return h
}

// ASCII classes of bytes.
const (
	classOther = iota
	classLetter
	classDigit
	classSpace
	classStop // ends a sentence
	classLine
	classApostrophe
	classControl
)

var byteClass = func() (c [utf8.RuneSelf]uint8) {
	for b := range c {
		switch {
		case 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || b == '_':
			c[b] = classLetter
		case '0' <= b && b <= '9':
			c[b] = classDigit
		case b == ' ' || b == '\t' || b == '\r':
			c[b] = classSpace
		case b == '.' || b == '!' || b == '?' || b == ':' || b == ';':
			c[b] = classStop
		case b == '\n':
			c[b] = classLine
		case b == '\'':
			c[b] = classApostrophe
		case b < 0x20 || b == 0x7f:
			c[b] = classControl
		}
	}
	return c
}()

// lexer splits a text into words in one pass over its bytes.
type lexer struct {
	list *wordList
	hash [4]uint32 // of the word so far, and of it without its last 1, 2 and 3 bytes
	tail uint32    // the last 4 bytes
	size int       // bytes so far; 0 between words
	mark uint8     // marks of the next word
}

// read fills the list with the words of text. Words run over letters, digits and
// apostrophes inside; an ideograph, a kana and a Thai letter is a word each.
func (l *wordList) read(text []byte) {
	*l = wordList{words: l.words[:0]}
	if len(text) == 0 {
		return
	}
	x := lexer{list: l, mark: startsSentence | startsLine}
	x.start()
	for i := 0; i < len(text); {
		b := text[i]
		if b >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(text[i:])
			x.rune(r)
			i += n
			continue
		}
		i++
		switch byteClass[b] {
		case classLetter:
			l.letters[latin]++
			if 'A' <= b && b <= 'Z' {
				b |= 0x20
			}
			x.add(b)
		case classDigit:
			if x.size == 0 {
				x.mark |= isNumber
			}
			x.add(b)
		case classApostrophe: // inside a word it joins, elsewhere it is nothing
		case classSpace:
			l.spaces++
			x.end()
		case classStop:
			x.end()
			x.mark |= startsSentence
		case classLine:
			l.spaces++
			x.end()
			x.mark |= startsSentence | startsLine
		case classControl:
			l.controls++
			x.end()
		default:
			x.end()
		}
	}
	x.end()
	l.runes = utf8.RuneCount(text)
	l.cut()
}

// cut drops the middle of a list that is too long.
func (l *wordList) cut() {
	if n := len(l.words); n > maxWords {
		copy(l.words[maxWords/2:], l.words[n-maxWords/2:])
		l.words = l.words[:maxWords]
	}
}

func (x *lexer) start() {
	x.hash = [4]uint32{fnvOffset, fnvOffset, fnvOffset, fnvOffset}
	x.tail, x.size = 0, 0
}

func (x *lexer) add(b byte) {
	x.hash[3], x.hash[2], x.hash[1] = x.hash[2], x.hash[1], x.hash[0]
	x.hash[0] = (x.hash[0] ^ uint32(b)) * fnvPrime
	x.tail = x.tail<<8 | uint32(b)
	x.size++
}

// end closes the word that is open, if one is.
func (x *lexer) end() {
	if x.size == 0 {
		return
	}
	w := word{full: x.hash[0], stem: x.hash[x.ending()], marks: x.mark}
	if stopWords.has(w.full) {
		w.marks |= isStop
	}
	x.list.words = append(x.list.words, w)
	x.mark = 0
	x.start()
}

// ending gives how many bytes the stem drops: an English plural or participle ending.
// It only has to map the forms of a word to one value mostly, not to find its root.
func (x *lexer) ending() int {
	last, two, three := byte(x.tail), uint16(x.tail), x.tail&0xffffff
	switch {
	case x.size >= 6 && three == 'i'<<16|'n'<<8|'g':
		return 3
	case x.size >= 5 && two == 'e'<<8|'d':
		return 2
	case x.size >= 5 && two == 'e'<<8|'s':
		return 2
	case x.size >= 4 && last == 's' && two != 's'<<8|'s':
		return 1
	case x.size >= 5 && (last == 'e' || last == 'y'):
		return 1
	}
	return 0
}

// rune takes a character outside ASCII.
func (x *lexer) rune(r rune) {
	switch {
	case r == '’' || r == '‘': // typographic apostrophes
		return
	case r == utf8.RuneError || r == '\u00a0' || r >= 0x80 && r < 0xa0:
		if r == utf8.RuneError {
			x.list.controls++
		}
		x.end()
		return
	case r == '。' || r == '！' || r == '？' || r == '…' || r == '؟' || r == '।':
		x.end()
		x.mark |= startsSentence
		return
	}
	if !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsDigit(r) {
		x.end()
		return
	}
	s := scriptOf(r)
	x.list.letters[s]++
	alone := s == han || s == kana || s == thai
	if alone {
		x.end()
	}
	var buf [utf8.UTFMax]byte
	for _, b := range buf[:utf8.EncodeRune(buf[:], unicode.ToLower(r))] {
		x.add(b)
	}
	if alone {
		x.end()
	}
}

// scriptOf gives the writing system of a letter outside ASCII.
func scriptOf(r rune) script {
	switch {
	case r < 0x250 || r >= 0x1e00 && r < 0x1f00:
		return latin
	case r >= 0x370 && r < 0x400 || r >= 0x1f00 && r < 0x2000:
		return greek
	case r >= 0x400 && r < 0x530:
		return cyrillic
	case r >= 0x590 && r < 0x600:
		return hebrew
	case r >= 0x600 && r < 0x780 || r >= 0xfb50 && r < 0xfe00 || r >= 0xfe70 && r < 0xff00:
		return arabic
	case r >= 0x900 && r < 0x980:
		return devanagari
	case r >= 0xe00 && r < 0xe80:
		return thai
	case r >= 0x3040 && r < 0x3100 || r >= 0x31f0 && r < 0x3200 || r >= 0xff66 && r < 0xffa0:
		return kana
	case r >= 0x3400 && r < 0x4dc0 || r >= 0x4e00 && r < 0xa000 || r >= 0xf900 && r < 0xfb00 || r >= 0x20000 && r < 0x32000:
		return han
	case r >= 0x1100 && r < 0x1200 || r >= 0x3130 && r < 0x3190 || r >= 0xac00 && r < 0xd7b0:
		return hangul
	}
	return otherScript
}
