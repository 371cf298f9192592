package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/streams"
	"github.com/adpa/processor/streams/embedded"
)

// replayJob is one replay: a tape of requests, one or two sides that run them,
// and the comparison.
type replayJob struct {
	app        *app
	cmd        *replayRunCmd
	live       config.Config // of the deployment whose traffic is replayed
	baseline   config.Config // that the recorded answers are taken to come from
	candidate  config.Config
	templates  []replacedTemplate
	references map[string]evaluate.Reference

	state   *replayState
	nc      *nats.Conn // to the deployment; nil with a dataset file
	private *embedded.Server
	own     *nats.Conn // to the private server
	tape    *tape
	index   *recorded // nil without a cassette
	tally   *replayTally

	preparer *preparer // once it is needed
}

func (j *replayJob) close() {
	if j.preparer != nil {
		j.preparer.deps.close()
	}
	closing(j.own)
	if j.private != nil {
		j.private.Close()
	}
	closing(j.nc)
	if j.tape != nil {
		j.tape.close()
	}
	if j.state != nil {
		j.state.close(j.cmd.State)
	}
}

// run brings the replay to its end, from wherever it stands.
func (j *replayJob) run(ctx context.Context) error {
	if j.cmd.Priority == "low" {
		if err := stepBack(); err != nil {
			return err
		}
	}
	if j.cmd.Fresh {
		if err := j.state.wipe(); err != nil {
			return err
		}
	}
	if err := j.record(ctx); err != nil {
		return err
	}
	if j.state.memo.Requests == 0 {
		return hint(errors.New("no request is to be replayed: none matches"), "widen --since, --tenant, --model or --route; streams.archive.enabled must be on")
	}
	if j.state.memo.Done {
		fmt.Fprintf(j.app.stderr, "the same was replayed before: the report is made from what that found (--fresh replays again)\n")
		return nil
	}
	if err := j.openPrivate(); err != nil {
		return err
	}
	if j.cmd.Cassette.on {
		var err error
		if j.index, err = newRecorded(j.tape); err != nil {
			return err
		}
	}
	stop := j.tally.show(j.app)
	err := j.sides(ctx)
	stop()
	if err == nil {
		err = j.judge(ctx)
	}
	if err != nil {
		return err
	}
	return j.state.finish()
}

// stepBack gives this process the lowest priority and half of the processors.
func stepBack() error {
	runtime.GOMAXPROCS(max(1, runtime.NumCPU()/2))
	return leaveToOthers()
}

// record makes the tape, unless an interrupted run has it. After a finished one
// it is made again, to see whether the requests are still the same, and so it is
// where they come from what can be read once only.
func (j *replayJob) record(ctx context.Context) error {
	path, memo := j.state.file("tape.jsonl"), &j.state.memo
	source, err := fileDigest(j.cmd.Cassette.file)
	if err != nil {
		return err
	}
	again := j.cmd.Cassette.file == "" || source != "" // may be read, or need not be
	if memo.Digest != "" && !memo.Done && again {
		if memo.Source != source {
			err = fmt.Errorf("%s is another file by now", j.cmd.Cassette.file)
		} else {
			j.tape, err = openTape(path, memo)
		}
		if err == nil {
			fmt.Fprintf(j.app.stderr, "going on with an interrupted replay of %s\n", plural(memo.Requests, "request"))
			return nil
		}
		fmt.Fprintf(j.app.stderr, "an interrupted replay cannot be gone on with, so it begins anew: %v\n", err)
		if err := j.state.wipe(); err != nil {
			return err
		}
	}
	var sent func([]*record)
	if j.cmd.Cassette.on {
		p, err := j.openPreparer(ctx)
		if err != nil {
			return err
		}
		sent = p.fill
	}
	records, closeSource, err := j.source()
	if err != nil {
		return err
	}
	defer closeSource()
	t, err := writeTape(ctx, path+".new", records, sent)
	if err != nil {
		if errors.Is(err, streams.ErrNoArchive) {
			err = hint(err, "set streams.archive.enabled: true and provision, or replay a dataset with --cassette FILE")
		}
		return err
	}
	j.tape = t
	if memo.Digest == t.digest {
		return os.Remove(path + ".new")
	}
	if memo.Digest != "" {
		*memo = replayMemo{}
		for _, name := range resultFiles {
			if err := j.state.remove(name); err != nil {
				return err
			}
		}
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("naming the tape: %w", err)
	}
	memo.Digest, memo.Requests, memo.From, memo.To, memo.Bytes, memo.Source = t.digest, t.requests, t.from, t.to, t.bytes, source
	return j.state.save()
}

