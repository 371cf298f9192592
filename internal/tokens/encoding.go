package tokens

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
	"unsafe"
)

// Names of the encodings, as OpenAI calls them.
const (
	O200kBase  = "o200k_base"
	CL100kBase = "cl100k_base"
	P50kBase   = "p50k_base"
	P50kEdit   = "p50k_edit"
	R50kBase   = "r50k_base"
	GPT2       = "gpt2"
)

// Encoding turns text into the tokens of one of OpenAI's vocabularies.
//
// Text is ordinary text throughout: what looks like a special token
// ("<|endoftext|>") is encoded as the characters it consists of. Text need not
// be valid UTF-8: each byte that is part of no character counts as U+FFFD.
//
// An Encoding is immutable and safe for concurrent use. Time is linear in the
// length of the text, whatever the text; apart from growing dst nothing is
// allocated in the steady state.
type Encoding struct {
	name  string
	next  func(text []byte, start int) int
	vocab *vocabulary
}

// encodings are made at their first use, once.
var encodings = map[string]func() (*Encoding, error){
	O200kBase:  once(O200kBase, "o200k_base.tiktoken", nextO200k),
	CL100kBase: once(CL100kBase, "cl100k_base.tiktoken", nextCL100k),
	P50kBase:   once(P50kBase, "p50k_base.tiktoken", nextP50k),
	P50kEdit:   once(P50kEdit, "p50k_base.tiktoken", nextP50k),
	R50kBase:   once(R50kBase, "r50k_base.tiktoken", nextP50k),
	GPT2:       once(GPT2, "r50k_base.tiktoken", nextP50k),
}

func once(name, ranks string, next func(text []byte, start int) int) func() (*Encoding, error) {
	return sync.OnceValues(func() (*Encoding, error) {
		fillClasses()
		vocab, err := vocabularies[ranks]()
		if err != nil {
			return nil, fmt.Errorf("loading encoding %s: %w", name, err)
		}
		return &Encoding{name: name, next: next, vocab: vocab}, nil
	})
}

// Load returns the encoding of that name. The first call for an encoding
// builds its tables (see BenchmarkLoad: 25 to 150 ms, 5 to 21 MB); later calls
// return the same Encoding, and encodings with the same vocabulary share it.
func Load(name string) (*Encoding, error) {
	load, ok := encodings[name]
	if !ok {
		return nil, fmt.Errorf("unknown encoding %q: use one of %s", name, strings.Join(Names(), ", "))
	}
	return load()
}

// Names lists the encodings that Load knows, sorted.
func Names() []string {
	names := make([]string, 0, len(encodings))
	for name := range encodings {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Name is the name the encoding was loaded under.
func (e *Encoding) Name() string { return e.name }

// Count returns the number of tokens of text.
func (e *Encoding) Count(text string) int {
	return e.CountBytes(view(text))
}

// CountBytes is Count for bytes; it neither keeps nor changes them.
func (e *Encoding) CountBytes(text []byte) int {
	s := scratches.Get().(*scratch)
	defer s.release()
	text = s.valid(text)
	count := 0
	for start := 0; start < len(text); {
		end := e.next(text, start)
		if _, ok := e.vocab.lookup(text[start:end]); ok {
			count++
		} else {
			count += len(e.vocab.merge(text[start:end], s))
		}
		start = end
	}
	return count
}

// Encode appends the tokens of text to dst and returns the extended slice.
func (e *Encoding) Encode(dst []int, text string) []int {
	s := scratches.Get().(*scratch)
	defer s.release()
	data := s.valid(view(text))
	for start := 0; start < len(data); {
		end := e.next(data, start)
		if token, ok := e.vocab.lookup(data[start:end]); ok {
			dst = append(dst, int(token))
		} else {
			for _, token := range e.vocab.merge(data[start:end], s) {
				dst = append(dst, int(token))
			}
		}
		start = end
	}
	return dst
}

// Decode appends the bytes of tokens to dst and returns the extended slice.
// Tokens that the vocabulary lacks are left out.
func (e *Encoding) Decode(dst []byte, tokens []int) []byte {
	for _, token := range tokens {
		if token >= 0 && token < e.vocab.size() {
			dst = append(dst, e.vocab.token(uint32(token))...)
		}
	}
	return dst
}

// view is the bytes of s, not to be changed.
func view(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s))
}

// scratch is the memory that one call needs; calls share it through a pool.
type scratch struct {
	tokens  []uint32 // what merge has found so far
	blocked []uint64 // a bit for each position of the piece, see merge
	text    []byte   // the text made valid
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxScratch bounds what a pooled scratch keeps, in elements of each slice.
const maxScratch = 1 << 20

func (s *scratch) release() {
	s.tokens, s.blocked, s.text = bounded(s.tokens), bounded(s.blocked), bounded(s.text)
	scratches.Put(s)
}

// bounded returns buf if it is small enough to be kept, and else nil.
func bounded[E any](buf []E) []E {
	if cap(buf) > maxScratch {
		return nil
	}
	return buf
}

// valid returns text itself if it is valid UTF-8, and else a copy with U+FFFD
// in the place of each byte that belongs to no character.
func (s *scratch) valid(text []byte) []byte {
	if utf8.Valid(text) {
		return text
	}
	s.text = s.text[:0]
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		s.text = utf8.AppendRune(s.text, r)
		text = text[size:]
	}
	return s.text
}
