package streams
import ("testing";"time";"fmt";"sync")
import "github.com/stretchr/testify/require"
func TestDbg(t *testing.T) {
	layout := testLayout()
	layout.MaxWaiting = 20
	nc, _ := provisioned(t, layout)
	start(t, nc, layout, steps(pass, pass, pass, pass, answer))
	x, err := testClient(t, nc).Exchange(t.Context(), 50)
	require.NoError(t, err)
	defer x.Close()
	var sending sync.WaitGroup
	begin := time.Now()
	sending.Go(func() {
		for i := range 300 {
			require.NoError(t, x.Send(t.Context(), Message{ID: fmt.Sprintf("id-%d", i), Body: request("x")}))
		}
		x.Finish()
	})
	n := 0
	for range x.Answers() { n++; if n % 10 == 0 { fmt.Println(n, time.Since(begin).Round(time.Millisecond), x.Waiting(), len(x.out)) } }
	sending.Wait()
}
func TestDbg2(t *testing.T) {
	layout := testLayout()
	layout.MaxWaiting = 20
	nc, js := provisioned(t, layout)
	start(t, nc, layout, steps(pass, pass, pass, pass, answer))
	begin := time.Now()
	for round := range 4 {
	for i := range 20 { _, err := js.Publish(t.Context(), "llm.requests.acme", request(fmt.Sprint(i))); if err != nil { fmt.Println(round, i, err) ; break} }
	for k := 0; k < 400; k++ {
		s, _ := js.Stream(t.Context(), "LLM_REQUESTS")
		c, _ := js.Consumer(t.Context(), "LLM_REQUESTS", "compress")
		ci, _ := c.Info(t.Context())
		if k % 40 == 0 || s.CachedInfo().State.Msgs == 0 { fmt.Println(round, time.Since(begin), s.CachedInfo().State.Msgs, "ackpend", ci.NumAckPending, "pend", ci.NumPending, ci.AckFloor, "waiting", ci.NumWaiting) }
		if s.CachedInfo().State.Msgs == 0 { break }
		time.Sleep(10*time.Millisecond)
	}
	}
}