// fileDigest stands for what is in a dataset file; that of no file, and of what
// can be read once only, is empty.
func fileDigest(path string) (string, error) {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return "", nil // who opens it says what is wrong
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("opening the dataset: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("reading %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

var resultFiles = []string{"baseline.dry.results", "baseline.results", "candidate.dry.results", "candidate.results", "judge.results"}

func (j *replayJob) source() (recordSource, func(), error) {
	selection := &j.cmd.replaySelection
	if file := j.cmd.Cassette.file; file != "" {
		in, err := j.app.openSource(file)
		if err != nil {
			return nil, nil, err
		}
		return selection.limited(fromFile(in)), func() { _ = in.reader.Close() }, nil
	}
	pause := time.Duration(0)
	if j.cmd.Priority == "low" {
		pause = lowPause
	}
	return selection.live(j.live, j.nc, pause), func() {}, nil
}

// openPrivate starts the server on which everything runs.
func (j *replayJob) openPrivate() (err error) {
	if j.private != nil {
		return nil
	}
	dir := j.state.file("nats")
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("making the replay's directory: %w", err)
	}
	if j.private, err = embedded.StartPrivate(dir); err != nil {
		return err
	}
	j.own, err = j.private.ConnectPrivate(nats.Name("replay"))
	return err
}

func (j *replayJob) window() int {
	if j.cmd.Priority == "low" {
		return lowWindow
	}
	return replayWindow
}

// sides runs the configurations: first without paying anything, then, once that
// is agreed to, what is left.
func (j *replayJob) sides(ctx context.Context) error {
	type running struct {
		name string
		cfg  config.Config
	}
	list := []running{{"candidate", j.candidate}}
	if j.cmd.Baseline != "recorded" {
		list = append([]running{{"baseline", j.baseline}}, list...)
	}
	forecast, left := evaluate.Amount{}, map[string][]int{}
	for _, side := range list {
		if !j.foresees(side.cfg) {
			continue
		}
		if err := j.side(ctx, side.name+".dry", side.cfg, nil, true); err != nil {
			return err
		}
		left[side.name] = []int{}
		err := readResults(j.state.results(side.name+".dry"), func(r *result) error {
			forecast = forecast.Add(r.Note.Forecast)
			if r.Pending || r.Note.Forecast.Calls > 0 {
				left[side.name] = append(left[side.name], r.Index)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(left) > 0 {
		if err := j.agree(forecast); err != nil {
			return err
		}
	}
	for _, side := range list {
		only, foreseen := left[side.name]
		if foreseen && len(only) == 0 {
			continue
		}
		if err := j.side(ctx, side.name, side.cfg, only, false); err != nil {
			return err
		}
	}
	return nil
}

// foresees reports whether a configuration is first run without calls: where
// recorded answers may stand for them, or calls may cost something.
func (j *replayJob) foresees(cfg config.Config) bool {
	return j.cmd.Cassette.on || len(simulatedProviders(cfg.ProviderList())) < len(cfg.ProviderList())
}

// agree says what the replay will take, and asks where that is above the bound.
func (j *replayJob) agree(forecast evaluate.Amount) error {
	memo := &j.state.memo
	fmt.Fprintf(j.app.stderr, "forecast: %s, %d prompt tokens, about %d completion tokens, about $%.6f\n",
		plural(forecast.Calls, "call"), forecast.PromptTokens, forecast.CompletionTokens, forecast.CostUSD)
	memo.Forecast = &forecast
	if !memo.Agreed && j.cmd.MaxCost >= 0 && forecast.CostUSD > j.cmd.MaxCost && !j.cmd.Yes {
		if !j.ask(fmt.Sprintf("that is more than $%g; go on? [y/N] ", j.cmd.MaxCost)) {
			return hint(fmt.Errorf("the replay would cost about $%.6f, and --max-cost is $%g", forecast.CostUSD, j.cmd.MaxCost), "--yes, a higher --max-cost, --cassette, --sample 5%%, or --limit")
		}
	}
	memo.Agreed = true
	return j.state.save()
}

// ask asks on a terminal; where there is none the answer is no.
func (j *replayJob) ask(question string) bool {
	if _, ok := onTerminal(j.app.stdin); !ok {
		return false
	}
	fmt.Fprint(j.app.stderr, question)
	answer := make([]byte, 8)
	n, _ := j.app.stdin.Read(answer)
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(string(answer[:n]))), "y")
}

// side runs one configuration over the tape, or over some requests of it, from
// where an earlier run was.
func (j *replayJob) side(ctx context.Context, name string, cfg config.Config, only []int, dry bool) (err error) {
	total := j.state.memo.Requests
	if only != nil {
		total = len(only)
	}
	cfg = j.configured(cfg, strings.ReplaceAll(name, ".", "-"), dry)
	done, err := j.openSide(name, cfg.Cache)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := done.close(); err == nil { // else it says the same again
			err = closeErr
		}
	}()
	if done.count >= total {
		return nil
	}
	if done.count > 0 {
		fmt.Fprintf(j.app.stderr, "%s goes on: %s of %s are there\n", sideName(name), thousands(done.count), thousands(total))
	}
	if err := j.prepareServer(ctx, name, cfg, done.count == 0, dry); err != nil {
		return err
	}
	s := &replaySide{
		cfg: cfg, nc: j.own, tape: j.tape, done: done, only: only,
		calls: &cassette{answers: j.index, dry: dry}, clock: &replayClock{}, window: j.window(), tally: j.tally,
	}
	if !dry {
		s.factor = j.cmd.factor
		s.calls.earlier = done.paid
		s.calls.keep = func(index int, n note) {
			if err := done.note(index, n); err != nil {
				s.fail(err)
			}
		}
	}
	p, err := j.openPreparer(ctx)
	if err != nil {
		return err
	}
	s.calls.sent = p.one
	if j.nc != nil && !j.cmd.ColdCache {
		entries, err := kv.NewCacheView(j.nc, bucketLayout(j.live))
		if err != nil {
			return err
		}
		defer entries.Close()
		s.view = &liveView{entries: entries, begun: schemas.ToMillis(j.state.memo.From), clock: s.clock}
	}
	j.tally.begin(name, total, done.count)
	if err = s.run(ctx); err == nil && done.count > 0 {
		fmt.Fprintf(j.app.stderr, "%s: %s were there, %s were worked\n", sideName(name), thousands(done.count), thousands(s.sent))
	}
	return err
}

// sideName is what people are told of a side.
func sideName(name string) string { return strings.ReplaceAll(name, ".dry", " (no calls)") }

// configured is the configuration of a side on the private server.
func (j *replayJob) configured(cfg config.Config, prefix string, dry bool) config.Config {
	cfg = isolated(cfg, prefix, j.window())
	if j.cmd.Priority == "low" {
		cfg.Resources.MaxThreads = max(1, runtime.NumCPU()/2)
	}
	cfg.Resources.Priority = "normal" // is what --priority says
	if dry {                          // nobody is called: no limit of a provider holds anything up
		cfg.Providers = slices.Clone(cfg.Providers)
		for i := range cfg.Providers {
			cfg.Providers[i].RequestsPerMinute, cfg.Providers[i].TokensPerMinute = 0, 0
		}
		cfg.Pipeline.Workers = maps.Clone(cfg.Pipeline.Workers)
		cfg.Pipeline.Workers[stages.Generate] = j.window() / 2
	}
	return cfg
}

// openSide opens what a side has done. What another version of the program did
// is none of it: two versions need not agree on what becomes of a request.
func (j *replayJob) openSide(name string, cfg kv.CacheConfig) (*sideDone, error) {
	path, identity := j.state.results(name), j.identity(name)
	done, err := openSideDone(path, identity, cfg)
	if !errors.Is(err, errOtherLog) {
		return done, err
	}
	if err := j.beginAnew(name, err); err != nil {
		return nil, err
	}
	return openSideDone(path, identity, cfg)
}

// identity stands for all that decides what is in a file of results.
func (j *replayJob) identity(name string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %s %s", j.state.name(), name, j.tape.digest, programVersion())
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// beginAnew removes results that cannot be used, and says why.
func (j *replayJob) beginAnew(name string, why error) error {
	fmt.Fprintf(j.app.stderr, "%s begins anew, for what there is of it cannot be used: %v\n", sideName(name), why)
	return errors.Join(j.state.remove(name+".results"), j.state.remove(name+".results"+cacheSuffix))
}

// prepareServer sets up the private server for a side. What a side that pays
// nothing had charged to budgets is charged again from its results. What the
// deployment has learned is copied once.
func (j *replayJob) prepareServer(ctx context.Context, name string, cfg config.Config, first, dry bool) error {
	set := provision
	if dry {
		set = provisionLocal
	}
	if err := set(ctx, cfg, j.own); err != nil {
		return err
	}
	names := streams.Names{Prefix: cfg.NATS.Prefix}
	gone := []string{names.Later()} // every request that is not done is fed again: no copy of it is to come by
	for _, stage := range stages.Names[1:] {
		gone = append(gone, names.Stage(stage))
	}
	if dry {
		gone = []string{"KV_" + bucketLayout(cfg).Bucket("budget")}
	}
	if err := purge(ctx, j.own, gone...); err != nil {
		return err
	}
	memo := &j.state.memo
	if slices.Contains(memo.Copied, name) && !first {
		return nil
	}
	if err := j.copyShared(ctx, cfg, strings.HasPrefix(name, "candidate")); err != nil {
		return err
	}
	memo.Copied = append(memo.Copied, name)
	return j.state.save()
}

// purge empties streams of the private server.
func purge(ctx context.Context, nc *nats.Conn, names ...string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	for _, name := range names {
		stream, err := js.Stream(ctx, name)
		if err == nil {
			err = stream.Purge(ctx)
		}
		if err != nil {
			return fmt.Errorf("clearing the private server: %w", err)
		}
	}
	return nil
}

// preparer finds what the baseline's providers were sent for a request, by the
// stages before generate.
type preparer struct {
	deps  *deps
	stage stages.Stage
	mu    sync.Mutex
}

// preparerPrefix names what the preparer has on the private server.
const preparerPrefix = "prepare"

func (j *replayJob) openPreparer(ctx context.Context) (*preparer, error) {
	if j.preparer != nil {
		return j.preparer, nil
	}
	if err := j.openPrivate(); err != nil {
		return nil, err
	}
	cfg := isolated(j.baseline, preparerPrefix, 1)
	if err := provisionLocal(ctx, cfg, j.own); err != nil {
		return nil, err
	}
	if err := j.copyShared(ctx, cfg, false); err != nil {
		return nil, err
	}
	d, err := newDeps(ctx, cfg, j.own, nil)
	if err != nil {
		return nil, err
	}
	j.preparer = &preparer{deps: d, stage: steps(d)[0].Stage}
	return j.preparer, nil
}

// one gives the body that was sent for a record, nil where none was.
func (p *preparer) one(x *record) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bodies([]*record{x})[0]
}

// fill notes what was sent for those records that have an answer.
func (p *preparer) fill(slice []*record) {
	bodies := p.bodies(slice)
	for i, x := range slice {
		x.Sent = ""
		if bodies[i] == nil || len(x.Response) == 0 {
			continue
		}
		response, err := readStored(x.Response)
		if err != nil || response.Error != nil || response.About.Selected.Model == "" {
			continue
		}
		body := bodies[i]
		schemas.Members(response.About.Parameters, func(name []byte, _, value schemas.Span) bool {
			body = schemas.SetMember(body, string(name), value.Of(response.About.Parameters))
			return true
		})
		x.Sent = keyOf(response.About.Selected.Model, body).String()
	}
}

func (p *preparer) bodies(slice []*record) [][]byte {
	bodies := make([][]byte, len(slice))
	places := make(map[*stages.Request]int, len(slice))
	var requests []*stages.Request
	for i, x := range slice {
		parsed, err := schemas.Parse(x.body())
		if err != nil || !schemas.ValidName(x.Tenant) {
			continue
		}
		r := &stages.Request{Deliveries: 1}
		r.State = schemas.State{ID: replayID(i), Tenant: x.Tenant, Class: schemas.Interactive, Kind: parsed.Kind, Model: parsed.Model, Stream: parsed.Stream}
		r.Body = x.body()
		if span, ok := schemas.Member(r.Body, "processor"); ok {
			r.Options = span.Of(r.Body)
		}
		places[r] = i
		requests = append(requests, r)
	}
	if len(requests) == 0 {
		return bodies
	}
	var decided sync.WaitGroup
	decided.Add(len(requests))
	p.stage.Run(context.Background(), requests, func(r *stages.Request, v stages.Verdict) {
		if v.Action == stages.ActionContinue {
			bodies[places[r]] = r.Body
		}
		decided.Done()
	})
	decided.Wait()
	return bodies
}

// copyShared copies what a deployment shares and a replay must not change: the
// templates, and what was learned about models. With --template the candidate
// gets other templates on top.
func (j *replayJob) copyShared(ctx context.Context, cfg config.Config, candidate bool) error {
	layout := bucketLayout(cfg)
	if j.nc != nil {
		if err := copyTemplates(ctx, j.nc, bucketLayout(j.live), j.own, layout); err != nil {
			return err
		}
		if err := copyModels(ctx, j.nc, bucketLayout(j.live), j.own, layout); err != nil {
			return err
		}
	}
	if !candidate || len(j.templates) == 0 {
		return nil
	}
	stored, err := kv.NewTemplates(ctx, j.own, layout)
	if err != nil {
		return err
	}
	defer stored.Close()
	for _, t := range j.templates {
		if _, _, err := stored.Put(ctx, t.name, t.document); err != nil {
			return err
		}
	}
	return nil
}

// maxPadding bounds the revisions that are made up so that the others keep their numbers.
const maxPadding = 2000

// copyTemplates copies every revision that is kept, under its number.
func copyTemplates(ctx context.Context, from *nats.Conn, fromLayout kv.Layout, to *nats.Conn, toLayout kv.Layout) error {
	source, err := kv.NewTemplates(ctx, from, fromLayout)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer source.Close()
	if len(source.Names()) == 0 {
		return nil
	}
	target, err := kv.NewTemplates(ctx, to, toLayout)
	if err != nil {
		return err
	}
	defer target.Close()
	for _, name := range source.Names() {
		last, _, err := target.Resolve(ctx, name, 0)
		if err != nil {
			return err
		}
		for _, r := range source.Revisions(name) {
			if r.Number <= last {
				continue // of an interrupted run
			}
			if r.Number-last > maxPadding {
				return fmt.Errorf("template %s begins at revision %d, which is too far on to be copied", name, r.Number)
			}
			for ; last < r.Number-1; last++ {
				if _, _, err := target.Put(ctx, name, fmt.Appendf(nil, `{"text":"revision %d is not kept"}`, last+1)); err != nil {
					return err
				}
			}
			document, err := source.Document(ctx, name, r.Number)
			if err == nil {
				_, _, err = target.Put(ctx, name, document)
			}
			if err != nil {
				return fmt.Errorf("copying template %s@%d: %w", name, r.Number, err)
			}
			last = r.Number
		}
	}
	return nil
}

// copyModels copies what was learned about models and their prompts.
func copyModels(ctx context.Context, from *nats.Conn, fromLayout kv.Layout, to *nats.Conn, toLayout kv.Layout) error {
	source, err := jetstream.New(from)
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	target, err := jetstream.New(to)
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	prefix, toPrefix := "$KV."+fromLayout.Bucket(kv.BucketModels)+".", "$KV."+toLayout.Bucket(kv.BucketModels)+"."
	err = kv.EachMessage(ctx, source, "KV_"+fromLayout.Bucket(kv.BucketModels), prefix+">", func(m jetstream.Msg) error {
		if m.Headers().Get("KV-Operation") != "" {
			return nil
		}
		_, err := target.Publish(ctx, toPrefix+strings.TrimPrefix(m.Subject(), prefix), m.Data())
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("copying what was learned about models: %w", err)
	}
	return nil
}

// replacedTemplate is a template that the candidate has in the place of a stored one.
type replacedTemplate struct {
	name     string
	document []byte
}

func readTemplateFlags(flags []string) (list []replacedTemplate, err error) {
	for _, flag := range flags {
		name, file, ok := strings.Cut(flag, "=")
		if !ok || name == "" || file == "" {
			return nil, wrongUse(fmt.Errorf("--template: %.80q is not NAME=FILE", flag), "--template summarise=new.yaml")
		}
		document, err := readTemplate(file)
		if err != nil {
			return nil, wrongUse(fmt.Errorf("--template %s: %w", filepath.Base(file), err), "docs/prompt-optimization.md shows a template")
		}
		list = append(list, replacedTemplate{name, document})
	}
	return list, nil
}
