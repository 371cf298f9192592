package streams

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/stages"
)

// What shares a message that the stream finds too large goes singly: none of it
// is refused, and none is forgotten.
func TestWhatIsTooLargeTogetherGoesSingly(t *testing.T) {
	t.Parallel()
	const n = 40
	layout := testLayout()
	nc, js := provisioned(t, layout)
	stream, err := js.Stream(t.Context(), "LLM_CACHE")
	require.NoError(t, err)
	config := stream.CachedInfo().Config
	config.MaxMsgSize = 4000 // some hand-offs
	_, err = js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	var mu sync.Mutex
	var here []*stages.Request
	compress := stageFunc(func(_ context.Context, requests []*stages.Request, decide stages.Decide) {
		mu.Lock()
		defer mu.Unlock()
		if here = append(here, requests...); len(here) < n {
			return
		}
		for _, request := range here { // at once, so that they share a message
			decide(request, stages.Verdict{})
		}
	})
	for i := range n {
		publishAs(t, js, "acme", fmt.Sprint("r-", i), request("a"))
	}
	start(t, nc, layout, steps(compress), steps(nil, pass, pass, pass, answer))
	for i := range n {
		require.Contains(t, string(response(t, js, fmt.Sprint("llm.responses.acme.r-", i)).Data), `"choices"`)
	}
	requireNoneLeft(t, js, "LLM_REQUESTS")
}
