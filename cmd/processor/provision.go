package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/units"
)

// provisionCmd sets up what the product needs on a server.
type provisionCmd struct {
	Replicas int `placeholder:"N" help:"How many servers of a cluster keep each stream: 1, 3 or 5."`
	jsonFlag
}

// Run sets everything up, which changes nothing where it is set up already,
// and lists what there is.
func (c *provisionCmd) Run(a *app) error {
	cfg, err := a.load(func(cfg *config.Config) error {
		if c.Replicas != 0 {
			cfg.NATS.Replicas = c.Replicas
		}
		return nil
	})
	if err != nil {
		return err
	}
	nc, err := a.connect(cfg)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := provision(a.ctx, cfg, nc); err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	return c.list(a, cfg, js)
}

// provisioned is a stream as provision lists it.
type provisioned struct {
	Stream   string      `json:"stream"`
	Replicas int         `json:"replicas"`
	Messages uint64      `json:"messages"`
	Bytes    units.Bytes `json:"bytes"`
	MaxBytes units.Bytes `json:"max_bytes"`
}

func (c *provisionCmd) list(a *app, cfg config.Config, js jetstream.JetStream) error {
	var rows []provisioned
	lister := js.ListStreams(a.ctx)
	for info := range lister.Info() {
		name := info.Config.Name
		if strings.HasPrefix(name, strings.ToUpper(cfg.NATS.Prefix)+"_") || strings.HasPrefix(name, "KV_"+cfg.NATS.Prefix+"_") {
			rows = append(rows, provisioned{name, info.Config.Replicas, info.State.Msgs, units.Bytes(info.State.Bytes), units.Bytes(info.Config.MaxBytes)})
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
		fmt.Fprintf(w, "%s\t%d\t%d\t%v\t%v\n", r.Stream, r.Replicas, r.Messages, r.Bytes, r.MaxBytes)
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
