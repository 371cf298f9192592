package fakellm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/adpa/processor/internal/fakellm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg fakellm.Config) (*fakellm.Server, *http.Client) {
	t.Helper()
	s := fakellm.New(cfg)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		s.Close()
	})
	return s, client
}

func post(t *testing.T, client *http.Client, url, body string) (int, string) {
	t.Helper()
	response, err := client.Post(url, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return response.StatusCode, string(text) + " ERROR"
	}
	return response.StatusCode, string(text)
}

func chatBody(text string) string {
	quoted, _ := json.Marshal(text)
	return fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":%s}]}`, quoted)
}

// The lean server and net/http's must not be told apart by what they answer and count.
func TestLeanAnswersAsTheHandlerDoes(t *testing.T) {
	for _, lean := range []bool{true, false} {
		cfg := fakellm.Config{Count: true}
		if !lean {
			cfg.Script = []*fakellm.Step{nil}
		}
		s, client := start(t, cfg)
		for _, path := range []string{"/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/v1/chat/completions"} {
			status, body := post(t, client, s.URL+path, chatBody("a \"quoted\" text"))
			require.Equal(t, 200, status)
			require.True(t, json.Valid([]byte(body)), body)
		}
		status, body := post(t, client, s.URL+"/v1/chat/completions", `{"stream": true,"messages":[{"role":"user","content":"b"}]}`)
		require.Equal(t, 200, status)
		require.True(t, strings.HasSuffix(body, "data: [DONE]\n\n"), body)
		stats := s.Stats()
		require.EqualValues(t, 5, stats.Calls)
		require.EqualValues(t, 5, stats.Answered)
		require.EqualValues(t, 1, stats.Streamed)
		require.EqualValues(t, 100, stats.PromptTokens)
		require.EqualValues(t, 50, stats.CompletionTokens)
		require.EqualValues(t, 1, stats.Connections)
		require.Zero(t, stats.InFlight)
		require.Equal(t, map[string]int{"a \"quoted\" text": 4, "b": 1}, s.Counts())
		require.EqualValues(t, 3, stats.Repeats)
	}
}

func TestLargeAndChunkedBodies(t *testing.T) {
	s, client := start(t, fakellm.Config{Count: true})
	large := chatBody(strings.Repeat("x", 900_000))
	for range 2 {
		status, _ := post(t, client, s.URL+"/v1/chat/completions", large)
		require.Equal(t, 200, status)
	}
	// A reader of unknown length is sent in chunks.
	response, err := client.Post(s.URL+"/v1/chat/completions", "application/json", io.MultiReader(bytes.NewReader([]byte(large))))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.EqualValues(t, 3, s.Stats().Answered)
	require.EqualValues(t, 2, s.Stats().Repeats)
}

func TestCountsAreBounded(t *testing.T) {
	s, client := start(t, fakellm.Config{Count: true, MaxKeys: 3})
	for i := range 5 {
		post(t, client, s.URL+"/v1/chat/completions", chatBody(fmt.Sprint(i)))
	}
	post(t, client, s.URL+"/v1/chat/completions", chatBody("0"))
	require.Len(t, s.Counts(), 3)
	require.EqualValues(t, 2, s.Stats().Uncounted)
	require.EqualValues(t, 1, s.Stats().Repeats)
	response, err := client.Get(s.URL + "/stats")
	require.NoError(t, err)
	defer response.Body.Close()
	var stats fakellm.Stats
	require.NoError(t, json.NewDecoder(response.Body).Decode(&stats))
	require.Equal(t, s.Stats(), stats)
}

func TestLimit(t *testing.T) {
	release := make(chan struct{})
	s, client := start(t, fakellm.Config{Limit: 2, RetryAfter: 2500 * time.Millisecond, Respond: func(fakellm.Call) *fakellm.Step {
		<-release
		return nil
	}})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { post(t, client, s.URL+"/v1/chat/completions", "{}") })
	}
	require.Eventually(t, func() bool { return s.Stats().InFlight == 2 }, 5*time.Second, time.Millisecond)
	response, err := client.Post(s.URL+"/v1/chat/completions", "application/json", strings.NewReader("{}"))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, 429, response.StatusCode)
	require.Equal(t, "2500", response.Header.Get("Retry-After-Ms"))
	require.Equal(t, "3", response.Header.Get("Retry-After"))
	close(release)
	wg.Wait()
	require.EqualValues(t, 1, s.Stats().Limited)
	require.EqualValues(t, 3, s.Stats().HighWater)
	require.EqualValues(t, 2, s.Stats().Answered)
}

func TestFailuresComeAtTheirRate(t *testing.T) {
	s, client := start(t, fakellm.Config{Failures: map[int]float64{500: 0.2, 429: 0.1}})
	got := map[int]int{}
	const calls = 2000
	for range calls {
		status, _ := post(t, client, s.URL+"/v1/chat/completions", "{}")
		got[status]++
	}
	require.InDelta(t, 0.2*calls, got[500], 0.05*calls)
	require.InDelta(t, 0.1*calls, got[429], 0.04*calls)
	require.EqualValues(t, got[500]+got[429], s.Stats().Failed)
	require.EqualValues(t, got[200], s.Stats().Answered)
}

func TestSteps(t *testing.T) {
	s, client := start(t, fakellm.Config{Script: []*fakellm.Step{
		{Status: 503}, {Body: "<html>", ContentType: "text/html"}, {CutBytes: 10}, {Huge: 1 << 20}, {Drip: time.Microsecond, Body: "slow"},
	}})
	url := s.URL + "/v1/chat/completions"
	status, body := post(t, client, url, "{}")
	require.Equal(t, 503, status)
	require.Contains(t, body, `"error"`)
	_, body = post(t, client, url, "{}")
	require.Equal(t, "<html>", body)
	_, body = post(t, client, url, "{}")
	require.Equal(t, `{"id":"cha ERROR`, body)
	_, body = post(t, client, url, "{}")
	require.Greater(t, len(body), 1<<20)
	require.True(t, json.Valid([]byte(body)))
	_, body = post(t, client, url, "{}")
	require.Equal(t, "slow", body)
	_, body = post(t, client, url, "{}")
	require.Contains(t, body, fakellm.DefaultText)
}

func TestCloseEndsWhatHangs(t *testing.T) {
	s := fakellm.New(fakellm.Config{Script: []*fakellm.Step{{Hang: true}}})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	done := make(chan struct{})
	go func() {
		defer close(done)
		response, err := client.Post(s.URL+"/v1/chat/completions", "application/json", strings.NewReader("{}"))
		if err == nil {
			_ = response.Body.Close()
		}
	}()
	require.Eventually(t, func() bool { return s.Stats().InFlight == 1 }, 5*time.Second, time.Millisecond)
	s.Close()
	<-done // with an error or a response that is empty, but it ends
	require.Eventually(t, func() bool { return s.Stats().InFlight == 0 }, 5*time.Second, time.Millisecond)
}

func TestUnknownAddress(t *testing.T) {
	s, client := start(t, fakellm.Config{})
	status, _ := post(t, client, s.URL+"/v1/files", "{}")
	require.Equal(t, 404, status)
	require.Zero(t, s.Stats().Calls)
}
