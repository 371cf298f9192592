package evaluate

import (
	"cmp"
	"math"
	"slices"
)

// cluster sums up the pairs of equal requests.
type cluster struct {
	key    uint64
	groups []int // numbers of the groups that its first pair is in
	sums   []part
}

// part is a cluster's share in one metric.
type part struct {
	difference float64 // sum over its pairs
	pairs      int
}

// sample keeps whole clusters: all, or those with the lowest keys, which are as
// good as random, once there are too many (bottom-k sampling, Cohen and Kaplan
// 2007). So memory is bounded, and the same pairs give the same sample in any order.
type sample struct {
	most      int
	threshold uint64 // keys from here on are out
	clusters  map[uint64]*cluster
}

func newSample(most int) *sample {
	return &sample{most: most, threshold: math.MaxUint64, clusters: map[uint64]*cluster{}}
}

// of gives the cluster of a key, nil if that is not in the sample.
func (s *sample) of(key uint64) *cluster {
	if key >= s.threshold {
		return nil
	}
	c := s.clusters[key]
	if c == nil {
		if len(s.clusters) >= s.most+s.most/4 {
			s.cut()
			return s.of(key)
		}
		c = &cluster{key: key, sums: make([]part, len(metrics))}
		s.clusters[key] = c
	}
	return c
}

func (s *sample) cut() {
	list := s.sorted()
	s.threshold = list[s.most].key
	for _, c := range list[s.most:] {
		delete(s.clusters, c.key)
	}
}

func (s *sample) sorted() []*cluster {
	list := make([]*cluster, 0, len(s.clusters))
	for _, c := range s.clusters {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *cluster) int { return cmp.Compare(a.key, b.key) })
	return list
}

// end gives the clusters in order of their keys, and how many there are in all, about.
func (s *sample) end() (list []*cluster, all float64) {
	if len(s.clusters) > s.most {
		s.cut()
	}
	list = s.sorted()
	if s.threshold == math.MaxUint64 {
		return list, float64(len(list))
	}
	return list, float64(len(list)) / (float64(s.threshold) / math.MaxUint64)
}
