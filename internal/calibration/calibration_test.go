package calibration

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/adpa/processor/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReplicasLearnFromEachOther(t *testing.T) {
	_, js := natstest.Connect(t, natstest.Start(t))
	_, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "llm_models"})
	require.NoError(t, err)
	one, err := Open(t.Context(), js, "llm_models")
	require.NoError(t, err)
	two, err := Open(t.Context(), js, "llm_models")
	require.NoError(t, err)
	for i := range 25 { // a tokenizer that differs by 17%
		one.Observe("open/router", "a/b:c", 1000+i, 1170+i)
		two.Observe("open/router", "a/b:c", 900+i, 1053+i)
	}
	mean, high := one.Factors("open/router", "a/b:c")
	require.InDelta(t, 1.17, mean, 0.035)
	require.Greater(t, high, mean)
	one.Close()
	two.Close()

	later, err := Open(t.Context(), js, "llm_models")
	require.NoError(t, err)
	defer later.Close()
	mean, _ = later.Factors("open/router", "a/b:c")
	require.InDelta(t, 1.17, mean, 0.03, "50 responses of two processes, read by a third")
	mean, _ = later.Factors("open/router", "other")
	require.Equal(t, 1.0, mean)

	third, err := Open(t.Context(), js, "llm_models")
	require.NoError(t, err)
	defer third.Close()
	for range 50 {
		third.Observe("p", "m", 1000, 2000)
	}
	require.Eventually(t, func() bool {
		mean, _ := later.Factors("p", "m")
		return mean > 1.9
	}, 30*time.Second, 10*time.Millisecond, "observations travel while both run")
}

func TestNamesAreKeys(t *testing.T) {
	require.Equal(t, "a=2Fb=3Ac=3D=C3=BC", EscapeName("a/b:c=ü"))
	name, ok := UnescapeName("a=2Fb=3Ac=3D=C3=BC")
	require.True(t, ok)
	require.Equal(t, "a/b:c=ü", name)
	for _, part := range []string{"=all", "a=", "a=3", "=+1"} {
		_, ok := UnescapeName(part)
		require.False(t, ok, part)
	}
}
