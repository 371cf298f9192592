package prefix

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkTurn is what a prompt of about 8,000 tokens costs, from its body to
// the end of its call.
func BenchmarkTurn(b *testing.B) {
	g := NewGate(time.Second)
	texts := make([]string, 16)
	for i := range texts {
		texts[i] = fmt.Sprint("message ", i)
	}
	body := conversation(texts...)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		turn, _ := g.Begin(time.Now(), g.Read("acme", "m", false, body))
		turn.End(time.Now(), true)
	}
}
