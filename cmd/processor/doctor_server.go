package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/streams"
)

// checkOperator looks at everything that a replica needs on the server.
func (d *doctor) checkOperator(ctx context.Context) {
	js, err := jetstream.New(d.nc)
	if err != nil {
		d.add("JetStream", failure, "", "%v", err)
		return
	}
	if !d.checkAccount(ctx, js) {
		return
	}
	d.checkClock(ctx)
	found := d.checkStreams(ctx, js)
	d.checkBuckets(ctx, js)
	d.checkReplicas(found)
}

// checkAccount looks at JetStream and at the rights; the rest needs both.
func (d *doctor) checkAccount(ctx context.Context, js jetstream.JetStream) bool {
	ctx, cancel := d.within(ctx)
	defer cancel()
	asked, stop := context.WithTimeout(ctx, min(d.timeout, 3*time.Second)) // a denial is no answer
	defer stop()
	info, err := js.AccountInfo(asked)
	if denied := d.denied(); denied != nil {
		d.add("rights", failure, "give replicas and operators a user of the product's account; for an application: processor doctor --tenant NAME", "the server denies it: %v", denied)
		return false
	}
	if err != nil {
		try := "check the server's log"
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			try = "start the server with jetstream in its configuration (nats-server -js), and for this user's account"
		}
		d.add("JetStream", failure, try, "%v", err)
		return false
	}
	d.add("rights", fine, "", "streams and buckets may be set up and read")
	d.checkStorage(info)
	return true
}

// checkStorage compares what the account may store with what the limits add up to.
func (d *doctor) checkStorage(info *jetstream.AccountInfo) {
	sum := reserved(d.cfg)
	most, used := info.Limits.MaxStore, units.Bytes(info.Store)
	switch {
	case most <= 0:
		d.add("storage", fine, "", "%v used; the streams may grow to %v, and the account has no limit: the disk must have that", used.Short(), sum.Short())
	case int64(sum) > most:
		d.add("storage", warning, "raise max_file of the account and max_file_store, or lower max_bytes under streams",
			"the account may store %v, the limits of streams and buckets add up to %v (%v used): it fills up before they do", units.Bytes(most).Short(), sum.Short(), used.Short())
	case int64(used) > most/10*9:
		d.add("storage", warning, "raise max_file of the account, or lower max_bytes and max_age under streams", "%v of %v are used", used.Short(), units.Bytes(most).Short())
	default:
		d.add("storage", fine, "", "%v of %v used; the streams may grow to %v", used.Short(), units.Bytes(most).Short(), sum.Short())
	}
}

// reserved adds up what streams and buckets may hold, by the configuration.
func reserved(cfg config.Config) units.Bytes {
	sum := streams.NewLayout(cfg.NATS, cfg.Streams).MaxBytes() + bucketLayout(cfg).MaxBytes()
	return units.Bytes(sum)
}

// Differences of clocks from which deadlines and waits are off, and from which
// the streams' own times make no sense to the processes.
const (
	clockOff   = 500 * time.Millisecond
	clockWrong = 10 * time.Second
)

// checkClock compares the server's clock with this machine's, by the time that
// the server gives beside an answer.
func (d *doctor) checkClock(ctx context.Context) {
	ctx, cancel := d.within(ctx)
	defer cancel()
	names := streams.Names{Prefix: d.cfg.NATS.Prefix}
	sent := time.Now()
	reply, err := d.nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+names.Requests(), nil)
	back := time.Now()
	var info struct {
		Now time.Time `json:"ts"`
	}
	if err != nil || json.Unmarshal(reply.Data, &info) != nil || info.Now.IsZero() {
		d.add("clock", skipped, "processor provision", "the server's time is known only once there are streams")
		return
	}
	trip := back.Sub(sent)
	skew := info.Now.Sub(sent.Add(trip / 2)).Round(time.Millisecond)
	said := fmt.Sprintf("this machine and the server differ by %v, give or take %v", skew, (trip / 2).Round(time.Millisecond))
	switch off := max(skew, -skew) - trip/2; {
	case off > clockWrong:
		d.add("clock", failure, "set both by NTP (chrony, systemd-timesyncd)", "%s: deadlines, budgets and waits go by it", said)
	case off > clockOff:
		d.add("clock", warning, "set both by NTP (chrony, systemd-timesyncd)", "%s: waits and rates are off by as much", said)
	default:
		d.add("clock", fine, "", "%s", said)
	}
}

