package tokens

import (
	"sync"
	"testing"

	"github.com/pkoukk/tiktoken-go"
	loader "github.com/pkoukk/tiktoken-go-loader"
	"github.com/stretchr/testify/require"
)

// The reference is tiktoken-go. Setting its loader is a data race unless it is
// done once.
var setLoader = sync.OnceFunc(func() { tiktoken.SetBpeLoader(loader.NewOfflineLoader()) })

var references sync.Map // name -> func() (*tiktoken.Tiktoken, error)

func reference(tb testing.TB, name string) *tiktoken.Tiktoken {
	tb.Helper()
	setLoader()
	if name == GPT2 {
		name = R50kBase
	}
	load, _ := references.LoadOrStore(name, sync.OnceValues(func() (*tiktoken.Tiktoken, error) {
		return tiktoken.GetEncoding(name)
	}))
	ref, err := load.(func() (*tiktoken.Tiktoken, error))()
	require.NoError(tb, err)
	return ref
}

func load(tb testing.TB, name string) *Encoding {
	tb.Helper()
	enc, err := Load(name)
	require.NoError(tb, err)
	return enc
}

// requireSame fails unless text has the tokens that the reference gives it.
func requireSame(tb testing.TB, enc *Encoding, ref *tiktoken.Tiktoken, text string) {
	tb.Helper()
	want := ref.EncodeOrdinary(text)
	got := enc.Encode(nil, text)
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			require.Failf(tb, "tokens differ", "%s, token %d: want %d %q, got %d %q after %q", enc.Name(), i,
				want[i], ref.Decode(want[i:i+1]), got[i], ref.Decode(got[i:i+1]), tail(ref.Decode(want[:i])))
		}
	}
	require.Lenf(tb, got, len(want), "tokens by %s of %q", enc.Name(), tail(text))
	require.Equalf(tb, len(want), enc.Count(text), "count by %s of %q", enc.Name(), tail(text))
	require.Equal(tb, len(want), enc.CountBytes([]byte(text)))
}

func tail(s string) string { return s[max(0, len(s)-80):] }
