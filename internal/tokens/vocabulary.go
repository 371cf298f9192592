package tokens

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/bits"
	"strconv"
	"sync"

	"github.com/pkoukk/tiktoken-go-loader/assets"
)

// vocabulary holds the tokens of an encoding and merges bytes into them.
//
// A token is its rank: of two adjacent pairs, byte-pair encoding merges the
// one whose result has the lower rank first, and the left one of equals.
type vocabulary struct {
	bytes   []byte   // all tokens, end to end in the order of their ranks
	starts  []uint32 // token t is bytes[starts[t]:starts[t+1]]; empty for a rank nobody has
	longest int      // length of the longest token in bytes

	short shortTable // tokens of less than eight bytes by their bytes
	slots []slot     // hash table of the longer ones by their bytes

	// What merge needs. A token that merging never reaches (it is found only
	// where it is a whole piece) has no part in these.
	trie   *trie    // tokens by their bytes
	prefix []uint32 // by token: the longest token that is a proper prefix, or none
	halves []pair   // by token: the two that were merged into it; a single byte is both its halves
	pairs  []uint64 // hash table: two tokens that merge, and into what
	likely []uint64 // a bit for each hash: whether a pair may be in pairs
}

type slot struct{ hash, token uint32 }

type pair struct{ left, right uint32 }

// none is no token: ranks stay below 1<<tokenBits.
const (
	none      = ^uint32(0)
	tokenBits = 21
)

// vocabularies are loaded at their first use, once.
var vocabularies = map[string]func() (*vocabulary, error){
	"o200k_base.tiktoken":  vocabularyOnce("o200k_base.tiktoken"),
	"cl100k_base.tiktoken": vocabularyOnce("cl100k_base.tiktoken"),
	"p50k_base.tiktoken":   vocabularyOnce("p50k_base.tiktoken"),
	"r50k_base.tiktoken":   vocabularyOnce("r50k_base.tiktoken"),
}

func vocabularyOnce(file string) func() (*vocabulary, error) {
	return sync.OnceValues(func() (*vocabulary, error) { return loadVocabulary(file) })
}

// loadVocabulary reads the ranks that come with tiktoken-go's offline loader.
// It reads the file itself: the loader would first make a map of 200,000
// strings of it, which costs more time and memory than the tables here.
func loadVocabulary(file string) (*vocabulary, error) {
	data, err := assets.Assets.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading ranks: %w", err)
	}
	return parseVocabulary(data)
}

// parseVocabulary reads lines "<token in base64> <rank>", ranks ascending.
func parseVocabulary(data []byte) (*vocabulary, error) {
	lines := bytes.Count(data, []byte{'\n'}) + 1
	v := &vocabulary{
		bytes:  make([]byte, 0, len(data)/2),
		starts: make([]uint32, 1, lines+2),
	}
	for number := 1; len(data) > 0; number++ {
		line, rest, _ := bytes.Cut(data, []byte{'\n'})
		data = rest
		if len(line) == 0 {
			continue
		}
		if err := v.add(line); err != nil {
			return nil, fmt.Errorf("reading ranks, line %d: %w", number, err)
		}
	}
	return v, v.index()
}

func (v *vocabulary) add(line []byte) error {
	encoded, digits, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return fmt.Errorf("no space between token and rank in %q", line)
	}
	rank, err := strconv.Atoi(string(digits))
	if err != nil {
		return fmt.Errorf("reading the rank: %w", err)
	}
	if rank < v.size() || rank >= 1<<tokenBits {
		return fmt.Errorf("rank %d is out of order: want %d to %d", rank, v.size(), 1<<tokenBits-1)
	}
	for v.size() < rank {
		v.starts = append(v.starts, uint32(len(v.bytes)))
	}
	before := len(v.bytes)
	if v.bytes, err = base64.StdEncoding.AppendDecode(v.bytes, encoded); err != nil {
		return fmt.Errorf("decoding the token: %w", err)
	}
	v.starts = append(v.starts, uint32(len(v.bytes)))
	v.longest = max(v.longest, len(v.bytes)-before)
	return nil
}

// size is the highest rank plus one.
func (v *vocabulary) size() int { return len(v.starts) - 1 }

func (v *vocabulary) token(t uint32) []byte { return v.bytes[v.starts[t]:v.starts[t+1]] }

func (v *vocabulary) length(t uint32) int { return int(v.starts[t+1] - v.starts[t]) }

// index builds the tables. It goes through the tokens by rank, so that at each
// token the tables hold exactly what byte-pair encoding may use to make it.
func (v *vocabulary) index() error {
	short := 0
	for t := range uint32(v.size()) {
		if v.length(t) < 8 {
			short++
		}
	}
	v.short = newShortTable(short)
	v.slots = make([]slot, tableSize(v.size()-short))
	for i := range v.slots {
		v.slots[i].token = none
	}
	v.pairs = make([]uint64, tableSize(v.size()))
	v.prefix = make([]uint32, v.size())
	v.likely = make([]uint64, len(v.pairs)/16)
	v.halves = make([]pair, v.size())
	if err := v.indexBytes(); err != nil {
		return err
	}
	for t := uint32(256); t < uint32(v.size()); t++ {
		token := v.token(t)
		if len(token) == 0 {
			continue
		}
		v.halves[t] = pair{t, t}
		if half, ok := v.lastMerge(token); ok {
			v.halves[t] = half
			v.join(half, t)
		}
		v.store(token, t)
	}
	v.indexPrefixes()
	return nil
}

