package streams

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff grows from first with each failure, doubled up to most, and is spread
// by a fifth either way so that what failed together does not return together.
func backoff(failures int, first, most time.Duration) time.Duration {
	d := first
	for i := 1; i < failures && d < most; i++ {
		d *= 2
	}
	d = min(d, most)
	return d*4/5 + time.Duration(rand.Int64N(int64(d)*2/5+1))
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
