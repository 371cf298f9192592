package kv

// MaxBytes adds up what the buckets may hold on a server, those in memory left
// out, and those of the budgets, which have no limit and are small.
func (l Layout) MaxBytes() int64 {
	return l.AnswersBytes + l.CacheBytes + templatesBytes + modelsBytes + cancelledBytes + ratesBytes + slotsBytes
}
