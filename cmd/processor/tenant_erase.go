package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages/cache"
	"github.com/adpa/processor/streams"
)

const (
	// erasePause is between two looks at what is left: what replicas still had in
	// hand comes up again as an answer.
	erasePause = time.Second
	// eraseQuiet is how often in a row nothing must have come.
	eraseQuiet = 3
	// eraseCancels bounds the requests that are cancelled; the others end by themselves.
	eraseCancels = 100_000
)

type tenantEraseCmd struct {
	Name   string        `arg:"" help:"The tenant."`
	Yes    bool          `help:"Do it; else only what there is is listed."`
	Shared bool          `help:"Also all cache entries that tenants share (cache.scope: shared), whoever paid for them."`
	Wait   time.Duration `default:"2m" help:"How long to wait for calls that run and for what still comes."`
	jsonFlag
}

// Help is shown by --help.
func (*tenantEraseCmd) Help() string {
	return "Stop the tenant's applications first: what they publish meanwhile is worked on, and stays. Ids of before are not to be used within two minutes. " +
		"Requests that wait get no answer. Not reached are the server's backups and snapshots, files of dataset export, replay and evaluation, " +
		"logs, and what providers keep."
}

// erased is what was found of a tenant in one place, and is gone if it was to be.
type erased struct {
	Place    string `json:"place"`    // a stream or bucket
	Subjects string `json:"subjects"` // or keys
	Messages uint64 `json:"messages"`
}

// Run lists or removes what streams and buckets hold of the tenant.
func (c *tenantEraseCmd) Run(a *app) error {
	if err := validTenant(c.Name); err != nil {
		return err
	}
	cfg, err := a.load()
	if err != nil {
		return err
	}
	nc, err := a.connect(cfg)
	if err != nil {
		return err
	}
	defer nc.Close()
	e, err := newEraser(cfg, nc, c.Name)
	if err != nil {
		return err
	}
	if !c.Yes {
		return c.preview(a, e)
	}
	left, err := e.erase(a.ctx, c.Wait, c.Shared)
	if err != nil {
		return err
	}
	if err := c.print(a, e.rows(), "REMOVED"); err != nil {
		return err
	}
	if left {
		return hint(fmt.Errorf("tenant %s: more came until the end of --wait", c.Name), "stop the tenant's applications and repeat; --wait 10m where calls run long")
	}
	return nil
}

func (c *tenantEraseCmd) preview(a *app, e *eraser) error {
	if err := e.look(a.ctx); err != nil {
		return err
	}
	if err := c.print(a, e.rows(), "MESSAGES"); err != nil {
		return err
	}
	fmt.Fprintln(a.stderr, "nothing was removed; add --yes")
	return nil
}

func (c *tenantEraseCmd) print(a *app, rows []erased, title string) error {
	if c.JSON {
		return printJSON(a.stdout, rows)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "STREAM OR BUCKET\tSUBJECTS OR KEYS\t%s\n", title)
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%d\n", r.Place, r.Subjects, r.Messages)
	}
	return w.Flush()
}

// eraser removes what is kept of a tenant.
type eraser struct {
	js      jetstream.JetStream
	dead    *streams.DeadLetters
	tenant  string
	names   streams.Names
	buckets kv.Layout
	shared  []string // keys of the shared scope that go too
	order   []string // the places, as they were found
	found   map[string]*erased
}

func newEraser(cfg config.Config, nc *nats.Conn, tenant string) (*eraser, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	names := streams.Names{Prefix: cfg.NATS.Prefix}
	dead, err := streams.NewDeadLetters(nc, names)
	if err != nil {
		return nil, err
	}
	return &eraser{js: js, dead: dead, tenant: tenant, names: names, buckets: bucketLayout(cfg), found: map[string]*erased{}}, nil
}

func (e *eraser) rows() []erased {
	rows := make([]erased, len(e.order))
	for i, key := range e.order {
		rows[i] = *e.found[key]
	}
	return rows
}

func (e *eraser) add(place, subjects string, n uint64) {
	key := place + " " + subjects
	if e.found[key] == nil {
		e.found[key] = &erased{Place: place, Subjects: subjects}
		e.order = append(e.order, key)
	}
	e.found[key].Messages += n
}

// look counts without removing anything.
func (e *eraser) look(ctx context.Context) error {
	return e.each(func(stream, place, subjects, filter string) error {
		n, err := e.held(ctx, stream, filter)
		e.add(place, subjects, n)
		return err
	})
}

// each calls f with every place that may hold something of the tenant.
func (e *eraser) each(f func(stream, place, subjects, filter string) error) error {
	for _, h := range e.names.HeldOf(e.tenant) {
		if err := f(h.Stream, h.Stream, h.Filter, h.Filter); err != nil {
			return err
		}
	}
	leases := kv.TenantKeys{Bucket: e.buckets.Bucket(kv.BucketLeases), Keys: []string{e.tenant + ".>"}}
	for _, b := range append(e.buckets.KeysOf(e.tenant), leases) {
		for _, keys := range b.Keys {
			if err := f("KV_"+b.Bucket, b.Bucket, keys, "$KV."+b.Bucket+"."+keys); err != nil {
				return err
			}
		}
	}
	return nil
}

// held counts the messages of a stream under a subject; a stream that does not
// exist has none.
func (e *eraser) held(ctx context.Context, name, filter string) (n uint64, err error) {
	stream, err := e.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("looking for stream %s: %w", name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return 0, fmt.Errorf("counting %s in stream %s: %w", filter, name, err)
	}
	for _, messages := range info.State.Subjects {
		n += messages
	}
	return n, nil
}

