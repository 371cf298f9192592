package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// datasetCmd moves recorded traffic between the archive and files.
type datasetCmd struct {
	Export datasetExportCmd `cmd:"" help:"Write a selection of the archive with responses and feedback."`
	Import datasetImportCmd `cmd:"" help:"Put the requests, responses and feedback of a dataset into a deployment."`
}

type datasetExportCmd struct {
	replaySelection
	Output string   `short:"o" placeholder:"FILE.jsonl" help:"Where the lines go, else standard output."`
	Redact []string `placeholder:"PATH" help:"Replace what is there with [redacted]: a path such as request.messages.content or request.user, which goes into every element of a list; beside those of evaluation.redact."`
}

// Help is shown by --help.
func (*datasetExportCmd) Help() string {
	return "A line holds input (the messages) and ideal (the right answer, where feedback says it), as evaluation tools read them, and the request, its response and its feedback. " +
		"Without redaction it can be replayed anywhere: processor replay --cassette FILE."
}

// Run writes the selection.
func (c *datasetExportCmd) Run(a *app) error {
	if err := c.check(time.Now()); err != nil {
		return err
	}
	cfg, err := a.load()
	if err != nil {
		return err
	}
	paths := append(append([]string{}, cfg.Evaluation.Redact...), c.Redact...)
	nc, err := a.connect(cfg)
	if err != nil {
		return err
	}
	defer nc.Close()
	out, err := openOutput(c.Output, a.stdout)
	if err != nil {
		return err
	}
	n := 0
	err = c.live(cfg, nc, 0)(a.ctx, func(x *record) error {
		x.describe()
		line, err := marshalLine(x)
		if err != nil {
			return err
		}
		n++
		return out.write(redactPaths(line, paths))
	})
	if err != nil {
		if errors.Is(err, streams.ErrNoArchive) {
			err = hint(err, "set streams.archive.enabled: true, and processor provision")
		}
		return errors.Join(err, out.abandon())
	}
	if err := out.commit(); err != nil {
		return err
	}
	fmt.Fprintf(a.stderr, "exported %s\n", plural(n, "request"))
	return nil
}

// describe fills in what evaluation tools read.
func (x *record) describe() {
	if span, ok := schemas.Member(x.Request, "messages"); ok {
		x.Input = span.Of(x.Request)
	}
	x.Ideal = x.ideal()
	if response, err := readStored(x.Response); err == nil && response.Error == nil && len(x.Response) > 0 {
		text := response.text()
		x.Output = &text
	}
}

const redacted = `"[redacted]"`

// redactPaths replaces what stands at the paths of a line. The messages stand
// twice in it, as input and within the request: a path to one is one to both,
// and the answer likewise.
func redactPaths(line []byte, paths []string) []byte {
	for _, path := range paths {
		for _, p := range alike(path) {
			line = redactAt(line, strings.Split(p, "."))
		}
	}
	return line
}

func alike(path string) []string {
	list := []string{path}
	if rest, ok := strings.CutPrefix(path, "request.messages"); ok {
		list = append(list, "input"+rest)
	}
	if rest, ok := strings.CutPrefix(path, "input"); ok {
		list = append(list, "request.messages"+rest)
	}
	switch {
	case path == "output":
		list = append(list, "response.choices")
	case strings.HasPrefix(path, "response.choices"), path == "response":
		list = append(list, "output")
	case path == "request":
		list = append(list, "input", "raw")
	}
	return list
}

// redactAt replaces a value within a JSON value. What is not there stays so.
func redactAt(value []byte, path []string) []byte {
	if len(path) == 0 {
		return []byte(redacted)
	}
	switch jsontext.Value(value).Kind() {
	case '{':
		span, ok := schemas.Member(value, path[0])
		if !ok {
			return value
		}
		return schemas.SetMember(value, path[0], redactAt(span.Of(value), path[1:]))
	case '[':
		out := []byte{'['}
		schemas.Elements(value, func(e schemas.Span) bool {
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(out, redactAt(e.Of(value), path)...)
			return true
		})
		return append(out, ']')
	}
	return value
}

type datasetImportCmd struct {
	File   string `arg:"" help:"Lines as dataset export writes them, or of an evaluation set (input, ideal); - is standard input."`
	Tenant string `placeholder:"T" help:"Import everything for this tenant."`
	Ask    bool   `help:"Import requests without a response too: they are worked, and paid for."`
}

