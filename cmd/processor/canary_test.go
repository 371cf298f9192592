package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// The secrets of a deployment, each in the place where it stands.
const (
	canaryKey      = "sk-canary-0001-api-key"
	canaryHeader   = "canary-0002-header"
	canaryPassword = "canary-0003-password"
	canaryVariable = "canary-0004-from-the-environment"
)

var canaries = []string{canaryKey, canaryHeader, canaryPassword, canaryVariable}

func requireNoCanary(t *testing.T, where, text string) {
	t.Helper()
	for _, canary := range canaries {
		require.NotContains(t, text, canary, where)
	}
}

// An upstream repeats its caller's secrets in every kind of error and answer,
// and nothing of them is written anywhere: not by a command that works or
// fails, not to logs, metrics, responses, dead letters, events or buckets.
func TestSecretsAreWrittenNowhere(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		said := fmt.Sprintf("incorrect key %s, header %s, and %s", r.Header.Get("Authorization"), r.Header.Get("X-Secret"), r.Header.Get("X-Other"))
		w.Header().Set("Content-Type", "application/json")
		switch {
		case bytes.Contains(body, []byte("401")):
			w.WriteHeader(http.StatusUnauthorized)
		case bytes.Contains(body, []byte("400")):
			w.WriteHeader(http.StatusBadRequest)
		case bytes.Contains(body, []byte("500")):
			w.WriteHeader(http.StatusInternalServerError)
		case bytes.Contains(body, []byte("html")):
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprintf(w, "<html>%s</html>", said)
			return
		case bytes.Contains(body, []byte("broken")):
			fmt.Fprintf(w, `{"choices": %q`, said)
			return
		case r.Method == http.MethodGet:
			w.WriteHeader(http.StatusForbidden)
		default:
			fmt.Fprint(w, `{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"fine"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}`)
			return
		}
		fmt.Fprintf(w, `{"error":{"message":%q,"type":"invalid_request_error","code":%q}}`, said, said)
	}))
	defer upstream.Close()
	s := serve(t, &server.Options{Users: []*server.User{{Username: "replica", Password: canaryPassword}}})
	t.Setenv("CANARY", canaryVariable)
	url := strings.Replace(s.ClientURL(), "nats://", "nats://replica:"+canaryPassword+"@", 1)
	text := fmt.Sprintf("nats: {url: %q}\nproviders: [{name: up, kind: openai, base_url: %q, api_key: %q, timeout: 2s, headers: {X-Secret: %q, X-Other: \"${CANARY}\"}}]\nbudgets: [{tenant: default, daily_limit: 60000}]\npipeline: {max_deliver: 2}\n",
		url, upstream.URL+"/v1", canaryKey, canaryHeader)
	nc, err := nats.Connect(url)
	require.NoError(t, err)
	defer nc.Close()
	var events strings.Builder
	heard := make(chan *nats.Msg, 1024)
	_, err = nc.ChanSubscribe("llm.events.>", heard)
	require.NoError(t, err)

	logs := &awaited{text: "metrics on", found: make(chan struct{})}
	stop := servingTo(t, text, logs)
	command := configured(t, text)
	written := ""
	for _, args := range [][]string{
		{"ask", "what works"}, {"ask", "what gives 400"}, {"ask", "what gives 401"}, {"ask", "what gives html"}, {"ask", "what is broken"}, {"ask", "what gives 500"}, {"ask", strings.Repeat("beyond the budget ", 20000)},
		{"config", "show"}, {"config", "check"}, {"doctor"}, {"doctor", "--json"}, {"dead", "list"}, {"dead", "list", "--json"}, {"provision"}, {"budget", "list"}, {"models"},
	} {
		_, stdout, stderr := command(args...)
		requireNoCanary(t, strings.Join(args, " "), stdout+stderr)
		written += stdout
	}
	require.Contains(t, written, "fine")
	require.Contains(t, written, "<secret>")
	metrics := regexp.MustCompile(`http://\S+/metrics`).FindString(logs.String())
	response, err := http.Get(metrics)
	require.NoError(t, err)
	figures, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Contains(t, string(figures), "processor_provider_requests_total")
	requireNoCanary(t, "/metrics", string(figures))

	// Failures of the commands themselves.
	for name, wrong := range map[string]string{
		"a wrong password":        strings.Replace(text, canaryPassword, canaryPassword+"-wrong", 1),
		"a server that is not":    strings.Replace(text, s.Addr().String(), "127.0.0.1:1", 1),
		"an address that is none": strings.Replace(text, "nats://", "http://", 1),
		"a wrong key beside":      strings.Replace(text, "timeout: 2s", "timeot: 2s", 1),
		"a wrong value":           strings.Replace(text, "timeout: 2s", "timeout: never", 1),
		"a line that ends":        strings.Replace(text, "]\nbudgets", "\nbudgets", 1),
	} {
		for _, args := range [][]string{{"config", "check"}, {"config", "show"}, {"provision"}, {"doctor"}, {"run"}} {
			if name != "a wrong password" && name != "a server that is not" || args[0] != "config" {
				status, stdout, stderr := configured(t, wrong)(args...)
				require.NotZero(t, status, "%s: %v", name, args)
				requireNoCanary(t, name, stdout+stderr)
			}
		}
	}
	stop()
	requireNoCanary(t, "the log", logs.String())
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	all := stored(t, js)
	require.Contains(t, strings.Join(all["LLM_RESPONSES"], "\n"), "incorrect key", "the provider's words do not even arrive")
	for stream, messages := range all {
		requireNoCanary(t, stream, strings.Join(messages, "\n"))
	}
	for len(heard) > 0 {
		m := <-heard
		events.Write(m.Data)
	}
	requireNoCanary(t, "events", events.String())
}
