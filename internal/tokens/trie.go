package tokens

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
)

// trie finds the longest token that a text starts with. Its nodes are in
// breadth-first order, so that the children of a node lie side by side. Where a
// single token is left below a node, the node is a leaf and the rest of the
// token, its tail, is compared as a whole.
type trie struct {
	nodes  []node // and one more, to end the children of the last
	labels []byte // by node: the byte that leads to it

	// second is the node that two bytes lead to, or 0: the first two steps
	// in one, for there the nodes have the most children.
	second [1 << 16]uint32
}

// node has as children the nodes from its first to the first of the node after it.
type node struct {
	first uint32
	token uint32 // the token that ends here, or with hasTail below; or none
}

const hasTail = 1 << 31

// indexPrefixes makes the trie of the tokens that merging reaches, and notes for
// each the longest other token that it starts with. There is a token for each
// byte, so that the first level of the trie is found by counting.
func (v *vocabulary) indexPrefixes() {
	sorted := v.sorted()
	t := &trie{
		nodes:  make([]node, 1, 2*len(sorted)),
		labels: make([]byte, 1, 2*len(sorted)),
	}
	// The tokens below a node are a range of the sorted ones.
	type below struct{ from, to, depth, prefix uint32 }
	queue := make([]below, 1, 2*len(sorted))
	queue[0] = below{to: uint32(len(sorted)), prefix: none}
	for i := 0; i < len(queue); i++ {
		b := queue[i]
		t.nodes[i] = node{first: uint32(len(queue)), token: none}
		if token := sorted[b.from]; v.length(token) == int(b.depth) {
			t.nodes[i].token = token
			v.prefix[token] = b.prefix
			b.prefix = token
			b.from++
		} else if b.to-b.from == 1 && b.depth > 0 {
			t.nodes[i].token = token | hasTail
			v.prefix[token] = b.prefix
			continue
		}
		for b.from < b.to {
			label := v.token(sorted[b.from])[b.depth]
			child := below{from: b.from, to: b.from + 1, depth: b.depth + 1, prefix: b.prefix}
			for child.to < b.to && v.token(sorted[child.to])[b.depth] == label {
				child.to++
			}
			queue = append(queue, child)
			t.nodes = append(t.nodes, node{})
			t.labels = append(t.labels, label)
			b.from = child.to
		}
	}
	t.nodes = append(t.nodes, node{first: uint32(len(queue))})
	for b := range uint32(256) {
		for child := t.nodes[1+b].first; child < t.nodes[2+b].first; child++ {
			t.second[b<<8|uint32(t.labels[child])] = child
		}
	}
	v.trie = t
}

// sorted lists the tokens that merging reaches by their bytes. Most differ in
// the first eight, which compare as one number.
func (v *vocabulary) sorted() []uint32 {
	type entry struct {
		head  uint64
		token uint32
	}
	entries := make([]entry, 0, v.size())
	for t := range uint32(v.size()) {
		if v.reachable(t) {
			var head [8]byte
			copy(head[:], v.token(t))
			entries = append(entries, entry{binary.BigEndian.Uint64(head[:]), t})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		if a.head != b.head {
			return cmp.Compare(a.head, b.head)
		}
		return bytes.Compare(v.token(a.token), v.token(b.token))
	})
	tokens := make([]uint32, len(entries))
	for i, e := range entries {
		tokens[i] = e.token
	}
	return tokens
}

// longestPrefix returns the longest token that text, which is not empty,
// starts with.
func (v *vocabulary) longestPrefix(text []byte) uint32 {
	t := v.trie
	match := t.nodes[1+uint32(text[0])].token
	if len(text) == 1 {
		return match
	}
	at := t.second[uint32(text[0])<<8|uint32(text[1])]
	if at == 0 {
		return match
	}
	for depth := 2; ; depth++ {
		n := t.nodes[at]
		if n.token != none {
			if n.token&hasTail == 0 {
				match = n.token
			} else if bytes.HasPrefix(text[depth:], v.token(n.token &^ hasTail)[depth:]) {
				return n.token &^ hasTail
			}
		}
		if depth == len(text) {
			return match
		}
		if at = t.child(n.first, t.nodes[at+1].first, text[depth]); at == 0 {
			return match
		}
	}
}

// child returns the one of the nodes from first to before end that the byte
// leads to, or 0. Most nodes have few children, for which a loop is faster.
func (t *trie) child(first, end uint32, b byte) uint32 {
	labels := t.labels[first:end]
	if len(labels) > 8 {
		if i := bytes.IndexByte(labels, b); i >= 0 {
			return first + uint32(i)
		}
		return 0
	}
	for i, label := range labels {
		if label == b {
			return first + uint32(i)
		}
	}
	return 0
}
