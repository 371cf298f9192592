package tokens

import (
	"encoding/binary"
	"math/bits"
)

// shortTable is a hash table of the tokens of less than eight bytes. Such a
// token fits into its key, so that one load from memory tells whether it is
// there; most pieces of most texts are that short.
type shortTable struct {
	keys   []uint64 // 0 is an empty slot
	tokens []uint32
	shift  int
}

func newShortTable(n int) shortTable {
	size := tableSize(n)
	return shortTable{
		keys:   make([]uint64, size),
		tokens: make([]uint32, size),
		shift:  64 - bits.TrailingZeros(uint(size)),
	}
}

// shortKey packs one to seven bytes and their number into a word.
func shortKey(b []byte) uint64 {
	n := len(b)
	key := uint64(n) << 56
	if n >= 4 {
		return key | uint64(binary.LittleEndian.Uint32(b)) | uint64(binary.LittleEndian.Uint32(b[n-4:]))<<(8*(n-4))
	}
	return key | uint64(b[0]) | uint64(b[n/2])<<(8*(n/2)) | uint64(b[n-1])<<(8*(n-1))
}

// slot returns where key is, or the empty slot where it would be.
func (t *shortTable) slot(key uint64) uint64 {
	mask := uint64(len(t.keys) - 1)
	i := key * 0x9E3779B97F4A7C15 >> t.shift
	for t.keys[i] != key && t.keys[i] != 0 {
		i = (i + 1) & mask
	}
	return i
}

func (t *shortTable) find(b []byte) (uint32, bool) {
	key := shortKey(b)
	i := t.slot(key)
	return t.tokens[i], t.keys[i] == key
}

func (t *shortTable) store(b []byte, token uint32) {
	i := t.slot(shortKey(b))
	t.keys[i], t.tokens[i] = shortKey(b), token
}
