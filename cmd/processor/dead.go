package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// deadCmd works on requests that were given up.
type deadCmd struct {
	List  deadListCmd  `cmd:"" help:"List them, the oldest first."`
	Show  deadShowCmd  `cmd:"" help:"Print one with its body."`
	Retry deadRetryCmd `cmd:"" help:"Publish them again, under a new id, and remove them."`
	Purge deadPurgeCmd `cmd:"" help:"Remove them."`
}

// deadFilter chooses dead letters.
type deadFilter struct {
	tenantFlag
	Stage  string `placeholder:"STAGE" help:"Only those that this stage gave up."`
	Reason string `placeholder:"CODE" help:"Only those with this reason."`
	Older  string `placeholder:"DURATION" help:"Only those older than this, as in 24h."`
}

func (f *deadFilter) match() (func(streams.DeadLetter) bool, error) {
	before, err := olderThan(f.Older)
	if err != nil {
		return nil, err
	}
	return func(l streams.DeadLetter) bool {
		return (f.Stage == "" || l.Stage == f.Stage) && (f.Reason == "" || string(l.Reason) == f.Reason) &&
			(before.IsZero() || l.Time.Before(before))
	}, nil
}

// letters opens the dead letters and, for those who publish, the tenant's client.
func (f *deadFilter) letters(a *app) (*streams.DeadLetters, *streams.Client, func(), error) {
	cfg, err := a.load()
	if err != nil {
		return nil, nil, nil, err
	}
	nc, err := a.connect(cfg)
	if err != nil {
		return nil, nil, nil, err
	}
	client, err := a.client(cfg, nc, f.Tenant)
	if err == nil {
		var dead *streams.DeadLetters
		if dead, err = streams.NewDeadLetters(nc, streams.Names{Prefix: cfg.NATS.Prefix}); err == nil {
			return dead, client, nc.Close, nil
		}
	}
	nc.Close()
	return nil, nil, nil, err
}

type deadListCmd struct {
	deadFilter
	jsonFlag
	Limit int `default:"1000" help:"At most so many; 0 lists all."`
}

// Run lists dead letters as they are read.
func (c *deadListCmd) Run(a *app) error {
	match, err := c.match()
	if err != nil {
		return err
	}
	dead, _, closeServer, err := c.letters(a)
	if err != nil {
		return err
	}
	defer closeServer()
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	n := 0
	err = dead.Each(a.ctx, c.Tenant, func(l streams.DeadLetter) (bool, error) {
		if !match(l) {
			return true, nil
		}
		if n++; c.JSON {
			return n != c.Limit, printJSON(a.stdout, []streams.DeadLetter{l})
		}
		if n == 1 {
			fmt.Fprintln(w, "SEQUENCE\tTIME\tSTAGE\tREASON\tDELIVERIES\tID\tMESSAGE")
		}
		_, err := fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\n", l.Sequence, l.Time.Local().Format(time.DateTime), l.Stage, l.Reason, l.Deliveries, l.ID, l.Message)
		if n%100 == 0 {
			err = errors.Join(err, w.Flush())
		}
		return n != c.Limit, err
	})
	if n == 0 && err == nil && !c.JSON {
		fmt.Fprintf(a.stdout, "no dead letters of tenant %s\n", c.Tenant)
	}
	return errors.Join(err, w.Flush())
}

type deadShowCmd struct {
	Sequence uint64 `arg:"" help:"The dead letter's sequence, as in dead list."`
	deadFilter
	jsonFlag
}

// Run prints what is known of a dead letter, then the original body.
func (c *deadShowCmd) Run(a *app) error {
	dead, _, closeServer, err := c.letters(a)
	if err != nil {
		return err
	}
	defer closeServer()
	l, err := dead.Get(a.ctx, c.Sequence)
	if err != nil {
		return hint(err, "processor dead list")
	}
	if c.JSON {
		return printJSON(a.stdout, []any{struct {
			streams.DeadLetter
			Body string `json:"body"` // as text: it may be no JSON
		}{l, string(l.Body)}})
	}
	fmt.Fprintf(a.stdout, "sequence:   %d\ntime:       %s\ntenant:     %s\nid:         %s\nstage:      %s\nreason:     %s\nmessage:    %s\ndeliveries: %d\nrequest:    %s, sequence %d\n\n%s\n",
		l.Sequence, l.Time.Local().Format(time.RFC3339), l.Tenant, l.ID, l.Stage, l.Reason, l.Message, l.Deliveries, l.Subject, l.Original, indent(l.Body))
	return nil
}

