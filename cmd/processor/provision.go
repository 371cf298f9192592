package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/streams"
	"github.com/adpa/processor/streams/embedded"
)

// provisionCmd sets up what the product needs on a server.
type provisionCmd struct {
	Replicas int    `placeholder:"N" help:"How many servers of a cluster keep each stream: 1, 3 or 5."`
	From     string `placeholder:"DIR|URL" help:"Before that, copy all streams and buckets from a server on its own: the data directory of an embedded one that is stopped, or an address."`
	jsonFlag
}

// Run sets everything up, which changes nothing where it is set up already,
// and lists what there is.
func (c *provisionCmd) Run(a *app) error {
	cfg, err := a.load()
	if err != nil {
		return err
	}
	nc, err := a.connect(cfg)
	if err != nil {
		return err
	}
	defer nc.Close()
	if c.Replicas != 0 {
		if err := c.checkReplicas(nc); err != nil {
			return err
		}
		cfg.NATS.Replicas = c.Replicas
	}
	if c.From != "" {
		if err := c.carry(a, cfg, nc); err != nil {
			return err
		}
	}
	if err := provision(a.ctx, cfg, nc); err != nil {
		if c.Replicas > 1 {
			err = advise(err).orTry(fmt.Sprintf("--replicas with at most as many servers as run: %s", servers(nc)))
		}
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	return c.list(a, cfg, js)
}

// checkReplicas reports a number of copies that no cluster takes, or this server does not.
func (c *provisionCmd) checkReplicas(nc *nats.Conn) error {
	switch {
	case !slices.Contains([]int{1, 3, 5}, c.Replicas):
		return wrongUse(fmt.Errorf("--replicas: %d is none of 1, 3, 5; there is %s", c.Replicas, servers(nc)), "--replicas 1 on a single server, 3 or 5 on a cluster of as many")
	case c.Replicas > 1 && nc.ConnectedClusterName() == "":
		return wrongUse(fmt.Errorf("--replicas: %d needs a cluster of as many servers; there is %s", c.Replicas, servers(nc)), "leave --replicas out, or name a server of a cluster with --nats URL")
	}
	return nil
}

// servers says how many servers are known. A cluster tells its addresses, of
// which a server may have several.
func servers(nc *nats.Conn) string {
	cluster := nc.ConnectedClusterName()
	if cluster == "" {
		return "1 server, in no cluster"
	}
	return fmt.Sprintf("the cluster %s of %s", cluster, plural(len(nc.Servers()), "known address"))
}

// carry copies everything from a server on its own.
func (c *provisionCmd) carry(a *app, cfg config.Config, to *nats.Conn) error {
	url := c.From
	if !strings.Contains(url, "://") {
		if _, err := os.Stat(filepath.Join(c.From, "jetstream")); err != nil {
			return hint(fmt.Errorf("opening the data of an embedded server: %w", err), "name the directory of nats.embedded.dir, or an address like nats://127.0.0.1:4222")
		}
		old, err := embedded.Start(embedded.Config{Dir: c.From, Host: "127.0.0.1", Sync: time.Minute})
		if err != nil {
			return err
		}
		defer old.Close()
		url = old.URL()
	}
	from, err := nats.Connect(url, nats.Name("processor"))
	if err != nil {
		return advise(fmt.Errorf("connecting to %s: %w", redact(url), err)).orTry("check the address, and that the server runs")
	}
	defer from.Close()
	carried, err := streams.Carry(a.ctx, from, to, cfg.NATS.Prefix)
	if err != nil {
		return fmt.Errorf("%w (%d streams were copied before; remove these from the new servers to begin again)", err, len(carried))
	}
	return nil
}

// provisioned is a stream as provision lists it.
type provisioned struct {
	Stream   string `json:"stream"`
	Replicas int    `json:"replicas"`
	Messages uint64 `json:"messages"`
	Bytes    int64  `json:"bytes"`
	MaxBytes int64  `json:"max_bytes"`
}

func (c *provisionCmd) list(a *app, cfg config.Config, js jetstream.JetStream) error {
	var rows []provisioned
	lister := js.ListStreams(a.ctx)
	for info := range lister.Info() {
		name := info.Config.Name
		if strings.HasPrefix(name, strings.ToUpper(cfg.NATS.Prefix)+"_") || strings.HasPrefix(name, "KV_"+cfg.NATS.Prefix+"_") {
			rows = append(rows, provisioned{name, info.Config.Replicas, info.State.Msgs, int64(info.State.Bytes), info.Config.MaxBytes})
		}
	}
	if err := lister.Err(); err != nil {
		return fmt.Errorf("listing streams: %w", err)
	}
	slices.SortFunc(rows, func(x, y provisioned) int { return strings.Compare(x.Stream, y.Stream) })
	if c.JSON {
		return printJSON(a.stdout, rows)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STREAM\tREPLICAS\tMESSAGES\tHOLDS\tMAY HOLD")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%d\t%v\t%v\n", r.Stream, r.Replicas, r.Messages, units.Bytes(r.Bytes).Short(), units.Bytes(r.MaxBytes).Short())
	}
	return w.Flush()
}

// printJSON writes each element as a line of JSON.
func printJSON[T any](w interface{ Write([]byte) (int, error) }, rows []T) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	for _, r := range rows {
		if err := encoder.Encode(r); err != nil {
			return fmt.Errorf("writing JSON: %w", err)
		}
	}
	return nil
}
