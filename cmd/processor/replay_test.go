package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/internal/fakellm"
	"github.com/adpa/processor/streams"
)

// traffic is a deployment with an upstream whose models are right with known
// probabilities, and what was asked of it.
type traffic struct {
	*testPipeline
	dir string
}

// skill is how often the upstream's models are right.
var skill = map[string]float64{"good": 0.9, "bad": 0.6, "twin": 0.9}

// chance gives a number in [0, 1) for a model and a question, always the same.
func chance(model, question string) float64 {
	h := fnv.New64a()
	fmt.Fprint(h, model, "/", question, "/", len(question))
	return rand.New(rand.NewPCG(h.Sum64(), 1)).Float64()
}

// answerer answers "yes" where the model is right, else "no".
func answerer(c fakellm.Call) *fakellm.Step {
	var body struct{ Model string }
	_ = json.Unmarshal(c.Body, &body)
	text := "no"
	if chance(body.Model, fakellm.LastText(c)) < skill[body.Model] {
		text = "yes"
	}
	return &fakellm.Step{Body: fmt.Sprintf(`{"id":"x","object":"chat.completion","model":%q,"choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":10,"total_tokens":30}}`, body.Model, text)}
}

func newTraffic(t *testing.T, upstream fakellm.Config) *traffic {
	if upstream.Respond == nil {
		upstream.Respond = answerer
	}
	x := &traffic{newTestPipeline(t, upstream, func(c *config.Config) {
		c.Streams.Archive.Enabled = true
		c.Models = append(c.Models, configModel("good"), configModel("bad"), configModel("twin"))
	}), t.TempDir()}
	t.Chdir(x.dir)
	return x
}

// ask publishes questions and waits for their responses.
func (x *traffic) ask(tenant string, bodies map[string]string) {
	x.t.Helper()
	for id, body := range bodies {
		m := nats.NewMsg("llm.requests." + tenant)
		m.Header.Set(streams.HeaderID, id)
		m.Data = []byte(body)
		_, err := x.js.PublishMsg(x.t.Context(), m)
		require.NoError(x.t, err)
	}
	x.settled(len(bodies))
}

// settled waits until so many responses are stored and archived requests are as many.
func (x *traffic) settled(n int) {
	x.t.Helper()
	for _, name := range []string{"LLM_RESPONSES", "LLM_ARCHIVE"} {
		stream, err := x.js.Stream(x.t.Context(), name)
		require.NoError(x.t, err)
		require.Eventually(x.t, func() bool {
			info, err := stream.Info(x.t.Context())
			return err == nil && info.State.Msgs >= uint64(n)
		}, 60*time.Second, 10*time.Millisecond, name)
	}
}

func question(model, text string) string {
	return fmt.Sprintf(`{"model":%q,"messages":[{"role":"user","content":%q}]}`, model, text)
}