// indent makes JSON readable; what is none stays as it is, in quotes where it
// would disturb a terminal.
func indent(body []byte) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if json.Valid(body) && encoder.Encode(json.RawMessage(body)) == nil {
		return strings.TrimSpace(b.String())
	}
	return fmt.Sprintf("%q", body)
}

// chosen names dead letters one by one, or all that the filter matches.
type chosen struct {
	Sequence []uint64 `arg:"" optional:"" help:"The dead letters' sequences."`
	All      bool     `help:"All that the flags choose."`
	deadFilter
}

// each calls f with the sequence of each chosen dead letter. They are listed
// first, since f removes them.
func (c *chosen) each(a *app, dead *streams.DeadLetters, f func(sequence uint64) error) (done int, err error) {
	sequences := c.Sequence
	if c.All {
		match, err := c.match()
		if err != nil {
			return 0, err
		}
		if err := dead.Each(a.ctx, c.Tenant, func(l streams.DeadLetter) (bool, error) {
			if match(l) {
				sequences = append(sequences, l.Sequence)
			}
			return true, nil
		}); err != nil {
			return 0, err
		}
	}
	for _, sequence := range sequences {
		if err := f(sequence); err != nil {
			return done, err
		}
		done++
	}
	return done, nil
}

func (c *chosen) validate(name string) error {
	if (len(c.Sequence) == 0) != c.All {
		return wrongUse(errors.New("name sequences or give --all, one of the two"), fmt.Sprintf("processor dead %s 17, or processor dead %s --all", name, name))
	}
	return nil
}

type deadRetryCmd struct {
	chosen
	Keep bool `help:"Do not remove them."`
}

// Run publishes dead letters again and prints their new ids.
func (c *deadRetryCmd) Run(a *app) error {
	if err := c.validate("retry"); err != nil {
		return err
	}
	dead, client, closeServer, err := c.letters(a)
	if err != nil {
		return err
	}
	defer closeServer()
	_, err = c.each(a, dead, func(sequence uint64) error {
		l, err := dead.Get(a.ctx, sequence)
		if err != nil {
			return hint(err, "processor dead list")
		}
		if l.Tenant != c.Tenant {
			return wrongUse(fmt.Errorf("dead letter %d is of tenant %s, not %s", sequence, l.Tenant, c.Tenant), "--tenant "+l.Tenant)
		}
		class, err := schemas.ParseClass(l.Class)
		if err != nil {
			class = schemas.Interactive
		}
		id, err := client.Publish(a.ctx, streams.Message{ID: l.RetryID(), Class: class, Body: l.Body})
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, id)
		if c.Keep {
			return nil
		}
		return dead.Delete(a.ctx, sequence)
	})
	return err
}

type deadPurgeCmd struct{ chosen }

// Run removes dead letters.
func (c *deadPurgeCmd) Run(a *app) error {
	if err := c.validate("purge"); err != nil {
		return err
	}
	dead, _, closeServer, err := c.letters(a)
	if err != nil {
		return err
	}
	defer closeServer()
	done, err := c.each(a, dead, func(sequence uint64) error {
		l, err := dead.Get(a.ctx, sequence)
		if err != nil {
			return hint(err, "processor dead list")
		}
		if l.Tenant != c.Tenant {
			return wrongUse(fmt.Errorf("dead letter %d is of tenant %s, not %s", sequence, l.Tenant, c.Tenant), "--tenant "+l.Tenant)
		}
		return dead.Delete(a.ctx, sequence)
	})
	fmt.Fprintf(a.stdout, "removed %s\n", plural(done, "dead letter"))
	return err
}
