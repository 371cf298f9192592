package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/internal/fakellm"
)

// offline is a directory with a dataset and a configuration, and the program as
// a process of its own.
type offline struct {
	t                     *testing.T
	program, file, config string
	candidate             string // else config
}

// newOffline makes a dataset of so many requests that depend on each other: each
// question comes again far behind it, some of them with an answer that has to be
// made anew by then, and some in another form.
func newOffline(t *testing.T, requests int, config string) *offline {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	self, err := os.Executable()
	require.NoError(t, err)
	x := &offline{t: t, program: filepath.Join(dir, "processor"), file: "data.jsonl", config: "c.yaml"}
	require.NoError(t, os.Symlink(self, x.program)) // which makes it the program (TestMain)
	require.NoError(t, os.WriteFile(x.config, []byte(config), 0o600))
	var data bytes.Buffer
	for i := range requests {
		n, options := i%(requests/2), ""
		text := fmt.Sprint("Question ", n, ". ", strings.Repeat("Tell me more of it. ", n%20))
		switch {
		case n%10 == 3:
			options = `,"processor":{"cache":{"ttl":"1s"}}`
		case n%10 == 5 && i != n:
			options = `,"processor":{"cache":{"mode":"refresh"}}`
		case n%10 == 7 && i != n:
			text = strings.ToUpper(text)
		}
		fmt.Fprintf(&data, `{"id":"r-%d","tenant":"acme","time":%q,"request":{"model":"good","messages":[{"role":"user","content":%q}]%s},"response":{"model":"good","choices":[{"index":0,"message":{"role":"assistant","content":"yes, %d"},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30},"processor":{"selected":{"model":"good","provider":"simulated"},"cost_usd":0.1}}}`+"\n",
			i, time.Date(2026, 11, 23, 10, 0, 0, i*int(time.Millisecond), time.UTC).Format(time.RFC3339Nano), text, options, n)
	}
	require.NoError(t, os.WriteFile(x.file, data.Bytes(), 0o600))
	return x
}

// start begins a replay with its own directory for what it does.
func (x *offline) start(state string) (cmd *exec.Cmd, stderr *bytes.Buffer) {
	x.t.Helper()
	stderr = &bytes.Buffer{}
	cmd = exec.CommandContext(x.t.Context(), x.program, "replay", "--config", x.config, "--candidate", cmp.Or(x.candidate, x.config), "--cassette", x.file,
		"--state", state, "--report-json", state+".json")
	cmd.Stderr = stderr
	require.NoError(x.t, cmd.Start())
	return cmd, stderr
}

// wrote reports whether a replay has written so many bytes of results.
func wrote(state string, bytes int64) bool {
	found, err := filepath.Glob(state + "/*/candidate.dry.results")
	if err != nil || len(found) != 1 {
		return false
	}
	info, err := os.Stat(found[0])
	return err == nil && info.Size() >= bytes
}

// killed starts a replay and kills it once it is far enough.
func (x *offline) killed(state string, enough func() bool) (stderr string) {
	x.t.Helper()
	cmd, errs := x.start(state)
	require.Eventually(x.t, enough, 60*time.Second, time.Millisecond)
	require.NoError(x.t, cmd.Process.Kill())
	require.Error(x.t, cmd.Wait(), "it was killed before its end")
	return errs.String()
}

func (x *offline) finished(state string) (stderr string) {
	x.t.Helper()
	cmd, errs := x.start(state)
	require.NoError(x.t, cmd.Wait(), errs.String())
	return errs.String()
}

// numbers reads what a pattern says how many there are of.
func numbers(t *testing.T, pattern, text string) (list []int) {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(text)
	require.NotNil(t, found, text)
	for _, word := range found[1:] {
		n, err := strconv.Atoi(strings.ReplaceAll(word, ",", ""))
		require.NoError(t, err)
		list = append(list, n)
	}
	return list
}