// config writes a configuration with the upstream and, of the models, a group.
func (x *traffic) config(name, group string) string {
	x.t.Helper()
	text := fmt.Sprintf("providers: [{name: fake, kind: openai, base_url: %q, api_key: k}]\nmodels:\n", x.upstream.URL+"/v1")
	for _, model := range slices.Sorted(maps.Keys(skill)) { // the same text each time: the same replay
		in := ""
		if model == group {
			in = ", group: chosen"
		}
		text += fmt.Sprintf("  - {name: %s, provider: fake%s, price: {input: 2.5, cached_input: 1.25, output: 10}}\n", model, in)
	}
	path := filepath.Join(x.dir, name)
	require.NoError(x.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// processor runs a command line and gives its exit status and output.
func (x *traffic) processor(ctx context.Context, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(ctx, append([]string{"--nats", x.nc.ConnectedUrl()}, args...), strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

func (x *traffic) replay(args ...string) evaluate.Report {
	x.t.Helper()
	path := filepath.Join(x.dir, "report.json")
	status, _, stderr := x.processor(x.t.Context(), append([]string{"replay", "--report-json", path}, args...)...)
	require.Zero(x.t, status, stderr)
	return readReport(x.t, path)
}

func readReport(t *testing.T, path string) (r evaluate.Report) {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &r))
	return r
}

// contents is everything that a server's streams and buckets hold, but for the
// leases of the last requests, which the server itself lets expire one by one.
func (x *traffic) contents() map[string]string {
	x.t.Helper()
	found := map[string]string{}
	names := x.js.StreamNames(x.t.Context())
	for name := range names.Name() {
		if name == "KV_llm_leases" {
			continue
		}
		stream, err := x.js.Stream(x.t.Context(), name)
		require.NoError(x.t, err)
		state := stream.CachedInfo().State
		h := sha256.New()
		for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
			if m, err := stream.GetMsg(x.t.Context(), seq); err == nil {
				fmt.Fprint(h, m.Subject, m.Sequence, m.Header, m.Time)
				_, _ = h.Write(m.Data)
			}
		}
		found[name] = fmt.Sprintf("%d %d %d %x", state.Msgs, state.FirstSeq, state.LastSeq, h.Sum(nil))
	}
	require.NoError(x.t, names.Err())
	return found
}

// quiet waits until the deployment itself changes nothing any more: the archive
// has taken its copies.
func (x *traffic) quiet() map[string]string {
	x.t.Helper()
	last := x.contents()
	require.Eventually(x.t, func() bool {
		now := x.contents()
		same := reflect.DeepEqual(last, now) && strings.HasPrefix(now["LLM_REQUESTS"], "0 ")
		last = now
		return same
	}, time.Minute, 200*time.Millisecond)
	return last
}

// slow leaves a test out where only the quick ones are wanted.
func slow(t *testing.T) {
	if os.Getenv("PROCESSOR_SLOW") == "" {
		t.Skip("takes some ten seconds; set PROCESSOR_SLOW=1")
	}
}

func (x *traffic) references(ids []string) string {
	x.t.Helper()
	var text strings.Builder
	for _, id := range ids {
		fmt.Fprintf(&text, "{\"id\":%q,\"expected\":\"yes\"}\n", id)
	}
	path := filepath.Join(x.dir, "references.jsonl")
	require.NoError(x.t, os.WriteFile(path, []byte(text.String()), 0o600))
	return path
}

func TestAReplayFindsAWorseModelForecastsWhatItPaysAndLeavesNoTrace(t *testing.T) {
	x := newTraffic(t, fakellm.Config{})
	live := x.config("live.yaml", "good")
	cfg, err := config.Load(live)
	require.NoError(t, err)
	x.cfg.Models = cfg.Models
	stop := x.start()
	bodies, ids := map[string]string{}, []string{}
	for i := range 240 {
		id := fmt.Sprintf("r-%d", i)
		model := "chosen" // the group's, which the candidate changes
		if i%4 == 0 {
			model = "good" // named, and so the same
		}
		bodies[id], ids = question(model, fmt.Sprint("question ", i%230)), append(ids, id)
	}
	x.ask("acme", bodies)
	stop()
	before, calls := x.quiet(), x.upstream.Stats()
	references := x.references(ids)

	worse := x.replay("--config", live, "--candidate", x.config("worse.yaml", "bad"), "--cassette", "--reference", references, "-o", filepath.Join(x.dir, "r.html"))
	made := x.upstream.Stats()
	require.Equal(t, 240, worse.Replay.Pairs)
	require.Equal(t, evaluate.Correct, worse.Verdict.RestsOn)
	require.Equal(t, evaluate.IsWorse, worse.Verdict.Quality, worse.Verdict.Text)
	require.NotNil(t, worse.Spending.Forecast)
	require.Equal(t, int(made.Calls-calls.Calls), worse.Spending.Forecast.Calls, "what is forecast is what the upstream counts")
	require.Positive(t, worse.Spending.Forecast.Calls)
	require.Less(t, worse.Spending.Forecast.Calls, 240)
	require.Equal(t, *worse.Spending.Forecast, worse.Spending.Paid, "and what is paid, tokens and dollars too")
	require.Positive(t, worse.Spending.Cassette)
	require.NotEmpty(t, worse.Worse)

	require.Equal(t, before, x.contents(), "streams and buckets of the deployment are as they were, to the byte")

	if os.Getenv("PROCESSOR_SLOW") == "" {
		return
	}
	same := x.replay("--config", live, "--candidate", x.config("same.yaml", "good"), "--cassette", "--reference", references)
	require.Equal(t, made.Calls, x.upstream.Stats().Calls, "a full cassette calls nobody")
	require.Equal(t, evaluate.IsEqual, same.Verdict.Quality)
	require.Zero(t, same.Spending.Forecast.Calls)

	twin := x.replay("--config", live, "--candidate", x.config("twin.yaml", "twin"), "--cassette", "--reference", references)
	require.NotEqual(t, evaluate.IsWorse, twin.Verdict.Quality, "another model of the same skill")
	require.NotEqual(t, evaluate.IsBetter, twin.Verdict.Quality)

	paid := x.upstream.Stats().Calls
	again := x.replay("--config", live, "--candidate", x.config("worse.yaml", "bad"), "--cassette", "--reference", references)
	require.Equal(t, worse, again, "the same replay gives the same report")
	require.Equal(t, paid, x.upstream.Stats().Calls, "and pays nothing")
	require.Equal(t, before, x.contents())

	status, stdout, _ := x.processor(t.Context(), "replay", "gate", filepath.Join(x.dir, "report.json"), "--max-quality-drop", "0.01", "--max-cost-rise", "5%")
	require.Equal(t, 1, status)
	require.Contains(t, stdout, "quality drop")
	status, stdout, _ = x.processor(t.Context(), "replay", "gate", filepath.Join(x.dir, "report.json"), "--max-quality-drop", "0.9")
	require.Zero(t, status, stdout)

	status, _, stderr := x.processor(t.Context(), "replay", "--config", live, "--candidate", x.config("twin.yaml", "twin"), "--cassette", "--max-cost", "0", "--fresh")
	require.Equal(t, 1, status, "nobody is there to be asked")
	require.Contains(t, stderr, "--max-cost")
	require.Equal(t, paid, x.upstream.Stats().Calls)
}

func TestAFullCassetteIsTheSameToTheByteAnywhereAndOffline(t *testing.T) {
	slow(t)
	x := newTraffic(t, fakellm.Config{})
	live := x.config("live.yaml", "good")
	stop := x.start()
	bodies := map[string]string{}
	for i := range 120 {
		bodies[fmt.Sprintf("r-%d", i)] = question("good", fmt.Sprint("question ", i%40))
	}
	x.ask("acme", bodies)
	for id, label := range map[string]string{"r-1": "good", "r-2": "bad"} {
		_, err := x.js.Publish(t.Context(), "llm.feedback.acme", fmt.Appendf(nil, `{"id":%q,"label":%q}`, id, label))
		require.NoError(t, err)
	}
	stop()
	reports := make([][]byte, 3)
	data := filepath.Join(x.dir, "data.jsonl")
	status, _, stderr := x.processor(t.Context(), "dataset", "export", "-o", data)
	require.Zero(t, status, stderr)
	for i := range reports {
		path := filepath.Join(x.dir, fmt.Sprint("report-", i))
		args := []string{"--config", live, "replay", "--candidate", live, "--state", filepath.Join(x.dir, fmt.Sprint("state-", i)), "--report-json", path, "-o", path + ".html"}
		if i < 2 {
			args = append([]string{"--nats", x.nc.ConnectedUrl()}, append(args, "--cassette")...)
		} else {
			args = append([]string{"--nats", "127.0.0.1:1"}, append(args, "--cassette", data)...)
		}
		var out, errs bytes.Buffer
		require.Zero(t, run(t.Context(), args, strings.NewReader(""), &out, &errs), errs.String())
		var err error
		reports[i], err = os.ReadFile(path)
		require.NoError(t, err)
	}
	require.Equal(t, string(reports[0]), string(reports[1]))
	offline, online := readReport(t, filepath.Join(x.dir, "report-2")), readReport(t, filepath.Join(x.dir, "report-0"))
	offline.Replay.Digest, online.Replay.Digest = "", "" // the file says more of each request than the tape
	require.Equal(t, online.Metrics, offline.Metrics)
	require.Equal(t, 120, offline.Replay.Pairs)
	require.Equal(t, &evaluate.Feedback{Rated: 2, GoodKept: 1, BadKept: 1}, offline.Feedback)
}

func TestAnyArchiveReplays(t *testing.T) {
	slow(t)
	x := newTraffic(t, fakellm.Config{})
	live := x.config("live.yaml", "good")
	stop := x.start()
	rng := rand.New(rand.NewPCG(1, 2))
	fragments := []string{
		`{`, `}`, `[`, `]`, `"model":"good"`, `"messages":`, `[{"role":"user","content":"hi"}]`, `,`, `null`, `"processor":{"cache":{"mode":"off"}}`, `"processor":{"deadline":"2020-01-01T00:00:00Z"}`,
		"\x00\xff", `"stream":true`, `{"model":"good","messages":[{"role":"user","content":"valid"}]}`, `"template":"missing"`, `{"input":"embed me","model":"good"}`, strings.Repeat("[", 300), `"a":1e999`,
		`{"messages":[{"role":"user","content":[{"type":"text","text":"part"}]}],"processor":{"route":"r","structure":{"format":"json"}}}`, `{"messages":[{"role":"user","content":"x"}],"processor":{"nonsense":1}}`,
	}
	const n = 150
	for i := range n {
		m := nats.NewMsg([]string{"llm.requests.acme", "llm.requests.ten!ant", "llm.requests.other"}[rng.IntN(3)])
		for range 1 + rng.IntN(6) {
			m.Data = append(m.Data, fragments[rng.IntN(len(fragments))]...)
		}
		if i%5 == 0 {
			m.Data = []byte(question("good", fmt.Sprint("valid ", i)))
		}
		for header, value := range map[string]string{streams.HeaderID: []string{"ok-1", "bad id", "123", ""}[rng.IntN(4)], streams.HeaderDeadline: "soon", streams.HeaderPriority: "urgent"} {
			if rng.IntN(4) == 0 {
				m.Header.Set(header, value)
			}
		}
		_, err := x.js.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	requests, err := x.js.Stream(t.Context(), "LLM_REQUESTS")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := requests.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, 60*time.Second, 20*time.Millisecond)
	stop()
	r := x.replay("--config", live, "--candidate", live, "--cassette", "--yes")
	require.Equal(t, n, r.Replay.Requests)
	require.NotZero(t, r.Replay.Pairs)
}

func TestAnInterruptedReplayGoesOnWithoutPayingTwiceAndTwoDoNotMeet(t *testing.T) {
	slow(t)
	x := newTraffic(t, fakellm.Config{Latency: 5 * time.Millisecond, Count: true})
	live, other := x.config("live.yaml", "good"), x.config("other.yaml", "bad")
	cfg, err := config.Load(live)
	require.NoError(t, err)
	x.cfg.Models = cfg.Models
	stop := x.start()
	bodies := map[string]string{}
	for i := range 300 {
		bodies[fmt.Sprintf("r-%d", i)] = question("chosen", fmt.Sprint("question ", i))
	}
	x.ask("acme", bodies)
	stop()
	before := x.upstream.Stats()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cut := make(chan int, 1)
	go func() {
		status, _, _ := x.processor(ctx, "--config", live, "replay", "--candidate", other, "--report-json", "r.json")
		cut <- status
	}()
	require.Eventually(t, func() bool { return x.upstream.Stats().Calls > before.Calls+50 }, 60*time.Second, time.Millisecond)
	cancel()
	require.Equal(t, 1, <-cut)
	require.Less(t, x.upstream.Stats().Calls, before.Calls+300, "it was cut off")
	status, _, stderr := x.processor(t.Context(), "--config", live, "replay", "--candidate", other, "--report-json", "r.json")
	require.Zero(t, status, stderr)
	require.Contains(t, stderr, "going on")
	require.Equal(t, before.Calls+300, x.upstream.Stats().Calls, "each was paid once")
	r := readReport(t, "r.json")
	require.Equal(t, 300, r.Replay.Pairs)
	require.Equal(t, 300, r.Spending.Forecast.Calls)

	var both sync.WaitGroup
	for i := range 2 {
		both.Go(func() {
			status, _, stderr := x.processor(t.Context(), "--config", live, "replay", "--candidate", other, "--cassette", "--fresh", "--report-json", fmt.Sprintf("both-%d.json", i))
			require.Zero(t, status, stderr)
		})
	}
	both.Wait()
	a, b := readReport(t, "both-0.json"), readReport(t, "both-1.json")
	require.Equal(t, 300, a.Replay.Pairs)
	correct := func(r evaluate.Report) []evaluate.Result { return r.Metrics[:2] }
	require.Equal(t, correct(a), correct(b))
}

func TestADatasetIsImportedWithoutPayingAndRedacted(t *testing.T) {
	slow(t)
	x := newTraffic(t, fakellm.Config{})
	live := x.config("live.yaml", "good")
	stop := x.start()
	x.ask("acme", map[string]string{"r-1": question("good", "my secret is 42"), "r-2": question("good", "hello")})
	stop()
	status, stdout, stderr := x.processor(t.Context(), "--config", live, "dataset", "export", "--redact", "request.messages.content", "--redact", "output")
	require.Zero(t, status, stderr)
	require.Len(t, strings.Split(strings.TrimSpace(stdout), "\n"), 2)
	require.NotContains(t, stdout, "secret")
	require.Contains(t, stdout, `"input":[{"role":"user","content":"[redacted]"}]`)
	require.NotContains(t, stdout, `"yes"`)

	status, whole, stderr := x.processor(t.Context(), "dataset", "export")
	require.Zero(t, status, stderr)
	require.NoError(t, os.WriteFile("data.jsonl", []byte(whole), 0o600))
	other := newTraffic(t, fakellm.Config{})
	require.NoError(t, os.WriteFile("data.jsonl", []byte(whole), 0o600))
	stopOther := other.start()
	for range 2 { // the second time it is all there
		status, _, stderr = other.processor(t.Context(), "dataset", "import", "data.jsonl", "--tenant", "copy")
		require.Zero(t, status, stderr)
	}
	require.Contains(t, stderr, "2 were there")
	other.settled(2)
	stopOther()
	require.Zero(t, other.upstream.Stats().Calls, "the responses were there first")
	r := other.replay("--config", other.config("c.yaml", "good"), "--candidate", other.config("c.yaml", "good"), "--cassette", "--tenant", "copy")
	require.Equal(t, 2, r.Replay.Pairs)
	require.Equal(t, evaluate.IsEqual, r.Verdict.Quality)
	require.Zero(t, other.upstream.Stats().Calls)
}

func TestTheCassetteFlagStandsAloneOrHasAFile(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]cassetteFlag{
		"--candidate c.yaml": {}, "--cassette --candidate c.yaml": {on: true}, "--candidate c.yaml --cassette": {on: true},
		"--cassette data.jsonl --candidate c.yaml": {true, "data.jsonl"}, "--cassette=data.jsonl --candidate c.yaml": {true, "data.jsonl"},
		"--cassette - --candidate c.yaml": {true, "-"}, "--cassette -y --candidate c.yaml": {on: true},
	} {
		var flags cli
		parser, err := kong.New(&flags)
		require.NoError(t, err)
		_, err = parser.Parse(append([]string{"replay"}, strings.Fields(line)...))
		require.NoError(t, err, line)
		require.Equal(t, want, flags.Replay.Run.Cassette, line)
	}
}

