package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/streams"
	"github.com/adpa/processor/streams/embedded"
)

// How a check ended.
const (
	fine    = "ok"
	warning = "warning"
	failure = "error"
	skipped = "skipped"
)

// finding is what a check found, and what to do about it.
type finding struct {
	Check   string `json:"check"`
	Status  string `json:"status"`
	Message string `json:"message"`
	Try     string `json:"try,omitempty"`
}

type doctorCmd struct {
	Tenant  string        `placeholder:"NAME" help:"Check with the rights of this tenant what an application needs, and no more."`
	Timeout time.Duration `default:"10s" help:"How long each of the checks may take."`
	jsonFlag
}

// Help is shown by --help.
func (*doctorCmd) Help() string {
	return "Checks the configuration, the connection, rights, versions, clocks, streams, consumers, buckets, storage, replicas and the keys of providers " +
		"(by a question that costs nothing), and says what to do about each finding. It changes nothing. Exit status 1 means that something does not work; warnings alone are 0."
}

// doctor gathers findings.
type doctor struct {
	cfg      config.Config
	nc       *nats.Conn
	timeout  time.Duration
	refused  chan error // rights that the server denied
	findings []finding
}

func (d *doctor) add(check, status, try, format string, args ...any) {
	d.findings = append(d.findings, finding{check, status, fmt.Sprintf(format, args...), try})
}

// Run makes the checks, those first on which others depend.
func (c *doctorCmd) Run(a *app) error {
	if c.Tenant != "" {
		if err := validTenant(c.Tenant); err != nil {
			return err
		}
	}
	d := &doctor{timeout: c.Timeout, refused: make(chan error, 64)}
	d.run(a, c.Tenant)
	if err := c.print(a, d.findings); err != nil {
		return err
	}
	if slices.ContainsFunc(d.findings, func(f finding) bool { return f.Status == failure }) {
		return errFailed
	}
	return nil
}

func (d *doctor) run(a *app, tenant string) {
	cfg, err := a.load()
	if err != nil {
		d.add("configuration", failure, advise(err).try, "%v", err)
		return
	}
	d.cfg = cfg
	if tenant == "" {
		d.checkConfiguration(a)
	}
	if d.connect(a) {
		defer d.nc.Close()
		d.checkServer()
		if tenant != "" {
			d.checkTenant(a.ctx, tenant)
		} else {
			d.checkOperator(a.ctx)
		}
	}
	if tenant == "" {
		d.checkProviders(a.ctx)
	}
}

func (c *doctorCmd) print(a *app, findings []finding) error {
	if c.JSON {
		return printJSON(a.stdout, findings)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	count := map[string]int{}
	for _, f := range findings {
		count[f.Status]++
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Status, f.Check, strings.ReplaceAll(f.Message, "\n", "\n\t\t"))
		if f.Try != "" && f.Status != fine {
			fmt.Fprintf(w, "\t\ttry: %s\n", f.Try)
		}
	}
	fmt.Fprintf(w, "\n%d ok, %s, %s\n", count[fine], plural(count[warning], "warning"), plural(count[failure], "error"))
	return w.Flush()
}

