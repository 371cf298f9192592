package tokens

// merge encodes a piece: it returns the tokens that byte-pair encoding of the
// piece ends with, in s.tokens, valid until the next use of s.
//
// Byte-pair encoding says to merge the lowest pair until none is left, which
// takes quadratic time, or a heap. This is the backtracking algorithm of
// H. van Antwerpen and A. Neubeck ("So many tokens, so little time", GitHub,
// 2024) instead. It rests on two facts: a sequence of tokens is the encoding of
// its text if and only if each two adjacent tokens are the encoding of theirs;
// and a text has one encoding. So any sequence with valid neighbours is the
// answer, and it is searched from left to right with the longest token first.
// A position from which no way leads on is blocked and never tried again, so
// each position costs at most the tokens that start there, a constant of the
// vocabulary, and time is linear in the length of the piece.
func (v *vocabulary) merge(piece []byte, s *scratch) []uint32 {
	out := s.tokens[:0]
	s.unblock(len(piece) + 1)
	pos := 0
	candidate := v.longestPrefix(piece)
	for {
		end := pos + v.length(candidate)
		if !s.isBlocked(end) && (len(out) == 0 || v.adjacent(out[len(out)-1], candidate)) {
			out = append(out, candidate)
			pos = end
			if pos == len(piece) {
				s.tokens = out
				return out
			}
			candidate = v.longestPrefix(piece[pos:])
			continue
		}
		if shorter := v.prefix[candidate]; shorter != none {
			candidate = shorter
			continue
		}
		// Nothing fits here, so the token before was wrong: it comes back as
		// the candidate, finds its end blocked and gives way to a shorter one.
		s.block(pos)
		candidate = out[len(out)-1]
		out = out[:len(out)-1]
		pos -= v.length(candidate)
	}
}

// adjacent tells whether left and right, encoded as one text, stay as they
// are. It undoes their merges from the last to the first; they stay if at no
// time there was a pair across the border that ranked before what was merged.
func (v *vocabulary) adjacent(left, right uint32) bool {
	// A pair across the border that merges into a token below limit would
	// have been merged before the merges that are undone so far.
	limit := none
	for {
		if v.joined(left, right) < limit {
			return false
		}
		// Of equals the left one was merged first, so the right one is undone first.
		if left > right {
			limit = left
			if left = v.halves[left].right; left != limit {
				continue
			}
			// left is a single byte: only right can be undone.
			limit = right + 1
			if right = v.halves[right].left; right+1 == limit {
				return true
			}
			continue
		}
		limit = right + 1
		if right = v.halves[right].left; right+1 != limit {
			continue
		}
		limit = left
		if left = v.halves[left].right; left == limit {
			return true
		}
	}
}

// unblock makes room for n positions, none of them blocked.
func (s *scratch) unblock(n int) {
	words := (n + 63) / 64
	if cap(s.blocked) < words {
		s.blocked = make([]uint64, words)
		return
	}
	s.blocked = s.blocked[:words]
	clear(s.blocked)
}

func (s *scratch) block(i int) { s.blocked[i/64] |= 1 << (i % 64) }

func (s *scratch) isBlocked(i int) bool { return s.blocked[i/64]>>(i%64)&1 != 0 }
