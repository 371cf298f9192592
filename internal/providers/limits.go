package providers

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a provider may ask to wait.
const maxRetryAfter = 24 * time.Hour

// retryAfter reads how long the provider asks to wait: retry-after-ms, else
// retry-after in seconds or as a date, else, for a 429, the time until the
// limit that is used up is free again. 0 if it does not say.
func retryAfter(status int, header http.Header) time.Duration {
	if ms, err := strconv.ParseFloat(header.Get("Retry-After-Ms"), 64); err == nil {
		return clampWait(ms * float64(time.Millisecond))
	}
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		return clampWait(seconds * float64(time.Second))
	}
	if date, err := http.ParseTime(value); err == nil {
		return clampWait(float64(time.Until(date)))
	}
	if status != http.StatusTooManyRequests {
		return 0
	}
	limits, _ := readLimits(header, time.Now)
	var wait time.Duration
	if limits.RemainingRequests == 0 {
		wait = max(wait, limits.ResetRequests)
	}
	if limits.RemainingTokens == 0 {
		wait = max(wait, limits.ResetTokens)
	}
	return clampWait(float64(wait))
}

func clampWait(wait float64) time.Duration {
	if !(wait > 0) { // NaN too
		return 0
	}
	return time.Duration(min(wait, float64(maxRetryAfter)))
}

// readLimits reads the x-ratelimit-* headers of OpenAI and those who follow it,
// and anthropic-ratelimit-*. It tells whether there was one.
func readLimits(header http.Header, now func() time.Time) (Limits, bool) {
	l := Limits{LimitRequests: -1, RemainingRequests: -1, ResetRequests: -1, LimitTokens: -1, RemainingTokens: -1, ResetTokens: -1}
	get := func(what, of string) string { return header.Get("X-Ratelimit-" + what + "-" + of) }
	if !has(header, "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Remaining-Tokens") {
		if !has(header, "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Tokens-Remaining") {
			return l, false
		}
		get = func(what, of string) string { return header.Get("Anthropic-Ratelimit-" + of + "-" + what) }
	}
	l.At = now()
	l.LimitRequests, l.RemainingRequests = count(get("Limit", "Requests")), count(get("Remaining", "Requests"))
	l.LimitTokens, l.RemainingTokens = count(get("Limit", "Tokens")), count(get("Remaining", "Tokens"))
	l.ResetRequests, l.ResetTokens = reset(get("Reset", "Requests"), l.At), reset(get("Reset", "Tokens"), l.At)
	return l, true
}

func has(header http.Header, a, b string) bool { return header[a] != nil || header[b] != nil }

// count reads a number; -1 if there is none.
func count(text string) int {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// reset reads when a limit is free again: a duration as OpenAI writes it (6m0s,
// 12ms), seconds as Azure does, or a time as Anthropic does; -1 if there is none.
func reset(text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return min(d, maxRetryAfter)
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds >= 0 {
		return clampWait(seconds * float64(time.Second))
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return clampWait(float64(at.Sub(now)))
	}
	return -1
}