// connect opens the connection that the other checks use.
func (d *doctor) connect(a *app) bool {
	url := d.cfg.NATS.URL
	if url == "" {
		found, running := embedded.Find(a.ctx, d.cfg.NATS.Embedded.Dir)
		if !running {
			d.add("connection", fine, "", "nats.url is empty and no process serves %s: run, batch and ask start a server of their own there", d.cfg.NATS.Embedded.Dir)
			d.checkDisk(d.cfg.NATS.Embedded.Dir)
			return false
		}
		url = found
	}
	options, err := connectOptions(d.cfg.NATS)
	if err != nil {
		d.add("connection", failure, "name a file that this user may read", "%v", err)
		return false
	}
	d.nc, err = nats.Connect(url, append(options, nats.ErrorHandler(d.noteRefused))...)
	if err != nil {
		d.add("connection", failure, whyNoConnection(err), "connecting to %s: %v", redact(url), err)
		return false
	}
	rtt, err := d.nc.RTT()
	if err != nil {
		d.add("connection", failure, "check the network", "no answer from %s: %v", redact(url), err)
		d.nc.Close()
		return false
	}
	secured := "not encrypted"
	if _, err := d.nc.TLSConnectionState(); err == nil {
		secured = "encrypted"
	}
	where := redact(d.nc.ConnectedUrl())
	if cluster := d.nc.ConnectedClusterName(); cluster != "" {
		where += fmt.Sprintf(", cluster %s of %s", cluster, plural(len(d.nc.Servers()), "known address"))
		where = strings.ReplaceAll(where, "addresss", "addresses")
	}
	d.add("connection", fine, "", "%s, %s, round trip %v", where, secured, rtt.Round(10*time.Microsecond))
	if secured == "not encrypted" && !loopback(d.nc.ConnectedAddr()) {
		d.add("connection", warning, "set nats.tls, and tls in the server's configuration", "requests, answers and passwords cross the network in the clear")
	}
	return true
}

func loopback(address string) bool {
	return strings.HasPrefix(address, "127.") || strings.HasPrefix(address, "[::1]") || strings.HasPrefix(address, "localhost")
}

func (d *doctor) noteRefused(_ *nats.Conn, _ *nats.Subscription, err error) {
	select {
	case d.refused <- err:
	default:
	}
}

// denied gives what the server has denied since it was asked last.
func (d *doctor) denied() error {
	_ = d.nc.FlushTimeout(d.timeout) // denials come before the answer to it
	for {
		select {
		case err := <-d.refused:
			if errors.Is(err, nats.ErrPermissionViolation) {
				return err
			}
		default:
			return nil
		}
	}
}

func whyNoConnection(err error) string {
	text := err.Error()
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), strings.Contains(text, "uthoriz"):
		return "check nats.creds, nats.nkey or the user in nats.url"
	case strings.Contains(text, "x509"), strings.Contains(text, "certificate"), strings.Contains(text, "tls error"), errors.Is(err, nats.ErrSecureConnRequired):
		return "check nats.tls: ca names the authority of the server's certificate, cert and key this client's; the certificate must be for the host in nats.url"
	case errors.Is(err, nats.ErrSecureConnWanted):
		return "the server offers no TLS: leave out nats.tls and tls:// in nats.url, or set tls in the server's configuration"
	}
	return "check the address, and that the server runs"
}

// Versions of the server: the oldest that has what streams are made of, and the
// one that the product is tested with.
const (
	oldestServer = "2.12.0"
	testedServer = "2.15.0"
)

func (d *doctor) checkServer() {
	version := d.nc.ConnectedServerVersion()
	switch {
	case older(version, oldestServer):
		d.add("server version", failure, "update nats-server to "+testedServer+" or later", "%s has no message schedules, which came with %s", version, oldestServer)
	case older(version, testedServer):
		d.add("server version", warning, "update nats-server to "+testedServer+" or later", "%s is older than what the product is tested with", version)
	default:
		d.add("server version", fine, "", "%s", version)
	}
	if most := d.nc.MaxPayload(); most < embedded.MaxPayload {
		d.add("max_payload", warning, fmt.Sprintf("max_payload: %d in the server's configuration", embedded.MaxPayload),
			"the server takes messages of %d bytes: a request may have %d", most, max(0, streams.MaxRequest(int(most))))
	} else {
		d.add("max_payload", fine, "", "a request may have %d bytes", streams.MaxRequest(int(most)))
	}
}

// older compares versions like 2.12.1 by their numbers.
func older(version, than string) bool {
	var a, b [3]int
	_, _ = fmt.Sscanf(version, "%d.%d.%d", &a[0], &a[1], &a[2])
	_, _ = fmt.Sscanf(than, "%d.%d.%d", &b[0], &b[1], &b[2])
	return slices.Compare(a[:], b[:]) < 0
}

func (d *doctor) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d.timeout)
}
