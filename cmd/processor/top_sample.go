package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/internal/calibration"
	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/stages/selection"
	"github.com/adpa/processor/streams"
)

const (
	// figuresWait bounds the wait for the figures of replicas.
	figuresWait = 300 * time.Millisecond
	// figuresPause ends that wait once all that answered last time have answered.
	figuresPause = 30 * time.Millisecond
	// mostReplicas bounds the replicas whose answers are read.
	mostReplicas = 4096
)

// watcher is what top looks at a deployment with.
type watcher struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	layout  streams.Layout
	ledger  *budget.Ledger
	learnt  *learnt
	replies int // replicas that answered last time
}

// sample is what a deployment was like at a time.
type sample struct {
	at       time.Time
	replicas []replicaFigures
	lags     []streams.Lag
	holdings []streams.Holding
	budgets  []budget.Status
	learnt   []modelRow
}

// openWatcher connects, and follows budgets and what was learnt of models.
func (a *app) openWatcher(cfg config.Config) (*watcher, error) {
	nc, err := a.connect(cfg)
	if err != nil {
		return nil, err
	}
	w := &watcher{nc: nc, layout: streams.NewLayout(cfg.NATS, cfg.Streams)}
	if err := w.open(a.ctx, cfg); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *watcher) open(ctx context.Context, cfg config.Config) (err error) {
	if w.js, err = jetstream.New(w.nc); err != nil {
		return fmt.Errorf("opening JetStream: %w", err)
	}
	// The archive may be off whatever this command's own configuration says.
	if _, err := w.js.Stream(ctx, w.layout.Names.Archive()); errors.Is(err, jetstream.ErrStreamNotFound) {
		w.layout.Archive = false
	}
	w.learnt, err = openLearnt(ctx, w.js, bucketLayout(cfg).Bucket(kv.BucketModels))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return hint(fmt.Errorf("nothing is set up under the prefix %s: %w", cfg.NATS.Prefix, err), "processor provision, or start processor run on that server")
	}
	if err != nil {
		return err
	}
	if w.ledger, err = budget.Open(ctx, w.js, budgetOptions(cfg)); err != nil {
		return fmt.Errorf("opening the budgets: %w", err)
	}
	return nil
}

func (w *watcher) close() {
	if w.learnt != nil {
		w.learnt.close()
	}
	if w.ledger != nil {
		w.ledger.Close()
	}
	w.nc.Close()
}

// sample looks once: at the server and at the replicas at the same time.
func (w *watcher) sample(ctx context.Context) (*sample, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s := &sample{budgets: w.ledger.List(""), learnt: w.models()}
	look, ctx := errgroup.WithContext(ctx)
	look.Go(func() (err error) { s.replicas, err = w.askReplicas(ctx); return err })
	look.Go(func() (err error) { s.lags, err = streams.Lags(ctx, w.js, w.layout); return err })
	look.Go(func() (err error) {
		s.holdings, err = streams.Holdings(ctx, w.js, w.layout)
		s.at = time.Now()
		return err
	})
	return s, look.Wait()
}

// askReplicas asks every replica for its figures. Nobody knows how many there
// are: those that answer in time count.
func (w *watcher) askReplicas(ctx context.Context) ([]replicaFigures, error) {
	inbox := w.nc.NewInbox()
	sub, err := w.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("asking the replicas: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := w.nc.PublishRequest(w.layout.Names.Top(), inbox, nil); err != nil {
		return nil, fmt.Errorf("asking the replicas: %w", err)
	}
	var list []replicaFigures
	for end := time.Now().Add(figuresWait); len(list) < mostReplicas; {
		wait := time.Until(end)
		if w.replies > 0 && len(list) >= w.replies {
			wait = min(wait, figuresPause)
		}
		if wait <= 0 || ctx.Err() != nil {
			break
		}
		m, err := sub.NextMsg(wait)
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("asking the replicas: %w", err)
		}
		var f replicaFigures
		if json.Unmarshal(m.Data, &f) == nil && f.Process != "" {
			list = append(list, f)
		}
	}
	w.replies = len(list)
	slices.SortFunc(list, func(x, y replicaFigures) int { return strings.Compare(x.Process, y.Process) })
	return list, nil
}

// models gives what was learnt of models over all routes.
func (w *watcher) models() []modelRow {
	var rows []modelRow
	now := time.Now()
	w.learnt.figures.Each(func(key string, f *selection.Figures) {
		part := strings.Split(key, ".")
		if model, ok := calibration.UnescapeName(part[1]); ok && part[0] == allRoutes {
			rows = append(rows, newModelRow("", model, now, *f))
		}
	})
	slices.SortFunc(rows, func(x, y modelRow) int { return strings.Compare(x.Model, y.Model) })
	return rows
}
