package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/adpa/processor/internal/proc"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

// runStream measures what the processor adds to each chunk of a streamed answer:
// from the moment at which the upstream has written it until a reader of
// llm.deltas has it, beside the same from the upstream straight to an HTTP client.
func runStream(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("stream", flag.ContinueOnError)
	answers := flags.Int("answers", 200, "streamed answers")
	chunks := flags.Int("chunks", 50, "chunks of an answer")
	every := flags.Duration("every", 20*time.Millisecond, "between the chunks of an answer")
	atOnce := flags.Int("at-once", 16, "answers that are streamed at a time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "bench-stream-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := proc.Build(ctx, dir)
	if err != nil {
		return err
	}
	upstream := stampingUpstream(*chunks, *every)
	defer upstream.Close()
	server, err := proc.Start(ctx, "nats "+filepath.Join(dir, "nats")+" -1")
	if err != nil {
		return err
	}
	defer server.Kill()
	configuration := filepath.Join(dir, "processor.yaml")
	text := fmt.Sprintf("nats: {url: %q}\nhttp: {addr: \"127.0.0.1:0\"}\ncache: {enabled: false}\nproviders: [{name: fake, kind: openai, base_url: \"%s/v1\", api_key: none}]\n", server.URL, upstream.URL)
	if err := os.WriteFile(configuration, []byte(text), 0o600); err != nil {
		return err
	}
	if said, err := proc.Run(ctx, program, "provision", "--config", configuration); err != nil {
		return fmt.Errorf("provisioning: %w\n%s", err, said)
	}
	processor, err := proc.Command(ctx, io.Discard, program, "run", "--config", configuration)
	if err != nil {
		return err
	}
	defer processor.Kill()
	nc, err := nats.Connect(server.URL)
	if err != nil {
		return err
	}
	defer nc.Close()
	client, err := streams.NewClient(nc, streams.Names{Prefix: "llm"}, "bench")
	if err != nil {
		return err
	}
	through := func(ctx context.Context, i int, each func([]byte)) error {
		body := fmt.Appendf(nil, `{"model":"m","stream":true,"messages":[{"role":"user","content":"%d"}]}`, i)
		_, err := client.Stream(ctx, streams.Message{Body: body}, func(d streams.Delta) { each(d.Chunk) })
		return err
	}
	direct := func(ctx context.Context, _ int, each func([]byte)) error {
		return readDirectly(ctx, upstream.URL, each)
	}
	if _, err := streamLatencies(ctx, 2**atOnce, *atOnce, *chunks, through); err != nil { // warm
		return err
	}
	fmt.Fprintf(out, "%d answers of %d chunks, one every %v, %d at once\n\n| | p50 | p99 |\n| --- | --- | --- |\n", *answers, *chunks, *every, *atOnce)
	var medians [2]time.Duration
	for i, way := range []struct {
		name string
		read func(context.Context, int, func([]byte)) error
	}{{"upstream to an HTTP client", direct}, {"upstream to a reader of llm.deltas", through}} {
		took, err := streamLatencies(ctx, *answers, *atOnce, *chunks, way.read)
		if err != nil {
			return err
		}
		medians[i] = took[len(took)/2]
		fmt.Fprintf(out, "| %s | %v | %v |\n", way.name, medians[i].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond))
	}
	fmt.Fprintf(out, "\nadded at the median: %v\n", (medians[1] - medians[0]).Round(time.Microsecond))
	return nil
}

// stampingUpstream streams answers whose chunks hold the time at which they are
// written, in nanoseconds since 1970.
func stampingUpstream(chunks int, every time.Duration) *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for i := range chunks {
			select {
			case <-ticker.C:
			case <-r.Context().Done():
				return
			}
			finish := "null"
			if i == chunks-1 {
				finish = `"stop"`
			}
			fmt.Fprintf(w, "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"},\"finish_reason\":%s}],\"at\":%d}\n\n", finish, time.Now().UnixNano())
			w.(http.Flusher).Flush()
		}
		fmt.Fprint(w, "data: [DONE]\n\n")
	}))
}

// readDirectly reads an answer without the processor.
func readDirectly(ctx context.Context, url string, each func([]byte)) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	buffer := make([]byte, 4096)
	for {
		n, err := response.Body.Read(buffer)
		for line := range strings.Lines(string(buffer[:n])) {
			if chunk, ok := strings.CutPrefix(strings.TrimSpace(line), "data: {"); ok {
				each([]byte("{" + chunk))
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// streamLatencies reads answers and gives how long each chunk took, sorted.
func streamLatencies(ctx context.Context, answers, atOnce, chunks int, read func(context.Context, int, func([]byte)) error) ([]time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range answers {
		group.Go(func() error {
			took := make([]time.Duration, 0, chunks)
			err := read(ctx, i, func(chunk []byte) {
				now := time.Now().UnixNano()
				if span, ok := schemas.Member(chunk, "at"); ok {
					if at, err := strconv.ParseInt(string(span.Of(chunk)), 10, 64); err == nil {
						took = append(took, time.Duration(now-at))
					}
				}
			})
			if err == nil && len(took) != chunks {
				err = fmt.Errorf("%d of %d chunks came", len(took), chunks)
			}
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
			return err
		})
	}
	err := group.Wait()
	slices.Sort(all)
	return all, err
}