func TestABaselineFileATemplateAJudgeAndASpeed(t *testing.T) {
	slow(t)
	judge := func(c fakellm.Call) *fakellm.Step {
		if !strings.Contains(string(c.Body), "You compare two answers") {
			return answerer(c)
		}
		verdict := func(n int) *fakellm.Step {
			return &fakellm.Step{Body: fmt.Sprintf(`{"object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"{\"reason\":\"r\",\"better\":%d}"},"finish_reason":"stop"}],"usage":{"prompt_tokens":50,"completion_tokens":5,"total_tokens":55}}`, n)}
		}
		if strings.Contains(string(c.Body), `\"answer_1\":\"yes\"`) {
			return verdict(1)
		}
		return verdict(2)
	}
	x := newTraffic(t, fakellm.Config{Respond: judge})
	live := x.config("live.yaml", "good")
	stop := x.start()
	status, _, stderr := x.processor(t.Context(), "template", "put", "greet", x.file("greet.txt", "Say {what}."))
	require.Zero(t, status, stderr)
	bodies := map[string]string{}
	for i := range 40 {
		bodies[fmt.Sprintf("r-%d", i)] = question("good", fmt.Sprint("question ", i))
		bodies[fmt.Sprintf("t-%d", i)] = fmt.Sprintf(`{"model":"good","processor":{"template":"greet","variables":{"what":"word %d"}}}`, i)
	}
	x.ask("acme", bodies)
	stop()

	same := x.replay("--config", live, "--candidate", live, "--baseline", live, "--cassette", "--speed", "2x")
	require.Equal(t, evaluate.IsEqual, same.Verdict.Quality)
	require.Zero(t, same.Spending.Paid.Calls, "both sides are answered from the record, templates too")
	require.Equal(t, 80, same.Replay.Pairs)

	words := x.replay("--config", live, "--candidate", live, "--cassette", "--template", "greet="+x.file("new.txt", "Please say {what} now."))
	require.Equal(t, 40, words.Spending.Paid.Calls, "only what the template changes is asked")

	judged := x.replay("--config", live, "--candidate", x.judging("j.yaml"), "--cassette", "--judge-limit", "30")
	require.Equal(t, evaluate.Judge, judged.Verdict.RestsOn, judged.Verdict.Text)
	require.Positive(t, judged.Spending.Judge)
}

func (x *traffic) file(name, text string) string {
	x.t.Helper()
	path := filepath.Join(x.dir, name)
	require.NoError(x.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// judging writes a configuration whose compression changes nothing and whose
// model good is answered by another name, with a judge.
func (x *traffic) judging(name string) string {
	return x.file(name, fmt.Sprintf(`providers: [{name: fake, kind: openai, base_url: %q, api_key: k}]
models: [{name: bad, provider: fake, group: good}, {name: twin, provider: fake}]
score: {judge: twin}
`, x.upstream.URL+"/v1"))
}
