package selection

import "math/bits"

const (
	// featureBits is the size of the space that words are hashed into: past
	// 16,384 weights the figures of docs/model-selection.md do not get better.
	featureBits = 14
	// maxFeatures bounds what a prompt is described by, and so the time of a choice.
	maxFeatures = 400
	// headBytes and tailBytes are what is read of a long prompt: what is asked
	// stands at its beginning or its end.
	headBytes = 1536
	tailBytes = 512
)

// Features describes a prompt by hashed words, pairs of neighbouring words, and
// its shape: length, digits, lines, code. They are indices of weights below
// 16,384; some may stand twice.
type Features []uint16

// seeds keep the kinds of features apart.
const (
	seedWord  = 0x9E3779B97F4A7C15
	seedPair  = 0xC2B2AE3D27D4EB4F
	seedShape = 0x165667B19E3779F9
)

// Describe appends the features of a prompt to dst: of the text as it stands in
// JSON, escapes included. It reads at most 2 KB of it and takes about 5 µs for that.
func Describe(dst Features, prompt []byte) Features {
	head, tail := prompt, []byte(nil)
	if len(prompt) > headBytes+tailBytes {
		head, tail = prompt[:headBytes], prompt[len(prompt)-tailBytes:]
	}
	d := describer{out: dst}
	d.read(head)
	d.previous = 0
	d.read(tail)
	d.shape(1, bits.Len(uint(len(prompt))))
	d.shape(2, bits.Len(uint(d.digits)))
	d.shape(3, bits.Len(uint(d.lines)))
	d.shape(4, bits.Len(uint(d.symbols)))
	return d.out
}

type describer struct {
	out                    Features
	previous               uint64 // the hash of the word before
	digits, lines, symbols int
}

// read takes in the words of a text: runs of letters, and numbers by their
// length, since 17 says as much of a question as 18 does.
func (d *describer) read(text []byte) {
	for i := 0; i < len(text) && len(d.out) < maxFeatures; {
		switch kind := classes[text[i]]; kind {
		case letter:
			h := uint64(seedWord)
			for ; i < len(text) && classes[text[i]] == letter; i++ {
				h = (h ^ uint64(text[i]|0x20)) * 0x100000001B3
			}
			d.word(h)
		case digit:
			begin := i
			for i < len(text) && classes[text[i]] == digit {
				i++
			}
			d.digits++
			d.word(seedWord + uint64(i-begin))
		default:
			switch text[i] {
			case '\\': // an escape of JSON
				i += d.escape(text[i:])
				continue
			case '{', '}', ';', '=', '(', ')', '<', '>', '^', '$', '+', '*':
				d.symbols++
			}
			i++
		}
	}
}

// escape steps over an escape and gives its length.
func (d *describer) escape(text []byte) int {
	if len(text) < 2 {
		return 1
	}
	switch text[1] {
	case 'n':
		d.lines++
	case '\\':
		d.symbols++
	case 'u':
		return 6
	}
	return 2
}

func (d *describer) word(h uint64) {
	d.add(h)
	if d.previous != 0 {
		d.add((d.previous*31 + h) ^ seedPair)
	}
	d.previous = h
}

func (d *describer) shape(kind, value int) {
	d.add(seedShape*uint64(kind) + uint64(value))
}

// add takes the upper bits of a product, which depend on all bits of the hash.
func (d *describer) add(h uint64) {
	h ^= h >> 29
	d.out = append(d.out, uint16(h*seedWord>>(64-featureBits)))
}

type class uint8

const (
	other class = iota
	letter
	digit
)

// classes takes every byte of a character beyond ASCII for a letter, so that
// words of other scripts are words.
var classes = func() (table [256]class) {
	for c := range 256 {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= 0x80:
			table[c] = letter
		case c >= '0' && c <= '9':
			table[c] = digit
		}
	}
	return table
}()
