package providers

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRetryAfterHeader(t *testing.T) {
	date := time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat)
	for _, test := range []struct {
		status   int
		headers  []string
		from, to time.Duration
	}{
		{429, []string{"Retry-After", "2"}, 2 * time.Second, 2 * time.Second},
		{429, []string{"Retry-After", "0.25"}, 250 * time.Millisecond, 250 * time.Millisecond},
		{429, []string{"Retry-After-Ms", "1500", "Retry-After", "2"}, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{503, []string{"Retry-After", date}, 80 * time.Second, 90 * time.Second},
		{429, []string{"Retry-After", "-5"}, 0, 0},
		{429, []string{"Retry-After", "soon"}, 0, 0},
		{429, []string{"Retry-After", "NaN"}, 0, 0},
		{429, []string{"Retry-After", "1e300"}, maxRetryAfter, maxRetryAfter},
		{429, []string{"X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Reset-Requests", "6m0s", "X-Ratelimit-Remaining-Tokens", "5", "X-Ratelimit-Reset-Tokens", "9h"}, 6 * time.Minute, 6 * time.Minute},
		{429, []string{"X-Ratelimit-Remaining-Tokens", "0", "X-Ratelimit-Reset-Tokens", "12ms"}, 12 * time.Millisecond, 12 * time.Millisecond},
		{429, []string{"X-Ratelimit-Remaining-Tokens", "0", "X-Ratelimit-Reset-Tokens", "-1"}, 0, 0},
		{500, []string{"X-Ratelimit-Remaining-Requests", "0", "X-Ratelimit-Reset-Requests", "6m0s"}, 0, 0},
	} {
		header := http.Header{}
		for i := 0; i < len(test.headers); i += 2 {
			header.Set(test.headers[i], test.headers[i+1])
		}
		got := retryAfter(test.status, header)
		require.GreaterOrEqual(t, got, test.from, "%v", test.headers)
		require.LessOrEqual(t, got, test.to, "%v", test.headers)
	}
}

func TestGeminiRetryDelay(t *testing.T) {
	body := `{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"quota","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"34.5s"}]}}`
	e := statusError(429, http.Header{}, []byte(body), func(s string) string { return s })
	require.Equal(t, 34500*time.Millisecond, e.RetryAfter)
}

func TestLimitTableIsBounded(t *testing.T) {
	var table limitTable
	header := http.Header{"X-Ratelimit-Remaining-Requests": {"7"}}
	for i := range 2 * maxLimitModels {
		table.note(string(rune('a'+i%26))+time.Duration(i).String(), header)
	}
	require.Len(t, table.models, maxLimitModels)
	table.note("late", header)
	_, ok := table.get("late")
	require.False(t, ok)
}
