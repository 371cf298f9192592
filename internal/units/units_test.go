package units

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"0": 0, "17": 17, "17B": 17, "1KB": 1024, "4GB": 4 << 30, "4 GB": 4 << 30, "4GiB": 4 << 30,
		"256mb": 256 << 20, "1.5KB": 1536, "2TB": 2 << 40, " 1MB ": 1 << 20, "0.5B": 0,
	} {
		got, err := ParseBytes(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "GB", "4XB", "-1GB", "1e3", "4G4B", "1.2.3GB", "9223372036854775807KB", "99999999999999999999", "4Gi", "BB", "1 . 5"} {
		_, err := ParseBytes(text)
		require.Error(t, err, text)
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"0": 0, "1s": time.Second, "168h": 168 * time.Hour, "1h30m": 90 * time.Minute, "250ms": 250 * time.Millisecond} {
		got, err := ParseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got.Std(), text)
	}
	for _, text := range []string{"", "30", "-1s", "7d", "x"} {
		_, err := ParseDuration(text)
		require.ErrorContains(t, err, "like 500ms, 30s, 5m or 168h", text)
	}
}

func TestTextIsShortAndReadBack(t *testing.T) {
	for want, b := range map[string]Bytes{"0B": 0, "1B": 1, "1023B": 1023, "1KB": KB, "1536B": 1536, "10GB": 10 * GB, "1TB": TB} {
		require.Equal(t, want, b.String())
	}
	for want, b := range map[string]Bytes{"0B": 0, "950B": 950, "1KB": KB, "17.9KB": 18330, "58.5GB": 59872 * MB, "1024TB": 1024 * TB, "-1B": -1} {
		require.Equal(t, want, b.Short())
	}
	for want, d := range map[string]Duration{
		"0s": 0, "30s": Duration(30 * time.Second), "5m": Duration(5 * time.Minute), "168h": Duration(168 * time.Hour),
		"1h30m": Duration(90 * time.Minute), "1h0m5s": Duration(time.Hour + 5*time.Second), "10m10s": Duration(610 * time.Second),
	} {
		require.Equal(t, want, d.String())
	}
}

func FuzzBytes(f *testing.F) {
	for _, seed := range []string{"4GB", "1.5KB", "-1", "9223372036854775807", "0x10", "1e400MB", "٣GB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, err := ParseBytes(text)
		if err != nil {
			return
		}
		require.GreaterOrEqual(t, b, Bytes(0))
		again, err := ParseBytes(b.String())
		require.NoError(t, err)
		require.Equal(t, b, again)
	})
}
