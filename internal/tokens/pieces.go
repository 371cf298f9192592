package tokens

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// Before bytes are merged, text is cut into pieces: words with the space
// before them, numbers, punctuation, white space. The encodings define the
// pieces by regular expressions; the functions next* below are those
// expressions by hand. Each takes valid UTF-8 and the start of a piece, and
// returns its end. Each looks at a character a constant number of times, so
// that cutting is linear whatever the text.

// class is what the expressions ask of a character. Each character has one.
type class uint8

const (
	upper    class = 1 << iota // \p{Lu} \p{Lt}
	lower                      // \p{Ll}
	caseless                   // \p{Lm} \p{Lo}
	mark                       // \p{M}
	number                     // \p{N}
	newline                    // \r \n
	blank                      // other \s
	other                      // the rest

	letter = upper | lower | caseless
	space  = newline | blank
	symbol = mark | other         // [^\s\p{L}\p{N}]
	lead   = blank | mark | other // [^\r\n\p{L}\p{N}]
)

// classes is the class of each character, one byte each: one load tells it,
// where the tables of package unicode take a binary search. See fillClasses.
var classes [unicode.MaxRune + 1]class

var fillClasses = sync.OnceFunc(func() {
	for r := range classes {
		classes[r] = other
	}
	fill(upper, unicode.Lu, unicode.Lt)
	fill(lower, unicode.Ll)
	fill(caseless, unicode.Lm, unicode.Lo)
	fill(mark, unicode.M)
	fill(number, unicode.N)
	fill(blank, unicode.White_Space)
	classes['\r'], classes['\n'] = newline, newline
})

func fill(c class, tables ...*unicode.RangeTable) {
	for _, table := range tables {
		for _, rs := range table.R16 {
			for r := int(rs.Lo); r <= int(rs.Hi); r += int(rs.Stride) {
				classes[r] = c
			}
		}
		for _, rs := range table.R32 {
			for r := int(rs.Lo); r <= int(rs.Hi); r += int(rs.Stride) {
				classes[r] = c
			}
		}
	}
}

// at returns the class of the character at text[i] and its size in bytes; at
// the end of the text no class and no bytes.
func at(text []byte, i int) (class, int) {
	if i < len(text) && text[i] < utf8.RuneSelf {
		return classes[text[i]], 1
	}
	return wideAt(text, i)
}

func wideAt(text []byte, i int) (class, int) {
	if i >= len(text) {
		return 0, 0
	}
	r, size := utf8.DecodeRune(text[i:])
	return classes[r], size
}

// run returns the end of the run of characters of the classes in set that
// starts at text[i].
func run(text []byte, i int, set class) int {
	for i < len(text) {
		if text[i] < utf8.RuneSelf {
			if classes[text[i]]&set == 0 {
				return i
			}
			i++
			continue
		}
		c, size := wideAt(text, i)
		if c&set == 0 {
			return i
		}
		i += size
	}
	return i
}

// digits returns the end of \p{N}{1,3} at a number at text[i].
func digits(text []byte, i int) int {
	for range 3 {
		c, size := at(text, i)
		if c != number {
			break
		}
		i += size
	}
	return i
}

// contraction returns the end of 's, 't, 're, 've, 'm, 'll or 'd at text[i], or
// i if there is none. Only ASCII letters match, in either case if fold is set:
// the reference folds case a character at a time, so that U+017F is no s.
func contraction(text []byte, i int, fold bool) int {
	if i+1 >= len(text) || text[i] != '\'' {
		return i
	}
	var low byte
	if fold {
		low = 'a' - 'A'
	}
	switch first := text[i+1] | low; first {
	case 's', 't', 'm', 'd':
		return i + 2
	case 'r', 'v', 'l':
		second := byte('e')
		if first == 'l' {
			second = 'l'
		}
		if i+2 < len(text) && text[i+2]|low == second {
			return i + 3
		}
	}
	return i
}

// spaces returns the end of \s+(?!\S)|\s+ at white space at text[i]: the run
// but its last character, which goes with what follows; all of it at the end
// of the text or if there is just one.
func spaces(text []byte, i int) int {
	end := run(text, i, space)
	if end == len(text) {
		return end
	}
	_, last := utf8.DecodeLastRune(text[:end])
	if end-last > i {
		return end - last
	}
	return end
}

// spacesOrLines returns the end of \s*[\r\n]+|\s+(?!\S)|\s+ at white space at
// text[i]: up to the last end of line of the run if it has one.
func spacesOrLines(text []byte, i int) int {
	for end := run(text, i, space); end > i; end-- {
		if c := text[end-1]; c == '\n' || c == '\r' {
			return end
		}
	}
	return spaces(text, i)
}

// nextP50k is the expression of r50k_base, p50k_base and p50k_edit:
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
func nextP50k(text []byte, start int) int {
	if end := contraction(text, start, false); end > start {
		return end
	}
	i := start
	if text[i] == ' ' {
		i++
	}
	c, size := at(text, i)
	for _, set := range [...]class{letter, number, symbol} {
		if c&set != 0 {
			return run(text, i+size, set)
		}
	}
	return spaces(text, start)
}

// nextCL100k is the expression of cl100k_base:
//
//	(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
//	 ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
func nextCL100k(text []byte, start int) int {
	if end := contraction(text, start, true); end > start {
		return end
	}
	c, size := at(text, start)
	switch {
	case c&letter != 0:
		return run(text, start+size, letter)
	case c == number:
		return digits(text, start)
	}
	second, secondSize := at(text, start+size)
	if c&lead != 0 && second&letter != 0 {
		return run(text, start+size+secondSize, letter)
	}
	if c&symbol != 0 || text[start] == ' ' && second&symbol != 0 {
		return run(text, run(text, start+size, symbol), newline)
	}
	return spacesOrLines(text, start)
}

// nextO200k is the expression of o200k_base:
//
//	[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|
//	[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|
//	\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
func nextO200k(text []byte, start int) int {
	c, size := at(text, start)
	if c == number {
		return digits(text, start)
	}
	if end := word(text, start, c, size); end > start {
		return contraction(text, end, true)
	}
	second, _ := at(text, start+size)
	if c&symbol == 0 && (text[start] != ' ' || second&symbol == 0) {
		return spacesOrLines(text, start)
	}
	end := run(text, start+size, symbol)
	for end < len(text) && (text[end] == '\n' || text[end] == '\r' || text[end] == '/') {
		end++
	}
	return end
}

// word returns the end of the first two alternatives of o200k_base at
// text[start], without the contraction, or start if neither matches. The
// character there is of class c and has size bytes.
func word(text []byte, start int, c class, size int) int {
	if c&lead == 0 {
		end, ok := capitalised(text, start)
		if !ok {
			end = run(text, start, upper)
		}
		return end
	}
	// In the order in which the expression tries them: the first alternative
	// with the leading character and without it, then the second likewise.
	if end, ok := capitalised(text, start+size); ok {
		return end
	}
	if c == mark {
		return start + size
	}
	if end := run(text, start+size, upper); end > start+size {
		return end
	}
	return start
}

// capitalised returns the end of the core of the first alternative at text[i],
// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+, and whether it
// matches. If no lower-case letter follows the first run, the expression gives
// back characters until one is left that both sets hold: it ends behind the
// last of those.
func capitalised(text []byte, i int) (end int, ok bool) {
	const both = caseless | mark
	for {
		c, size := at(text, i)
		switch {
		case c == lower:
			return run(text, i+size, lower|both), true
		case c&both != 0:
			end, ok = i+size, true
		case c != upper:
			return end, ok
		}
		i += size
	}
}