// erase removes everything, again and again until nothing comes any more; left
// says that something did until the end.
func (e *eraser) erase(ctx context.Context, wait time.Duration, shared bool) (left bool, err error) {
	if err := e.forgetShared(ctx, shared); err != nil {
		return false, err
	}
	if err := e.cancel(ctx); err != nil {
		return false, err
	}
	deadline := time.Now().Add(wait)
	for quiet := 0; quiet < eraseQuiet; {
		came, err := e.pass(ctx, false)
		if err != nil {
			return false, err
		}
		if quiet++; came {
			quiet = 0
			if left = time.Now().After(deadline); left {
				break
			}
		}
		if err := e.pause(ctx); err != nil {
			return false, err
		}
	}
	if _, err := kv.Forget(ctx, e.js, e.buckets.Bucket(kv.BucketCancelled), e.tenant+".>"); err != nil {
		return false, err
	}
	if err := e.pause(ctx); err != nil {
		return false, err
	}
	if _, err := e.pass(ctx, true); err != nil {
		return false, err
	}
	bucket := e.buckets.Bucket(kv.BucketCache)
	for _, key := range e.shared { // their markers
		if _, err := e.purge(ctx, "KV_"+bucket, "$KV."+bucket+"."+key); err != nil {
			return false, err
		}
	}
	return left, nil
}

func (e *eraser) pause(ctx context.Context) error {
	select {
	case <-time.After(erasePause):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cancel ends the calls that run.
func (e *eraser) cancel(ctx context.Context) error {
	ids, err := e.names.Working(ctx, e.js, e.tenant, eraseCancels)
	if err != nil {
		return err
	}
	bucket, err := e.js.KeyValue(ctx, e.buckets.Bucket(kv.BucketCancelled))
	if err != nil {
		return fmt.Errorf("opening the bucket of cancelled requests: %w", err)
	}
	for _, id := range ids {
		if _, err := bucket.Put(ctx, e.tenant+"."+id, nil); err != nil {
			return fmt.Errorf("cancelling what runs: %w", err)
		}
	}
	return nil
}

// forgetShared removes the entries of the shared scope that the tenant's stored
// responses name, or all of them.
func (e *eraser) forgetShared(ctx context.Context, all bool) error {
	bucket, scope := e.buckets.Bucket(kv.BucketCache), strings.TrimSuffix(cache.ScopeKey("", "", true), ".")
	keys := []string{scope + ".>"}
	if !all {
		named, err := e.names.CacheKeys(ctx, e.js, e.tenant, func(key string) bool { return strings.HasPrefix(key, scope+".") })
		if err != nil {
			return err
		}
		keys = slices.Sorted(maps.Keys(named))
	}
	e.shared = keys
	for _, key := range keys {
		n, err := kv.Forget(ctx, e.js, bucket, key)
		e.add(bucket, scope+".>", uint64(n))
		if err != nil {
			return err
		}
	}
	return nil
}

// pass removes what there is now and reports whether there was something, or a
// call that runs. The last one also removes the markers of what was deleted,
// which replicas have seen by then, and what says that requests were cancelled.
func (e *eraser) pass(ctx context.Context, last bool) (came bool, err error) {
	for _, h := range e.names.HeldOf(e.tenant) {
		n, err := e.purge(ctx, h.Stream, h.Filter)
		if err != nil {
			return false, err
		}
		e.add(h.Stream, h.Filter, n)
		came = came || n > 0
	}
	damaged, err := e.dead.ForgetDamaged(ctx, e.tenant)
	if err != nil {
		return false, err
	}
	if damaged > 0 {
		e.add(e.names.Dead(), e.names.DeadLetter("*", schemas.NoTenant), uint64(damaged))
		came = true
	}
	for _, b := range e.buckets.KeysOf(e.tenant) {
		if b.Bucket == e.buckets.Bucket(kv.BucketCancelled) && !last {
			continue // replicas have to see it first
		}
		for _, keys := range b.Keys {
			n, err := e.forget(ctx, b, keys, last)
			if err != nil {
				return false, err
			}
			e.add(b.Bucket, keys, n)
			came = came || n > 0
		}
	}
	running, err := e.buckets.LeasesOf(ctx, e.js, e.tenant)
	if err == nil && last {
		bucket := e.buckets.Bucket(kv.BucketLeases)
		_, err = e.purge(ctx, "KV_"+bucket, "$KV."+bucket+"."+e.tenant+".>")
	}
	return came || running > 0, err
}

// forget removes keys: first in the replicas' memory, which learn of it by
// markers, then those.
func (e *eraser) forget(ctx context.Context, b kv.TenantKeys, keys string, last bool) (n uint64, err error) {
	if b.Follow {
		marked, err := kv.Forget(ctx, e.js, b.Bucket, keys)
		if err != nil || !last {
			return uint64(marked), err
		}
		n = uint64(marked)
	}
	purged, err := e.purge(ctx, "KV_"+b.Bucket, "$KV."+b.Bucket+"."+keys)
	if b.Follow {
		return n, err
	}
	return purged, err
}

func (e *eraser) purge(ctx context.Context, name, filter string) (n uint64, err error) {
	if n, err = e.held(ctx, name, filter); n == 0 || err != nil {
		return 0, err
	}
	stream, err := e.js.Stream(ctx, name)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(filter))
	}
	if err != nil {
		return 0, fmt.Errorf("removing %s from stream %s: %w", filter, name, err)
	}
	return n, nil
}
