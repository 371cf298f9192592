package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/proc"
)

// scaleBench measures how the processor grows: with replicas, with what waits
// and with what is kept. Every replica is a process of its own.
type scaleBench struct {
	pipelineBench
	workers int
	latency time.Duration
	seconds float64
}

// scaleTenants is over how many tenants the load is spread.
const scaleTenants = 16

func runScale(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	b := scaleBench{pipelineBench: pipelineBench{out: out}}
	replicas := flags.String("replicas", "1,2,4,8", "numbers of replicas; empty leaves them out")
	backlogs := flags.String("backlog", "1000,10000,100000", "requests that wait when a replica starts; empty leaves them out. Up to 1000000 is meant")
	kept := flags.Int("kept", 100_000, "messages in archive and responses when a replica starts; 0 leaves it out. 1000000 is meant")
	joins := flags.Int("joins", 3, "replicas that join and leave, told to (SIGTERM); 0 leaves joining and leaving out")
	kills := flags.Int("kills", 1, "replicas that join and are killed (SIGKILL); of as many that stay, it is told how long what they take is under way")
	flags.IntVar(&b.workers, "workers", 16, "of the generate stage of each replica")
	flags.DurationVar(&b.latency, "latency", 200*time.Millisecond, "of the upstream")
	flags.Float64Var(&b.seconds, "seconds", 15, "how long each number of replicas works, about")
	if err := parse(flags, args); err != nil {
		return err
	}
	remove, err := b.build(ctx, "scale")
	if err != nil {
		return err
	}
	defer remove()
	for _, part := range []struct {
		name string
		run  func() error
	}{
		{"replicas", func() error { return b.replicas(ctx, *replicas) }},
		{"backlog", func() error { return b.backlog(ctx, *backlogs) }},
		{"kept", func() error { return b.startUp(ctx, *kept) }},
		{"joins", func() error { return b.joins(ctx, *joins, *kills) }},
	} {
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

func numbers(list string) (n []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		i, err := strconv.Atoi(text)
		if err != nil || i < 1 {
			return nil, fmt.Errorf("%q is no list of numbers like 1,2,4", list)
		}
		n = append(n, i)
	}
	return n, nil
}

// fleet is a setting with any number of replicas.
type fleet struct {
	*setting
	b        *scaleBench
	replicas []*proc.Process
	said     *safeBuffer
}

// safeBuffer takes what several processes say.
type safeBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// fleet starts a server and an upstream, and sets up the streams. No replica
// runs yet.
func (b *scaleBench) fleet(ctx context.Context, latency time.Duration, workers int) (f *fleet, err error) {
	f = &fleet{setting: new(setting), b: b, said: new(safeBuffer)}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if err = b.surround(ctx, f.setting, latency); err != nil {
		return nil, err
	}
	groups := fmt.Sprintf("%s, workers: {generate: %d}", fiveGroups, workers)
	text := b.config(scenario{http: true, groups: groups, archive: true}, f.setting)
	if err := os.WriteFile(f.configuration(), []byte(text), 0o600); err != nil {
		return nil, err
	}
	if out, err := proc.Run(ctx, b.program, "provision", "--config", f.configuration()); err != nil {
		return nil, fmt.Errorf("provisioning: %w\n%s", err, out)
	}
	return f, nil
}

func (f *fleet) configuration() string { return filepath.Join(f.b.dir, "processor.yaml") }

func (f *fleet) close() {
	for _, p := range f.replicas {
		_ = p.Stop()
	}
	f.setting.close()
}

// join starts a replica.
func (f *fleet) join(ctx context.Context) (*proc.Process, error) {
	p, err := proc.Command(ctx, f.said, f.b.program, "run", "--config", f.configuration())
	if err == nil {
		f.replicas = append(f.replicas, p)
	}
	return p, err
}

// figures asks the replicas what they have done: generated requests, by process.
func (f *fleet) figures(wait time.Duration) (map[string]float64, error) {
	inbox := nats.NewInbox()
	sub, err := f.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := f.nc.PublishRequest("llm.top", inbox, nil); err != nil {
		return nil, err
	}
	done := map[string]float64{}
	for end := time.Now().Add(wait); len(done) < len(f.replicas); {
		m, err := sub.NextMsg(max(time.Until(end), time.Millisecond))
		if err != nil {
			break // nobody more answers
		}
		var one struct {
			Process string                        `json:"process"`
			Decided map[string]map[string]float64 `json:"decided"`
		}
		if err := json.Unmarshal(m.Data, &one); err != nil {
			return nil, err
		}
		for _, n := range one.Decided["generate"] {
			done[one.Process] += n
		}
		done[one.Process] += 0 // it answers, whatever it has done
	}
	return done, nil
}

// awaitReplicas waits until so many answer.
func (f *fleet) awaitReplicas(ctx context.Context, n int) error {
	for end := time.Now().Add(60 * time.Second); ; {
		done, err := f.figures(200 * time.Millisecond)
		if err != nil {
			return err
		}
		if len(done) >= n {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("%d of %d replicas are there\n%s", len(done), n, f.said)
		}
	}
}

// load publishes requests that all differ, from number first on, spread over
// tenants.
func (f *fleet) load(first, n int) error {
	for i := first; i < first+n; i++ {
		m := nats.NewMsg(fmt.Sprintf("llm.requests.bench-%d", i%scaleTenants))
		m.Data = prompt(i)
		if _, err := f.js.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	<-f.js.PublishAsyncComplete()
	return nil
}

// mark is when so many responses were stored.
type mark struct {
	at time.Time
	n  uint64
}

// watch notes how responses come in until there are n, and calls look, which may
// be nil, at each note.
func (f *fleet) watch(ctx context.Context, n int, look func() error) ([]mark, error) {
	stream, err := f.js.Stream(ctx, "LLM_RESPONSES")
	if err != nil {
		return nil, err
	}
	var marks []mark
	for last := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		info, err := stream.Info(ctx)
		if err != nil {
			return nil, err
		}
		if len(marks) == 0 || info.State.Msgs > marks[len(marks)-1].n {
			marks = append(marks, mark{time.Now(), info.State.Msgs})
			last = time.Now()
		}
		if look != nil {
			if err := look(); err != nil {
				return nil, err
			}
		}
		if info.State.Msgs >= uint64(n) {
			return marks, f.checkAnswers(ctx, stream, n)
		}
		if time.Since(last) > time.Minute {
			return nil, fmt.Errorf("no response for a minute, %d of %d are there\n%s", info.State.Msgs, n, f.said)
		}
	}
}

// between gives the requests a second from one share of all to another, so
// that neither the start nor the end counts.
func between(marks []mark, from, to float64) float64 {
	all := float64(marks[len(marks)-1].n)
	var first, last *mark
	for i := range marks {
		if first == nil && float64(marks[i].n) >= from*all {
			first = &marks[i]
		}
		if float64(marks[i].n) <= to*all {
			last = &marks[i]
		}
	}
	if first == nil || last == nil || !last.at.After(first.at) {
		return 0
	}
	return float64(last.n-first.n) / last.at.Sub(first.at).Seconds()
}

// cpuTime is what all processes of the fleet have used.
func (f *fleet) cpuTime() time.Duration {
	return cpuTime(append([]*proc.Process{f.nats, f.upstream}, f.replicas...)...)
}

// replicas measures throughput by the number of replicas.
func (b *scaleBench) replicas(ctx context.Context, list string) error {
	counts, err := numbers(list)
	if err != nil || len(counts) == 0 {
		return err
	}
	fmt.Fprintf(b.out, "| replicas | requests/s | possible | of linear | processor time of the machine |\n| --- | --- | --- | --- | --- |\n")
	for _, n := range counts {
		possible := float64(n*b.workers) / b.latency.Seconds()
		rate, busy, err := b.throughputOf(ctx, n, int(possible*b.seconds))
		if err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
		fmt.Fprintf(b.out, "| %d | %.0f | %.0f | %.2f | %.0f%% |\n", n, rate, possible, rate/possible, 100*busy)
	}
	fmt.Fprintln(b.out)
	return nil
}

func (b *scaleBench) throughputOf(ctx context.Context, n, requests int) (rate, busy float64, err error) {
	f, err := b.fleet(ctx, b.latency, b.workers)
	if err != nil {
		return 0, 0, err
	}
	defer f.close()
	for range n {
		if _, err := f.join(ctx); err != nil {
			return 0, 0, err
		}
	}
	if err := f.awaitReplicas(ctx, n); err != nil {
		return 0, 0, err
	}
	before, begun := f.cpuTime(), time.Now()
	if err := f.load(0, requests); err != nil {
		return 0, 0, err
	}
	marks, err := f.watch(ctx, requests, nil)
	if err != nil {
		return 0, 0, err
	}
	busy = (f.cpuTime() - before).Seconds() / time.Since(begun).Seconds() / float64(runtime.NumCPU())
	return between(marks, 0.15, 0.85), busy, f.checkCalls(requests)
}

// checkCalls makes sure that every request was paid once.
func (f *fleet) checkCalls(requests int) error {
	calls, repeats, _, _, err := f.upstream.UpstreamStats()
	if err != nil {
		return err
	}
	if calls != requests || repeats != 0 {
		return fmt.Errorf("the upstream got %d calls, %d of them repeated, for %d requests", calls, repeats, requests)
	}
	return nil
}

// backlog measures what a request costs by how many wait.
func (b *scaleBench) backlog(ctx context.Context, list string) error {
	sizes, err := numbers(list)
	if err != nil || len(sizes) == 0 {
		return err
	}
	fmt.Fprintf(b.out, "| backlog | requests/s | microseconds a request | memory of the processor | memory of the server |\n| --- | --- | --- | --- | --- |\n")
	for _, n := range sizes {
		if err := b.backlogOf(ctx, n); err != nil {
			return fmt.Errorf("%d: %w", n, err)
		}
	}
	fmt.Fprintln(b.out)
	return nil
}

func (b *scaleBench) backlogOf(ctx context.Context, n int) error {
	f, err := b.fleet(ctx, 0, 64)
	if err != nil {
		return err
	}
	defer f.close()
	if err := f.load(0, n); err != nil {
		return err
	}
	if _, err := f.join(ctx); err != nil {
		return err
	}
	var processor, server int64
	marks, err := f.watch(ctx, n, func() error {
		own, err := f.replicas[0].ResidentBytes()
		if err != nil {
			return err
		}
		others, err := f.nats.ResidentBytes()
		processor, server = max(processor, own), max(server, others)
		return err
	})
	if err != nil {
		return err
	}
	rate := between(marks, 0.05, 1)
	fmt.Fprintf(b.out, "| %d | %.0f | %.0f | %d MB | %d MB |\n", n, rate, 1e6/max(rate, 1), processor>>20, server>>20)
	return f.checkCalls(n)
}

// startUp measures how long it takes from the start of a replica's process to
// its first answer, on a server that keeps much.
func (b *scaleBench) startUp(ctx context.Context, kept int) error {
	if kept == 0 {
		return nil
	}
	f, err := b.fleet(ctx, 0, b.workers)
	if err != nil {
		return err
	}
	defer f.close()
	empty, err := f.nats.ResidentBytes()
	if err != nil {
		return err
	}
	if err := f.keep(ctx, kept); err != nil {
		return err
	}
	const turns = 5
	var times []time.Duration
	for i := range turns {
		took, err := f.firstAnswer(ctx, i)
		if err != nil {
			return err
		}
		times = append(times, took)
	}
	resident, err := f.nats.ResidentBytes()
	if err != nil {
		return err
	}
	fmt.Fprintf(b.out, "Start of a replica, %d messages in archive and responses each: first answer after %.0f ms (median of %d; at most %.0f ms). The server has %d MB in memory, %d before it kept them.\n\n",
		kept, ms(middle(times)), turns, ms(longest(times)), resident>>20, empty>>20)
	return nil
}

// keep fills archive and responses: requests are purged once they are copied.
func (f *fleet) keep(ctx context.Context, n int) error {
	body := fmt.Appendf(nil, `{"choices":[{"message":{"content":%q}}]}`, strings.Repeat("kept ", 100))
	for i := range n {
		if _, err := f.js.PublishAsync(fmt.Sprintf("llm.responses.kept.%d", i), body, jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	<-f.js.PublishAsyncComplete()
	if err := f.load(0, n); err != nil {
		return err
	}
	archive, err := f.js.Stream(ctx, "LLM_ARCHIVE")
	if err != nil {
		return err
	}
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		info, err := archive.Info(ctx)
		if err != nil {
			return err
		}
		if info.State.Msgs >= uint64(n) {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("the archive has %d of %d", info.State.Msgs, n)
		}
	}
	requests, err := f.js.Stream(ctx, "LLM_REQUESTS")
	if err != nil {
		return err
	}
	return requests.Purge(ctx)
}

// firstAnswer starts a replica, for which a request waits, and ends it again.
func (f *fleet) firstAnswer(ctx context.Context, turn int) (time.Duration, error) {
	answers, err := f.nc.SubscribeSync("llm.responses.first.*")
	if err != nil {
		return 0, err
	}
	defer func() { _ = answers.Unsubscribe() }()
	if _, err := f.js.Publish(ctx, "llm.requests.first", prompt(-1-turn)); err != nil {
		return 0, err
	}
	begun := time.Now()
	p, err := f.join(ctx)
	if err != nil {
		return 0, err
	}
	if _, err := answers.NextMsg(30 * time.Second); err != nil {
		return 0, fmt.Errorf("no answer came: %w\n%s", err, f.said)
	}
	took := time.Since(begun)
	f.replicas = nil
	return took, p.Stop()
}

// joins measures how soon a replica that joins has done its first work, and how
// soon the others have finished what one that leaves had taken, beside two that
// stay. There is always more to do than they can.
func (b *scaleBench) joins(ctx context.Context, turns, kills int) error {
	if turns == 0 {
		return nil
	}
	f, err := b.fleet(ctx, b.latency, b.workers)
	if err != nil {
		return err
	}
	defer f.close()
	const stay = 2
	for range stay {
		if _, err := f.join(ctx); err != nil {
			return err
		}
	}
	if err := f.awaitReplicas(ctx, stay); err != nil {
		return err
	}
	const turn, kill = 6, 24 // seconds that one takes at most, about
	requests := int(float64((stay+1)*b.workers) / b.latency.Seconds() * float64(turn*(turns+1)+kill*kills))
	if err := f.load(0, requests); err != nil {
		return err
	}
	var started, joined, gone, none, told, killed []time.Duration
	for i := range turns + kills {
		p, start, work, err := f.joinAndWork(ctx)
		if err != nil {
			return err
		}
		started, joined = append(started, start), append(joined, work)
		took, err := f.takenOver(ctx, func() error { return nil })
		if err != nil {
			return err
		}
		none = append(none, took)
		f.replicas = f.replicas[:len(f.replicas)-1]
		if i >= turns {
			took, err = f.takenOver(ctx, func() error { p.Kill(); return nil })
			killed = append(killed, took)
		} else {
			took, err = f.takenOver(ctx, func() error {
				begun := time.Now()
				err := p.Stop()
				gone = append(gone, time.Since(begun))
				return err
			})
			told = append(told, took)
		}
		if err != nil {
			return err
		}
	}
	if _, err := f.watch(ctx, requests, nil); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "Two replicas at work, upstream %v, and more waiting than they can do; a third one joins and leaves, each figure the largest:\n\n", b.latency)
	fmt.Fprintf(b.out, "| what | times | took |\n| --- | --- | --- |\n")
	for _, row := range []struct {
		what  string
		times []time.Duration
	}{
		{"from the start of its process until it serves", started},
		{"from then until its first request is finished", joined},
		{"nobody leaves: until all is finished that had been taken", none},
		{"it is told to leave (SIGTERM): until its process is gone", gone},
		{"until all is finished that had been taken by then, on any replica", told},
		{"it is killed (SIGKILL): until all is finished that had been taken by then, on any replica", killed},
	} {
		if len(row.times) > 0 {
			fmt.Fprintf(b.out, "| %s | %d | %.0f ms |\n", row.what, len(row.times), ms(longest(row.times)))
		}
	}
	calls, _, _, _, err := f.upstream.UpstreamStats()
	fmt.Fprintf(b.out, "\n%d requests, one answer each, %d calls paid.\n", requests, calls)
	if err == nil && kills == 0 {
		return f.checkCalls(requests)
	}
	return err
}

// joinAndWork starts a replica and waits until it has finished a request.
func (f *fleet) joinAndWork(ctx context.Context) (p *proc.Process, start, work time.Duration, err error) {
	before, err := f.figures(time.Second)
	if err != nil {
		return nil, 0, 0, err
	}
	begun := time.Now()
	if p, err = f.join(ctx); err != nil {
		return nil, 0, 0, err
	}
	for end := begun.Add(30 * time.Second); work == 0; {
		now, err := f.figures(100 * time.Millisecond)
		if err != nil {
			return nil, 0, 0, err
		}
		for process, done := range now {
			if _, old := before[process]; old {
				continue
			}
			if start == 0 {
				start = time.Since(begun)
			}
			if done > 0 {
				work = time.Since(begun) - start
			}
		}
		if time.Now().After(end) {
			return nil, 0, 0, fmt.Errorf("the new replica has done nothing\n%s", f.said)
		}
	}
	return p, start, work, nil
}

// takenOver gives how long it takes from a moment on, and whatever happens then,
// until all is finished that replicas had taken from generate's stream by then.
func (f *fleet) takenOver(ctx context.Context, then func() error) (time.Duration, error) {
	stream, err := f.js.Stream(ctx, "LLM_GENERATE")
	if err != nil {
		return 0, err
	}
	consumers := func() (list []*jetstream.ConsumerInfo, err error) {
		names := stream.ListConsumers(ctx)
		for info := range names.Info() {
			list = append(list, info)
		}
		return list, names.Err()
	}
	taken := map[string]uint64{}
	list, err := consumers()
	if err != nil {
		return 0, err
	}
	for _, c := range list {
		taken[c.Name] = c.Delivered.Stream
	}
	begun := time.Now()
	happened := make(chan error, 1)
	go func() { happened <- then() }()
	for left := len(taken); left > 0; time.Sleep(20 * time.Millisecond) {
		if list, err = consumers(); err != nil {
			return 0, err
		}
		left = 0
		for _, c := range list {
			if c.AckFloor.Stream < taken[c.Name] {
				left++
			}
		}
		if time.Since(begun) > time.Minute {
			return 0, fmt.Errorf("what had been taken is not finished after a minute\n%s", f.said)
		}
	}
	return time.Since(begun), <-happened
}

func middle(times []time.Duration) time.Duration {
	figures := make([]float64, len(times))
	for i, t := range times {
		figures[i] = float64(t)
	}
	return time.Duration(median(figures))
}

func longest(times []time.Duration) (most time.Duration) {
	for _, t := range times {
		most = max(most, t)
	}
	return most
}
