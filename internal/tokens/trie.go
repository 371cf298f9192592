package tokens

// trie finds the longest token that a text starts with. Its edges are in one
// hash table: the parent node and the byte lead to the child node.
type trie struct {
	// An edge is parent<<40 | byte<<32 | ends<<31 | child, where ends tells
	// that a token ends at the child. 0 is no edge: the root is no child.
	edges  []uint64
	used   int
	tokens []uint32 // by node: the token that ends there, or none
}

const ends = 1 << 31

func newTrie(tokens int) trie {
	// Vocabularies have two to three nodes a token.
	return trie{edges: make([]uint64, tableSize(2*tokens)), tokens: []uint32{none}}
}

func (t *trie) slot(key uint64) uint64 {
	return key * 0x9E3779B97F4A7C15 >> 24 & uint64(len(t.edges)-1)
}

// find returns the slot of an edge, or the empty slot where it would be.
func (t *trie) find(parent uint32, b byte) uint64 {
	key := uint64(parent)<<8 | uint64(b)
	i := t.slot(key)
	for t.edges[i] != 0 && t.edges[i]>>32 != key {
		i = (i + 1) & uint64(len(t.edges)-1)
	}
	return i
}

func (t *trie) insert(bytes []byte, token uint32) {
	node, last := uint32(0), uint64(0)
	for _, b := range bytes {
		i := t.find(node, b)
		if t.edges[i] == 0 {
			if 2*t.used >= len(t.edges) {
				t.grow()
				i = t.find(node, b)
			}
			t.edges[i] = uint64(node)<<40 | uint64(b)<<32 | uint64(len(t.tokens))
			t.tokens = append(t.tokens, none)
			t.used++
		}
		node, last = uint32(t.edges[i])&^ends, i
	}
	t.edges[last] |= ends
	t.tokens[node] = token
}

func (t *trie) grow() {
	old := t.edges
	t.edges = make([]uint64, 2*len(old))
	for _, edge := range old {
		if edge != 0 {
			t.edges[t.find(uint32(edge>>40), byte(edge>>32))] = edge
		}
	}
}

// longest returns the longest token that is a prefix of text, or none.
func (t *trie) longest(text []byte) uint32 {
	node, match := uint32(0), uint32(0)
	for _, b := range text {
		edge := t.edges[t.find(node, b)]
		if edge == 0 {
			break
		}
		node = uint32(edge) &^ ends
		if edge&ends != 0 {
			match = node
		}
	}
	return t.tokens[match]
}
