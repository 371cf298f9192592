package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// bareHops is the number of hops of the bare loop: as many as the pipeline has stages.
const bareHops = 5

// bare measures JetStream alone: five hops over work queues on disk, each
// fetching up to 100, publishing asynchronously with message ids, and
// acknowledging what it took once everything is acknowledged by the server.
func bare(ctx context.Context, url string, body []byte, requests int) (rate float64, err error) {
	nc, err := nats.Connect(url)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		return 0, err
	}
	for hop := range bareHops + 1 {
		cfg := jetstream.StreamConfig{
			Name: fmt.Sprintf("BARE_%d", hop), Subjects: []string{fmt.Sprintf("bare.%d", hop)},
			Retention: jetstream.WorkQueuePolicy, MaxBytes: 4 << 30,
		}
		if hop == bareHops {
			cfg.Retention = jetstream.LimitsPolicy
		}
		if _, err := js.CreateStream(ctx, cfg); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return publishBare(js, body, requests) })
	for hop := range bareHops {
		group.Go(func() error { return runHop(ctx, url, hop, requests) })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return float64(requests) / time.Since(begin).Seconds(), nil
}

func publishBare(js jetstream.JetStream, body []byte, requests int) error {
	for i := range requests {
		m := nats.NewMsg("bare.0")
		m.Data = body
		if _, err := js.PublishMsgAsync(m, jetstream.WithMsgID("0/"+strconv.Itoa(i)), jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	<-js.PublishAsyncComplete()
	return nil
}

// runHop moves every message from one stream to the next.
func runHop(ctx context.Context, url string, hop, requests int) error {
	nc, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(1024))
	if err != nil {
		return err
	}
	consumer, err := js.CreateOrUpdateConsumer(ctx, fmt.Sprintf("BARE_%d", hop), jetstream.ConsumerConfig{
		Durable: "hop", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 10_000,
	})
	if err != nil {
		return err
	}
	subject := fmt.Sprintf("bare.%d", hop+1)
	for done := 0; done < requests; {
		batch, err := consumer.Fetch(100, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			return err
		}
		var taken []jetstream.Msg
		for m := range batch.Messages() {
			taken = append(taken, m)
		}
		if err := forward(js, subject, hop, taken); err != nil {
			return err
		}
		done += len(taken)
	}
	return nc.Flush()
}

func forward(js jetstream.JetStream, subject string, hop int, taken []jetstream.Msg) error {
	futures := make([]jetstream.PubAckFuture, len(taken))
	for i, m := range taken {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		next := nats.NewMsg(subject)
		next.Data = m.Data()
		id := strconv.Itoa(hop+1) + "/" + strconv.FormatUint(meta.Sequence.Stream, 10)
		if futures[i], err = js.PublishMsgAsync(next, jetstream.WithMsgID(id)); err != nil {
			return err
		}
	}
	for i, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		}
		if err := taken[i].Ack(); err != nil {
			return err
		}
	}
	return nil
}