// indexBytes sees to the first 256 tokens, which are the single bytes.
func (v *vocabulary) indexBytes() error {
	var seen [256]bool
	for t := range uint32(min(256, v.size())) {
		token := v.token(t)
		if len(token) != 1 || seen[token[0]] {
			return fmt.Errorf("reading ranks: token %d is %q: want each single byte once in the first 256", t, token)
		}
		seen[token[0]] = true
		v.store(token, t)
		v.halves[t] = pair{t, t}
	}
	if v.size() < 256 {
		return fmt.Errorf("reading ranks: %d tokens: want at least the 256 single bytes", v.size())
	}
	return nil
}

// reachable tells whether merging ever makes t.
func (v *vocabulary) reachable(t uint32) bool {
	return v.length(t) == 1 || v.length(t) > 1 && v.halves[t].left != t
}

// lastMerge finds the pair of lower tokens that byte-pair encoding would have
// at last, were token all its text. There is one such pair at most.
func (v *vocabulary) lastMerge(token []byte) (pair, bool) {
	for cut := len(token) - 1; cut > 0; cut-- {
		left, ok := v.lookup(token[:cut])
		if !ok {
			continue
		}
		right, ok := v.lookup(token[cut:])
		if ok && v.adjacent(left, right) {
			return pair{left, right}, true
		}
	}
	return pair{}, false
}

// tableSize is the size of a hash table for n entries: a power of two that
// they fill by half at most.
func tableSize(n int) int { return 1 << bits.Len(uint(2*n)) }

// hash mixes at least eight bytes by multiplication.
func hash(b []byte) uint64 {
	const m1, m2 = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
	h := uint64(len(b)) * m2
	for len(b) > 16 {
		h = (h ^ binary.LittleEndian.Uint64(b)) * m1
		h ^= h >> 32
		b = b[8:]
	}
	first, last := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[len(b)-8:])
	hi, lo := bits.Mul64(h^first^m1, last^m2^h)
	return (hi ^ lo) * m1
}

// lookup finds the token that consists of exactly these bytes.
func (v *vocabulary) lookup(b []byte) (uint32, bool) {
	if len(b) < 8 {
		return v.short.find(b)
	}
	if len(b) > v.longest {
		return none, false
	}
	h := hash(b)
	mask := uint64(len(v.slots) - 1)
	for i := h >> 32 & mask; ; i = (i + 1) & mask {
		s := v.slots[i]
		if s.token == none {
			return none, false
		}
		if s.hash == uint32(h) && bytes.Equal(v.token(s.token), b) {
			return s.token, true
		}
	}
}

func (v *vocabulary) store(b []byte, t uint32) {
	if len(b) < 8 {
		v.short.store(b, t)
		return
	}
	h := hash(b)
	mask := uint64(len(v.slots) - 1)
	i := h >> 32 & mask
	for v.slots[i].token != none {
		i = (i + 1) & mask
	}
	v.slots[i] = slot{hash: uint32(h), token: t}
}

// An entry of pairs is left, right and their result in tokenBits bits each; no
// result is 0, for the tokens of single bytes come first.
func pairKey(left, right uint32) uint64 { return uint64(left)<<tokenBits | uint64(right) }

func (v *vocabulary) pairSlot(key uint64) uint64 {
	return key * 0x9E3779B97F4A7C15 >> 32 & uint64(len(v.pairs)-1)
}

// likely has four bits for each slot of pairs.
func (v *vocabulary) likelyBit(key uint64) uint64 {
	return key * 0x9E3779B97F4A7C15 >> 30 & uint64(64*len(v.likely)-1)
}

func (v *vocabulary) join(p pair, result uint32) {
	key := pairKey(p.left, p.right)
	i := v.pairSlot(key)
	for v.pairs[i] != 0 {
		i = (i + 1) & uint64(len(v.pairs)-1)
	}
	v.pairs[i] = key<<tokenBits | uint64(result)
	bit := v.likelyBit(key)
	v.likely[bit/64] |= 1 << (bit % 64)
}

// joined is the token that left and right merge into, or none.
func (v *vocabulary) joined(left, right uint32) uint32 {
	key := pairKey(left, right)
	// Most pairs are not there: likely says so, and is small enough to stay in
	// the processor's cache, where pairs is not.
	if bit := v.likelyBit(key); v.likely[bit/64]>>(bit%64)&1 == 0 {
		return none
	}
	for i := v.pairSlot(key); ; i = (i + 1) & uint64(len(v.pairs)-1) {
		entry := v.pairs[i]
		if entry>>tokenBits == key && entry != 0 {
			return uint32(entry & (1<<tokenBits - 1))
		}
		if entry == 0 {
			return none
		}
	}
}
