package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/tokens"
	"github.com/adpa/processor/streams"
)

// replayCmd evaluates a change on recorded traffic.
type replayCmd struct {
	Run  replayRunCmd  `cmd:"" default:"withargs" help:"Run recorded requests through another configuration and compare."`
	Gate replayGateCmd `cmd:"" help:"Fail where a report is past a bound: a step of CI."`
}

// cassetteFlag is --cassette, alone or with a file.
type cassetteFlag struct {
	on   bool
	file string
}

// Decode implements kong.MapperValue. A value is taken if one follows.
func (c *cassetteFlag) Decode(ctx *kong.DecodeContext) error {
	c.on = true
	token := ctx.Scan.Peek()
	text, ok := token.Value.(string)
	if !ok || token.IsEOL() || token.Type == kong.UntypedToken && strings.HasPrefix(text, "-") && text != "-" {
		return nil
	}
	if token.Type == kong.FlagToken || token.Type == kong.ShortFlagToken {
		return nil
	}
	ctx.Scan.Pop()
	if text == "true" || text == "false" {
		c.on = text == "true"
		return nil
	}
	c.file = text
	return nil
}

// IsBool implements kong.BoolMapperValue: the flag may stand alone.
func (*cassetteFlag) IsBool() bool { return true }

type replayRunCmd struct {
	Candidate string `required:"" placeholder:"FILE" help:"The configuration to evaluate."`
	replaySelection
	Baseline   string       `default:"recorded" placeholder:"FILE|recorded" help:"What to compare with: the recorded responses, or another configuration, which is then run too."`
	Cassette   cassetteFlag `placeholder:"[FILE]" help:"Answer from the recorded responses where the same would be asked of the same model; with a dataset file, replay that, without any server."`
	Template   []string     `placeholder:"NAME=FILE" help:"A prompt template that the candidate has in the place of the stored one."`
	ColdCache  bool         `help:"Begin with an empty cache, and not with the deployment's as it was."`
	Reference  string       `placeholder:"FILE" help:"Expected answers: lines like {\"id\": \"r-1\", \"expected\": \"up\", \"match\": \"exact|contains|number|json\"}."`
	JudgeLimit int          `default:"200" help:"How many pairs of answers the candidate's judge (score.judge) compares at most."`
	Speed      string       `default:"max" placeholder:"max|original|10x" help:"How fast requests follow each other."`
	Priority   string       `enum:"normal,low" default:"normal" help:"low leaves the machine and the server to others: it takes longer."`
	MaxCost    float64      `default:"-1" placeholder:"USD" help:"Ask before calls that are forecast to cost more than that; 0 asks before any."`
	Yes        bool         `short:"y" help:"Do not ask."`
	Output     string       `short:"o" placeholder:"report.html" help:"Write the report as one HTML file."`
	ReportJSON string       `name:"report-json" placeholder:"report.json" help:"Write the report as JSON, for replay gate."`
	State      string       `default:"data/replay" placeholder:"DIR" help:"Where replays keep what they have done."`
	Fresh      bool         `help:"Begin anew, and pay anew, whatever the same replay has done before."`
	jsonFlag

	factor float64 // of the recorded speed; 0 is max
}

// Help is shown by --help.
func (*replayRunCmd) Help() string {
	return "Requests are read from the archive and run through the candidate's stages on a server inside this process, which nobody else can reach: " +
		"the deployment's streams, buckets and budgets stay as they are. A run that was cut off goes on where it was when the same command is given again: " +
		"what it did is neither worked nor paid again. docs/evaluation.md explains the report."
}

// Run replays, compares and reports.
func (c *replayRunCmd) Run(a *app) error {
	if err := c.check(); err != nil {
		return err
	}
	job, err := c.open(a)
	if err != nil {
		return err
	}
	defer job.close()
	err = job.run(a.ctx)
	if a.ctx.Err() != nil {
		fmt.Fprintln(a.stderr, "interrupted; the same command goes on from here without paying again")
		return errFailed
	}
	if err != nil {
		return err
	}
	return job.report()
}

