package jsx

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/natstest"
)

// Entries that expire between the beginning of a watch and their delivery have
// no message that says that it is the last.
func TestAWatchDoesNotWaitForWhatGoesMeanwhile(t *testing.T) {
	_, js := natstest.Connect(t, natstest.Start(t))
	bucket, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "b"})
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), "KV_b")
	require.NoError(t, err)
	for name, went := range map[string][]jetstream.StreamPurgeOpt{"all": nil, "the last": {jetstream.WithPurgeSubject("$KV.b.z")}} {
		for _, key := range []string{"a", "z"} {
			_, err := bucket.PutString(t.Context(), key, "1")
			require.NoError(t, err)
		}
		ready := make(chan struct{})
		var seen []string
		begun := make(chan func(), 1)
		go func() {
			stop, err := Watch(t.Context(), js, WatchConfig{
				Bucket: "b",
				Reset:  func() { _ = stream.Purge(t.Context(), went...) }, // the consumer is there, and nothing was asked for
				Apply:  func(e Entry) { seen = append(seen, e.Key) },
				Ready:  func() { close(ready) },
			})
			if err == nil {
				begun <- stop
			}
		}()
		select {
		case stop := <-begun:
			stop()
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: it waits", name)
		}
		<-ready
		require.LessOrEqual(t, len(seen), 1)
	}
}
