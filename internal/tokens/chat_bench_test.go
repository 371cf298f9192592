package tokens

import "testing"

// BenchmarkChat counts a request of six short messages, and one with a long
// document.
func BenchmarkChat(b *testing.B) {
	c := counter(b)
	document := `{"messages":[{"role":"user","content":"` + texts["chinese"] + `"}]}`
	for name, body := range map[string]string{"messages": cookbookMessages, "chinese": document} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			data := []byte(body)
			for b.Loop() {
				if _, err := c.Chat("gpt-4o", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