func (c *replayRunCmd) check() error {
	if err := c.replaySelection.check(time.Now()); err != nil {
		return err
	}
	switch c.Speed {
	case "max":
	case "original":
		c.factor = 1
	default:
		factor, err := strconv.ParseFloat(strings.TrimSuffix(c.Speed, "x"), 64)
		if err != nil || !strings.HasSuffix(c.Speed, "x") || !(factor > 0 && factor <= 1e6) {
			return wrongUse(fmt.Errorf("--speed: %.40q is none of max, original, or a factor like 10x", c.Speed), "--speed 10x")
		}
		c.factor = factor
	}
	if c.JudgeLimit < 0 {
		return wrongUse(fmt.Errorf("--judge-limit: %d is negative", c.JudgeLimit), "--judge-limit 200")
	}
	return nil
}

// open reads the configurations and finds what is to be replayed.
func (c *replayRunCmd) open(a *app) (opened *replayJob, err error) {
	job := &replayJob{app: a, cmd: c, tally: newReplayTally()}
	go func() { _, _ = tokens.Load("o200k_base") }() // takes a while and is needed soon; who needs it says what is wrong with it
	defer func() {
		if err != nil {
			job.close()
		}
	}()
	if job.candidate, err = loadNamed("--candidate", c.Candidate); err != nil {
		return nil, err
	}
	if job.live, err = a.load(); err != nil {
		return nil, err
	}
	job.baseline = job.live
	if c.Baseline != "recorded" {
		if job.baseline, err = loadNamed("--baseline", c.Baseline); err != nil {
			return nil, err
		}
	}
	if job.references, err = readReferences(a, c.Reference); err != nil {
		return nil, err
	}
	if job.templates, err = readTemplateFlags(c.Template); err != nil {
		return nil, err
	}
	where := c.Cassette.file
	if where == "" {
		if job.nc, err = a.connect(job.live); err != nil {
			return nil, err
		}
		where = deployment(a.ctx, job.nc, job.live.NATS.Prefix)
	}
	shown, err := shownAll(job.candidate, job.baseline)
	if err != nil {
		return nil, err
	}
	parts := append(shown, where, c.Since, c.Until, c.replaySelection.Tenant, c.Model, c.Route, strconv.Itoa(c.Limit), c.Sample, strconv.FormatUint(c.Seed, 10),
		c.Baseline, fmt.Sprint(c.Cassette.on, c.ColdCache, c.factor, c.JudgeLimit))
	for _, t := range job.templates {
		parts = append(parts, t.name, string(t.document))
	}
	job.state, err = openReplay(c.State, parts...)
	return job, err
}

// deployment names the deployment whose traffic is replayed: by when its archive
// was made, which all servers of a cluster say alike, on whatever address they
// are reached; without an archive by the address.
func deployment(ctx context.Context, nc *nats.Conn, prefix string) string {
	js, err := jetstream.New(nc)
	if err == nil {
		var archive jetstream.Stream
		if archive, err = js.Stream(ctx, streams.Names{Prefix: prefix}.Archive()); err == nil {
			return prefix + " " + archive.CachedInfo().Created.UTC().Format(time.RFC3339Nano)
		}
	}
	return prefix + " " + nc.ConnectedUrl()
}

// shownAll writes configurations as they are in force, to tell them apart.
func shownAll(list ...config.Config) (texts []string, err error) {
	for _, cfg := range list {
		text, err := cfg.Show()
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

func loadNamed(flag, path string) (config.Config, error) {
	cfg, err := config.Load(path)
	if errors.Is(err, os.ErrNotExist) {
		return cfg, wrongUse(fmt.Errorf("%s: %w", flag, err), "name an existing configuration; it may hold only what differs from the defaults")
	}
	return cfg, err
}

// closing closes what may be nil.
func closing(nc *nats.Conn) {
	if nc != nil {
		nc.Close()
	}
}
