package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// statusCmd says where a request is.
type statusCmd struct {
	ID string `arg:"" help:"The id of the request: its Llm-Id, or the sequence of its publish."`
	tenantFlag
	jsonFlag
}

// Run looks at the stored responses, then at what waits. A request that nobody
// knows is a failure.
func (c *statusCmd) Run(a *app) error {
	if err := checkID(c.ID, "status"); err != nil {
		return err
	}
	client, closeServer, err := a.operator(c.Tenant)
	if err != nil {
		return err
	}
	defer closeServer()
	w, err := client.Locate(a.ctx, c.ID)
	if err != nil {
		return err
	}
	if c.JSON {
		if err := printJSON(a.stdout, []streams.Whereabouts{w}); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(a.stdout, describe(w))
	}
	if w.State == streams.Unknown {
		return errFailed
	}
	return nil
}

func describe(w streams.Whereabouts) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", w.ID, w.State)
	switch w.State {
	case streams.Waiting:
		fmt.Fprintf(&b, " in %s since %s", w.Stage, w.Since.Local().Format(time.DateTime))
	case streams.Delayed:
		fmt.Fprintf(&b, " before %s until %s", w.Stage, w.Until.Local().Format(time.DateTime))
	case streams.Unknown:
		fmt.Fprintf(&b, " to tenant %s: never accepted, or its response has expired", w.Tenant)
		if w.Beyond {
			b.WriteString(", or behind more requests than were looked through")
		}
	}
	return b.String()
}

// checkID refuses an id that no request can have.
func checkID(id, command string) error {
	if schemas.ValidName(id) {
		return nil
	}
	return wrongUse(fmt.Errorf("id %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", id), "processor "+command+" --help")
}

// operator connects to a running server for a command that looks at one tenant.
func (a *app) operator(tenant string) (*streams.Client, func(), error) {
	cfg, err := a.load()
	if err != nil {
		return nil, nil, err
	}
	nc, err := a.connect(cfg)
	if err != nil {
		return nil, nil, err
	}
	client, err := a.client(cfg, nc, tenant)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return client, nc.Close, nil
}

// cancelCmd ends a request.
type cancelCmd struct {
	ID string `arg:"" help:"The id of the request."`
	tenantFlag
}

// Help says what becomes of the request, and of one that is not found.
func (c *cancelCmd) Help() string {
	return "Its response will be an error, unless its answer was faster. The cancellation is recorded even where no such request " +
		"is found, for one that is still to come. Exit status 1 means that no such request was found, or that it was answered before."
}

// Run tells every process to end the request, unless it is over.
func (c *cancelCmd) Run(a *app) error {
	if err := checkID(c.ID, "cancel"); err != nil {
		return err
	}
	client, closeServer, err := a.operator(c.Tenant)
	if err != nil {
		return err
	}
	defer closeServer()
	over, err := client.Lookup(a.ctx, []string{c.ID})
	if err != nil {
		return err
	}
	if len(over) > 0 {
		fmt.Fprintf(a.stdout, "%s: has its response already; nothing was cancelled\n", c.ID)
		return errFailed
	}
	if err := client.Cancel(a.ctx, c.ID); err != nil {
		return hint(err, "processor status %s", c.ID)
	}
	w, err := client.Locate(a.ctx, c.ID)
	if err != nil {
		return err
	}
	if w.State == streams.Unknown {
		fmt.Fprintf(a.stdout, "%s: the cancellation is recorded, but no such request of tenant %s was found\n", c.ID, c.Tenant)
		return errFailed
	}
	fmt.Fprintf(a.stdout, "%s: cancelled\n", c.ID)
	return nil
}
