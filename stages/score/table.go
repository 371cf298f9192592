package score

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// wordSet is a fixed set of words by hash, with open addressing: a look-up is
// one or two loads, where a Go map would cost more than the rest of the lexer.
type wordSet struct {
	slots []uint32
	mask  uint32
}

func newWordSet(words string) wordSet {
	fields := strings.Fields(words)
	size := uint32(64)
	for int(size) < 4*len(fields) {
		size *= 2
	}
	set := wordSet{make([]uint32, size), size - 1}
	for _, w := range fields {
		h := hashWord(w)
		set.slots[set.find(h)] = h
	}
	return set
}

// find gives the slot of a word, or an empty one if the set does not hold it.
func (s wordSet) find(h uint32) uint32 {
	i := h & s.mask
	for s.slots[i] != 0 && s.slots[i] != h {
		i = (i + 1) & s.mask
	}
	return i
}

func (s wordSet) has(h uint32) bool { return s.slots[s.find(h)] != 0 }

// classTable maps a word to its classes, a set of bits.
type classTable[T ~uint16 | ~uint32] struct {
	set     wordSet
	classes []T // parallel to the slots of the set
}

func newClassTable[T ~uint16 | ~uint32](lists map[T]string) classTable[T] {
	all := slices.Collect(maps.Values(lists))
	t := classTable[T]{set: newWordSet(strings.Join(all, " "))}
	t.classes = make([]T, len(t.set.slots))
	for class, words := range lists {
		for w := range strings.FieldsSeq(words) {
			t.classes[t.set.find(hashWord(w))] |= class
		}
	}
	return t
}

func (t classTable[T]) of(h uint32) T { return t.classes[t.set.find(h)] }

// counter counts keys. It is emptied in constant time, by a new generation, so that
// one that once was large costs a small text nothing.
type counter struct {
	slots      []counterSlot
	mask       uint64
	generation uint32
	len        int
}

type counterSlot struct {
	key        uint64
	generation uint32
	count      uint32
}

// reset empties the counter and makes room for n keys.
func (c *counter) reset(n int) {
	size := 64
	for size < 2*n {
		size *= 2
	}
	c.generation++
	c.len = 0
	if size > len(c.slots) || c.generation == 0 {
		c.slots = make([]counterSlot, max(size, len(c.slots)))
		c.generation = 1
	}
	c.mask = uint64(size - 1)
}

// slot finds a key's place. Never call it for more different keys than reset made room for.
func (c *counter) slot(key uint64) *counterSlot {
	for i := mix(key^seed) & c.mask; ; i = (i + 1) & c.mask {
		s := &c.slots[i]
		if s.generation != c.generation || s.key == key {
			return s
		}
	}
}

// add counts a key and gives its count so far, this one included.
func (c *counter) add(key uint64) uint32 {
	s := c.slot(key)
	if s.generation != c.generation {
		*s = counterSlot{key: key, generation: c.generation}
		c.len++
	}
	s.count++
	return s.count
}

// count gives how often a key was added.
func (c *counter) count(key uint64) uint32 {
	if s := c.slot(key); s.generation == c.generation {
		return s.count
	}
	return 0
}

// seed makes where a key lies unforeseeable, so that no answer can be written to
// make all its words collide. What is counted does not depend on it.
var seed = rand.Uint64()

// mix spreads a key over all bits (the finaliser of MurmurHash3).
func mix(k uint64) uint64 {
	k ^= k >> 33
	k *= 0xff51afd7ed558ccd
	k ^= k >> 33
	k *= 0xc4ceb9fe1a85ec53
	return k ^ k>>33
}

// gramBase is the base of the rolling hash, an odd number without structure.
const gramBase = 0x9e3779b97f4a7c15

// grams calls yield with the index and the key of each run of n words. Keys roll on
// from word to word (Rabin and Karp), so that the cost does not grow with n.
func grams(words []word, n int, yield func(i int, key uint64)) {
	if len(words) < n {
		return
	}
	var key uint64
	drop := uint64(1) // gramBase to the power of n
	for range n {
		drop *= gramBase
	}
	for i, w := range words {
		key = key*gramBase + uint64(w.full) + 1
		if i >= n {
			key -= drop * (uint64(words[i-n].full) + 1)
		}
		if i >= n-1 {
			yield(i-n+1, key)
		}
	}
}