// Help is shown by --help.
func (*datasetImportCmd) Help() string {
	return "A response is stored first, so that its request costs nothing when it is published after it: it is archived, and its answer is there. " +
		"What is in the deployment already stays as it is."
}

// imported counts what became of the lines.
type imported struct{ requests, known, feedback, without int }

// Run imports the lines.
func (c *datasetImportCmd) Run(a *app) error {
	if c.Tenant != "" && !schemas.ValidName(c.Tenant) {
		return wrongUse(fmt.Errorf("--tenant: %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", c.Tenant), "--tenant acme")
	}
	cfg, err := a.load()
	if err != nil {
		return err
	}
	in, err := a.openSource(c.File)
	if err != nil {
		return err
	}
	defer in.reader.Close()
	nc, err := a.connect(cfg)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	target, count := datasetTarget{nc, js, streams.Names{Prefix: cfg.NATS.Prefix}}, imported{}
	err = fromFile(in)(a.ctx, func(x *record) error {
		if c.Tenant != "" {
			x.Tenant = c.Tenant
		}
		if !schemas.ValidName(x.Tenant) {
			return fmt.Errorf("request %s: tenant %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", x.ID, x.Tenant)
		}
		if !schemas.ValidID(x.ID) {
			x.ID = "s-" + x.ID // a sequence of another deployment is no id of this one
		}
		return target.put(a.ctx, x, c.Ask, &count)
	})
	fmt.Fprintf(a.stderr, "imported %s (%d were there) and %d of feedback", plural(count.requests, "request"), count.known, count.feedback)
	if count.without > 0 {
		fmt.Fprintf(a.stderr, "; left out %d without a response (--ask has them worked)", count.without)
	}
	fmt.Fprintln(a.stderr)
	return err
}

// datasetTarget is the deployment that a dataset is put into.
type datasetTarget struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	names streams.Names
}

// put stores the response, publishes the request, and the feedback after it.
func (t datasetTarget) put(ctx context.Context, x *record, ask bool, count *imported) error {
	if len(x.Response) == 0 && !ask {
		count.without++
		return nil
	}
	known, err := t.putResponse(ctx, x)
	if err != nil {
		return err
	}
	if known {
		count.known++
	} else {
		client, err := streams.NewClient(t.nc, t.names, x.Tenant)
		if err == nil {
			_, err = client.Publish(ctx, streams.Message{ID: x.ID, Class: schemas.Batch, Body: x.body()})
		}
		if err != nil {
			return fmt.Errorf("request %s: %w", x.ID, err)
		}
		count.requests++
	}
	opinions := x.Feedback
	if len(opinions) == 0 && len(x.Ideal) > 0 && x.Ideal.Kind() != 'n' {
		opinions = []opinion{{Ideal: x.Ideal}}
	}
	if known {
		return nil // what was said of it came with it
	}
	for _, f := range opinions {
		text, err := json.Marshal(struct {
			ID string `json:"id"`
			opinion
		}{x.ID, f})
		if err == nil {
			_, err = t.js.Publish(ctx, t.names.Prefix+".feedback."+x.Tenant, text)
		}
		if err != nil {
			return fmt.Errorf("feedback on %s: %w", x.ID, err)
		}
		count.feedback++
	}
	return nil
}

// putResponse stores a response under its request's id. known says that there
// is one already.
func (t datasetTarget) putResponse(ctx context.Context, x *record) (known bool, err error) {
	if len(x.Response) == 0 {
		return false, nil
	}
	body := x.Response
	if span, ok := schemas.Member(body, "processor"); ok && body[span.Start] == '{' {
		about := schemas.SetMember(span.Of(body), "id", schemas.Quote(x.ID))
		body = schemas.SetMember(body, "processor", schemas.SetMember(about, "tenant", schemas.Quote(x.Tenant)))
	}
	_, err = t.js.PublishMsg(ctx, &nats.Msg{Subject: t.names.Response(x.Tenant, x.ID), Data: body, Header: nats.Header{
		jetstream.ExpectedLastSubjSeqHeader: []string{"0"},
		streams.HeaderBody:                  []string{schemas.Fingerprint(x.body())},
	}})
	if jsx.IsWrongLastSequence(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("storing the response to %s: %w", x.ID, err)
	}
	return false, nil
}