func TestAReplayThatWasKilledGoesOnWhereItWas(t *testing.T) {
	const requests = 6000
	x := newOffline(t, requests, "cache: {match: normalized}\n")
	x.finished("whole")
	x.killed("cut", func() bool { return wrote("cut", 100_000) })
	second := x.killed("cut", func() bool { return wrote("cut", 500_000) })
	first := numbers(t, `goes on: ([\d,]+) of ([\d,]+) are there`, second)
	last := x.finished("cut")
	there := numbers(t, `goes on: ([\d,]+) of ([\d,]+) are there`, last)
	worked := numbers(t, `([\d,]+) were there, ([\d,]+) were worked`, last)
	require.Positive(t, first[0])
	require.Greater(t, there[0], first[0])
	require.Equal(t, requests, there[1])
	require.Equal(t, []int{there[0], requests - there[0]}, worked, "only what was left was worked")
	whole, err := os.ReadFile("whole.json")
	require.NoError(t, err)
	cut, err := os.ReadFile("cut.json")
	require.NoError(t, err)
	require.Equal(t, string(whole), string(cut))
	r := readReport(t, "whole.json")
	require.Equal(t, requests, r.Replay.Pairs)
	require.Equal(t, requests/2+requests/2*2/10, r.Spending.Cassette, "of equal requests only the first is a call, but for those whose answer has to be new")
	left, err := filepath.Glob("cut/*/*")
	require.NoError(t, err)
	require.Len(t, left, 4, "of a replay that is done what reports need is kept: %v", left)
}

func TestAReplayThatWasInterruptedSaysSoAndGoesOn(t *testing.T) {
	x := newOffline(t, 4000, "")
	x.finished("whole")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd, errs := x.start("cut")
	context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(os.Interrupt) })
	require.Eventually(t, func() bool { return wrote("cut", 1) }, 60*time.Second, time.Millisecond)
	time.AfterFunc(50*time.Millisecond, cancel)
	require.Error(t, cmd.Wait())
	require.Contains(t, errs.String(), "the same command goes on from here")
	x.finished("cut")
	whole, err := os.ReadFile("whole.json")
	require.NoError(t, err)
	cut, err := os.ReadFile("cut.json")
	require.NoError(t, err)
	require.Equal(t, string(whole), string(cut))
}

func TestAReplayThatPaysAndWasKilledPaysTheRest(t *testing.T) {
	slow(t)
	const requests = 1500
	upstream := fakellm.New(fakellm.Config{Latency: 20 * time.Millisecond, Count: true})
	defer upstream.Close()
	x := newOffline(t, requests, "compress: {enabled: false}\n")
	x.candidate = "other.yaml"
	require.NoError(t, os.WriteFile(x.candidate, fmt.Appendf(nil, "compress: {enabled: true}\nproviders: [{name: fake, kind: openai, base_url: %q, api_key: k}]\n"+
		"models: [{name: other, provider: fake, group: good, price: {input: 1, output: 2}}]\n", upstream.URL+"/v1"), 0o600))
	x.finished("whole")
	whole := upstream.Stats().Calls
	const most = 512 // calls that were under way when it was killed
	for part := 1; part <= 2; part++ {
		x.killed("cut", func() bool { return upstream.Stats().Calls > whole+whole*int64(part)/3 })
	}
	x.finished("cut")
	a, b := readReport(t, "whole.json"), readReport(t, "cut.json")
	calls := upstream.Stats().Calls - whole
	require.Equal(t, int(whole), a.Spending.Paid.Calls)
	require.Equal(t, a.Spending.Forecast, b.Spending.Forecast)
	require.GreaterOrEqual(t, int(calls), b.Spending.Paid.Calls)
	require.GreaterOrEqual(t, b.Spending.Paid.Calls, a.Spending.Paid.Calls, "what was paid before it was killed is told")
	require.LessOrEqual(t, calls, whole+2*most)
	for i, m := range a.Metrics {
		if m.Name != evaluate.Latency {
			require.Equal(t, m, b.Metrics[i])
		}
	}
	require.Equal(t, requests, b.Replay.Pairs)
}
