package kv

import "github.com/adpa/processor/kv/budget"

// MaxBytes adds up what the buckets may hold on a server, those in memory left out.
func (l Layout) MaxBytes() int64 {
	return l.AnswersBytes + l.CacheBytes + templatesBytes + modelsBytes + cancelledBytes + ratesBytes + slotsBytes + budget.MaxBytes
}
