package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/internal/config"
)

// batchCmd answers the requests of a file.
type batchCmd struct {
	File     string   `arg:"" help:"Lines in OpenAI's batch format; - is standard input."`
	Output   string   `short:"o" placeholder:"OUT.jsonl" help:"Where the answers go, else standard output. The file is there once it is whole; until then it is OUT.jsonl.part."`
	Errors   string   `placeholder:"ERR.jsonl" help:"Where lines that failed go, else among the answers."`
	Fresh    bool     `help:"Ask and pay anew, whatever was answered before."`
	Window   int      `default:"2000" help:"How many requests are under way at a time."`
	Provider []string `placeholder:"NAME" help:"Add a provider, as for run; only where this process does the work."`
	tenantFlag
}

// Help is shown by --help.
func (*batchCmd) Help() string {
	return "The id of a request is made from its custom_id, url and body. So a run that was cut off goes on when the same command is given again: " +
		"what was answered is read from the stored responses, not paid again. A line that failed fails again as long as its error is stored; --fresh asks anew.\n\n" +
		"Without a server it is one in this process that does the work."
}

// Run publishes the lines, writes answers as they come, and prints a summary.
func (c *batchCmd) Run(a *app) error {
	if c.Window < 1 || c.Window > 100_000 {
		return wrongUse(fmt.Errorf("--window: %d is not within 1 and 100000", c.Window), "--window 2000")
	}
	cfg, err := a.load(withProviders(c.Provider))
	if err != nil {
		return err
	}
	input, size, err := c.open(a.stdin)
	if err != nil {
		return err
	}
	defer input.Close()
	nc, embedded, closeServer, err := a.connectOrEmbed(cfg)
	if err != nil {
		return err
	}
	defer closeServer()
	stop := func() error { return nil }
	if embedded {
		if stop, err = a.background(cfg, nc); err != nil {
			return err
		}
		if len(cfg.Providers) == 0 {
			fmt.Fprintln(a.stderr, "no provider is configured: the answers are simulated")
		}
	}
	err = c.work(a, cfg, nc, input, size)
	return errors.Join(err, stop())
}

func (c *batchCmd) work(a *app, cfg config.Config, nc *nats.Conn, input io.Reader, size int64) (err error) {
	client, err := a.client(cfg, nc, c.Tenant)
	if err != nil {
		return err
	}
	out, errs, err := c.outputs(a)
	if err != nil {
		return err
	}
	job := &batchJob{
		client: client, out: out, errs: errs, fresh: c.Fresh, tally: &tally{begin: time.Now()},
		custom: map[string]string{}, maxLine: int(nc.MaxPayload()) + 64<<10, buffer: int(cfg.Resources.BufferSize),
	}
	exchange, err := client.Exchange(a.ctx, c.Window)
	if err != nil {
		return errors.Join(err, out.abandon(), errs.abandon())
	}
	show := startProgress(a, job.tally, size, nc)
	complete, err := job.run(a.ctx, exchange, input)
	exchange.Close()
	show.end()
	if !complete {
		if ended := errors.Join(out.abandon(), errs.abandon()); err == nil { // what failed to be written fails again
			err = ended
		}
	} else {
		err = errors.Join(err, out.commit(), errs.commit())
	}
	job.tally.summary(a.stderr, complete)
	if a.ctx.Err() != nil {
		fmt.Fprintln(a.stderr, "interrupted; the same command goes on from here without paying again")
		return errFailed
	}
	if err == nil && job.tally.failures() > 0 {
		return errFailed
	}
	return err
}

// open gives the input and its size; 0 where that is not known.
func (c *batchCmd) open(stdin io.Reader) (io.ReadCloser, int64, error) {
	if c.File == "-" {
		return io.NopCloser(stdin), 0, nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, 0, wrongUse(fmt.Errorf("opening the batch file: %w", err), "processor batch examples/requests.jsonl")
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory", c.File)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, wrongUse(fmt.Errorf("opening the batch file: %w", err), "name a file of lines in OpenAI's batch format")
	}
	if !info.Mode().IsRegular() {
		return f, 0, nil
	}
	return f, info.Size(), nil
}

// outputs opens where answers and failed lines go; that may be the same.
func (c *batchCmd) outputs(a *app) (out, errs *output, err error) {
	if out, err = openOutput(c.Output, a.stdout); err != nil {
		return nil, nil, err
	}
	if c.Errors == "" || c.Errors == c.Output {
		return out, out, nil
	}
	if errs, err = openOutput(c.Errors, nil); err != nil {
		return nil, nil, errors.Join(err, out.abandon())
	}
	return out, errs, nil
}