// checkStreams compares the streams with the layout, and looks at their health.
func (d *doctor) checkStreams(ctx context.Context, js jetstream.JetStream) []streams.Inspected {
	ctx, cancel := d.within(ctx)
	defer cancel()
	list, err := streams.Inspect(ctx, js, streams.NewLayout(d.cfg.NATS, d.cfg.Streams))
	if err != nil {
		d.add("streams", failure, "check that the cluster has a leader: nats server report jetstream", "%v", err)
		return nil
	}
	healthy := 0
	for _, in := range list {
		before := len(d.findings)
		d.checkStream(in)
		if len(d.findings) == before {
			healthy++
		}
	}
	if healthy > 0 {
		d.add("streams", fine, "", "%d of %d are as configured and have room", healthy, len(list))
	}
	return list
}

func (d *doctor) checkStream(in streams.Inspected) {
	check := "stream " + in.Name
	if in.Info == nil {
		d.add(check, failure, "processor provision, or start processor run", "it does not exist")
		return
	}
	if len(in.Differs) > 0 {
		d.add(check, warning, "processor provision, with this configuration; every replica should have the same", "%s", strings.Join(in.Differs, "; "))
	}
	for _, g := range in.Groups {
		if g.Missing {
			d.add(check, failure, "processor provision, or start processor run", "its consumer %s does not exist", g.Name)
		}
	}
	d.checkPeers(check, in.Info.Cluster)
	d.checkFill(check+" full", in)
}

// checkFill looks at the room of a stream that refuses what comes when it is full.
func (d *doctor) checkFill(check string, in streams.Inspected) {
	full := float64(in.Info.State.Bytes) / float64(max(in.Info.Config.MaxBytes, 1))
	switch {
	case in.Info.Config.MaxBytes <= 0 || !in.Refusing || full < 0.8:
	case full < 0.98:
		d.add(check, warning, "start more replicas, or raise its max_bytes under streams", "it is %.0f %% full, of %v; when it is, who publishes to it waits", 100*full, units.Bytes(in.Info.Config.MaxBytes))
	default:
		d.add(check, failure, "start replicas of the stage that reads it, or raise its max_bytes under streams", "it is full (%v): who publishes to it waits", units.Bytes(in.Info.Config.MaxBytes))
	}
}

// checkPeers looks at the servers that keep a stream.
func (d *doctor) checkPeers(check string, cluster *jetstream.ClusterInfo) {
	if cluster == nil {
		return
	}
	if cluster.Leader == "" {
		d.add(check, failure, "start the servers that keep it again: more than half of them must run", "it has no leader: nothing can be written")
	}
	for _, peer := range cluster.Replicas {
		switch {
		case peer.Offline:
			d.add(check, warning, "start that server again", "server %s, which keeps a copy, is away: one more failure may stop the stream", peer.Name)
		case !peer.Current:
			d.add(check, warning, "wait; if it stays, look at that server's disk and network", "the copy on server %s is %d operations behind", peer.Name, peer.Lag)
		}
	}
}

func (d *doctor) checkBuckets(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := d.within(ctx)
	defer cancel()
	list := bucketLayout(d.cfg).Buckets()
	healthy := 0
	for _, name := range list {
		check := "bucket " + name
		before := len(d.findings)
		stream, err := js.Stream(ctx, "KV_"+name)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			d.add(check, failure, "processor provision, or start processor run", "it does not exist")
			continue
		case err != nil:
			d.add(check, failure, "check that the cluster has a leader: nats server report jetstream", "%v", err)
			continue
		}
		info := stream.CachedInfo()
		if have, want := info.Config.Replicas, max(d.cfg.NATS.Replicas, 1); have != want {
			d.add(check, warning, "processor provision", "replicas is %d, not %d", have, want)
		}
		if most := info.Config.MaxBytes; most > 0 && info.Config.Discard == jetstream.DiscardNew && info.State.Bytes > uint64(most)/10*9 {
			d.add(check, failure, d.roomIn(name), "it is full (%v of %v): requests wait", units.Bytes(info.State.Bytes).Short(), units.Bytes(most).Short())
		}
		d.checkPeers(check, info.Cluster)
		if len(d.findings) == before {
			healthy++
		}
	}
	if healthy > 0 {
		d.add("buckets", fine, "", "%d of %d are as configured", healthy, len(list))
	}
}

