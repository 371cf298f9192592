package streams

const (
	sizesParts = 64 // that sizes keeps
	sizesPart  = 64 // requests in each
)

// sizes knows how large the last requests of a tenant were, in little memory:
// sums of 64 in a row, for the last 4,096 or so. The zero value knows none.
type sizes struct {
	n    int64 // requests so far
	sums [sizesParts]int64
}

// add notes a request's bytes.
func (s *sizes) add(size int64) {
	part := &s.sums[s.n/sizesPart%sizesParts]
	if s.n%sizesPart == 0 {
		*part = 0
	}
	*part += size
	s.n++
}

// last gives the bytes of the last n requests. Where fewer are known, but enough
// to judge by, the others are taken to be of the same size. The oldest part
// counts by the share of it that is wanted.
func (s *sizes) last(n int64) (bytes int64) {
	left, begun := n, (s.n+sizesPart-1)/sizesPart
	for part := begun - 1; left > 0 && part >= max(0, begun-sizesParts); part-- {
		have := min(s.n-part*sizesPart, sizesPart)
		take := min(have, left)
		bytes += s.sums[part%sizesParts] * take / have
		left -= take
	}
	if known := n - left; left > 0 && known >= sizesPart {
		bytes += int64(float64(bytes) / float64(known) * float64(left))
	}
	return bytes
}
