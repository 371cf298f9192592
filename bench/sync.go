package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/proc"
)

// runSync measures what it costs to force written messages to the disk: messages
// of 1 KB into one stream, published one after the other and many at once, on
// one server and on a cluster of three.
func runSync(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("sync", flag.ContinueOnError)
	span := flags.Duration("time", 4*time.Second, "how long each setting is measured")
	dir := flags.String("dir", "", "where the servers keep their data: on the disk that is meant; else a temporary directory")
	if err := flags.Parse(args); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "servers\tsync\tone at a time\t512 at once\tof the default\t")
	for _, servers := range []int{1, 3} {
		usual := 0.0
		for _, every := range []time.Duration{2 * time.Minute, 10 * time.Second, 100 * time.Millisecond, 0} {
			one, many, err := measureSync(ctx, *dir, servers, every, *span)
			if err != nil {
				return err
			}
			usual = cmp.Or(usual, many)
			name := every.String()
			if every == 0 {
				name = "always"
			}
			fmt.Fprintf(w, "%d\t%s\t%.0f/s\t%.0f/s\t%.0f%%\t\n", servers, name, one, many, 100*many/usual)
		}
	}
	return w.Flush()
}

// measureSync gives the messages a second that servers take which sync so often; 0 is always.
func measureSync(ctx context.Context, dir string, servers int, every, span time.Duration) (one, many float64, err error) {
	dir, err = os.MkdirTemp(dir, "sync")
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	nodes, err := startSynced(ctx, dir, servers, every)
	defer func() {
		for _, n := range nodes {
			if n != nil {
				n.Kill()
			}
		}
	}()
	if err != nil {
		return 0, 0, err
	}
	nc, err := nats.Connect(nodes[0].URL, nats.MaxReconnects(-1))
	if err != nil {
		return 0, 0, err
	}
	defer nc.Close()
	if err := makeSyncStream(ctx, nc, servers); err != nil {
		return 0, 0, err
	}
	if one, err = publishFor(ctx, nc, 1, span); err == nil {
		many, err = publishFor(ctx, nc, 512, span)
	}
	return one, many, err
}

func startSynced(ctx context.Context, dir string, servers int, every time.Duration) ([]*proc.Process, error) {
	routes, err := freeAddresses(servers)
	if err != nil {
		return nil, err
	}
	nodes, errs := make([]*proc.Process, servers), make([]error, servers)
	var starting sync.WaitGroup
	for i := range servers {
		n := proc.Node{Name: fmt.Sprintf("n%d", i), Dir: filepath.Join(dir, strconv.Itoa(i)), Port: -1, Sync: every, Always: every == 0}
		if servers > 1 {
			_, port, _ := net.SplitHostPort(routes[i])
			n.ClusterPort, _ = strconv.Atoi(port)
			n.Routes = routes
		}
		starting.Go(func() { nodes[i], errs[i] = proc.StartNode(ctx, n) })
	}
	starting.Wait()
	return nodes, cmp.Or(errs...)
}

// freeAddresses gives addresses of loopback on which nobody listens.
func freeAddresses(n int) (list []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // only now, so that all differ
		list = append(list, l.Addr().String())
	}
	return list, nil
}

// makeSyncStream makes the stream, as soon as the servers have found each other.
func makeSyncStream(ctx context.Context, nc *nats.Conn, servers int) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(time.Minute)
	for {
		trying, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := js.CreateOrUpdateStream(trying, jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}, Replicas: servers})
		cancel()
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond) // the poll of other processes' work
	}
}

// publishFor publishes for a time with so many messages on their way at once.
func publishFor(ctx context.Context, nc *nats.Conn, window int, span time.Duration) (perSecond float64, err error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(window))
	if err != nil {
		return 0, err
	}
	body := []byte(strings.Repeat("x", 1024))
	began, n := time.Now(), 0
	for ; time.Since(began) < span && ctx.Err() == nil; n++ {
		if window == 1 {
			_, err = js.Publish(ctx, "s", body)
		} else {
			_, err = js.PublishAsync("s", body, jetstream.WithStallWait(10*time.Second))
		}
		if err != nil {
			return 0, err
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return float64(n) / time.Since(began).Seconds(), nil
}