func (d *doctor) roomIn(bucket string) string {
	if bucket == bucketLayout(d.cfg).Bucket(kv.BucketAnswers) {
		return "raise streams.responses.max_bytes or lower streams.responses.max_age, then processor provision"
	}
	return "remove keys that nobody needs"
}

// checkReplicas looks for stages that nobody serves.
func (d *doctor) checkReplicas(found []streams.Inspected) {
	if found == nil {
		return
	}
	if unserved := streams.Unserved(found); len(unserved) > 0 {
		d.add("processes", warning, "start processor run, with --stages where the groups are apart", "nobody serves %s at the moment: requests wait", strings.Join(unserved, ", "))
		return
	}
	d.add("processes", fine, "", "every stage is served")
}

// checkTenant tries what an application of a tenant needs. What it publishes
// names a stream that does not exist, so that no stream takes it.
func (d *doctor) checkTenant(ctx context.Context, tenant string) {
	names := streams.Names{Prefix: d.cfg.NATS.Prefix}
	for _, subject := range []string{names.Request(tenant), names.FeedbackOn(tenant)} {
		d.tryPublish(ctx, subject)
	}
	d.tryRequest(ctx, "reading responses", "$JS.API.DIRECT.GET."+names.Responses()+"."+names.Response(tenant, "doctor"))
	d.tryRequest(ctx, "reading missed chunks", names.Missed(tenant, "doctor"))
	for _, subject := range []string{names.Response(tenant, "*"), names.Delta(tenant, "*"), names.Events(tenant)} {
		d.trySubscribe(subject)
	}
}

const tenantRights = "give the tenant's user the rights that nats.conf names; if the inboxes are the user's own, set nats.inbox_prefix"

func (d *doctor) tryPublish(ctx context.Context, subject string) {
	ctx, cancel := context.WithTimeout(ctx, min(d.timeout, 3*time.Second))
	defer cancel()
	m := nats.NewMsg(subject)
	m.Header.Set("Nats-Expected-Stream", "none")
	reply, err := d.nc.RequestMsgWithContext(ctx, m)
	check := "publishing to " + subject
	if denied := d.denied(); denied != nil {
		d.add(check, failure, tenantRights, "the server denies it: %v", denied)
		return
	}
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		d.add(check, failure, "processor provision, or start processor run on that server; check nats.prefix", "no stream takes it")
	case err != nil:
		d.add(check, failure, tenantRights, "no answer: %v", err)
	case !strings.Contains(string(reply.Data), "expected stream"):
		d.add(check, warning, "", "the server answered something else than expected: %.200s", reply.Data)
	default:
		d.add(check, fine, "", "allowed")
	}
}

func (d *doctor) tryRequest(ctx context.Context, check, subject string) {
	ctx, cancel := context.WithTimeout(ctx, min(d.timeout, 3*time.Second))
	defer cancel()
	_, err := d.nc.RequestWithContext(ctx, subject, nil)
	if denied := d.denied(); denied != nil {
		d.add(check, failure, tenantRights, "the server denies it: %v", denied)
		return
	}
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		d.add(check, warning, "start processor run on that server", "nobody is there to answer %s", subject)
	case err != nil:
		d.add(check, failure, tenantRights, "no answer to %s: %v", subject, err)
	default:
		d.add(check, fine, "", "allowed")
	}
}

func (d *doctor) trySubscribe(subject string) {
	sub, err := d.nc.SubscribeSync(subject)
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }()
		err = d.denied()
	}
	if err != nil {
		d.add("subscribing to "+subject, failure, tenantRights, "the server denies it: %v", err)
		return
	}
	d.add("subscribing to "+subject, fine, "", "allowed")
}
