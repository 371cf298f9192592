package tokens

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkLoad measures the first use of an encoding, and the memory it keeps.
func BenchmarkLoad(b *testing.B) {
	for _, file := range []string{"o200k_base.tiktoken", "cl100k_base.tiktoken", "p50k_base.tiktoken", "r50k_base.tiktoken"} {
		b.Run(file, func(b *testing.B) {
			var kept *vocabulary
			before := heap()
			for b.Loop() {
				var err error
				kept, err = loadVocabulary(file)
				require.NoError(b, err)
			}
			b.ReportMetric(float64(heap()-before)/1e6, "MB-kept")
			runtime.KeepAlive(kept)
		})
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
