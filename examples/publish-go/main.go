// Command publish-go does all that an application does: go run ./examples/publish-go "Why is the sky blue?"
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/streams"
)

func main() {
	ctx := context.Background()
	nc := must(nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL)))
	client := must(streams.NewClient(nc, streams.Names{Prefix: "llm"}, "go"))
	chat := func(more string) streams.Message {
		return streams.Message{ID: streams.NewID(), Body: fmt.Appendf(nil, `{"messages": [{"role": "user", "content": %q}]%s}`, os.Args[1], more)}
	}
	first := must(client.Ask(ctx, chat("")))
	fmt.Printf("answer: %s\n", first.Body)
	fmt.Printf("later: %d bytes\n", len(must(client.Await(ctx, first.ID)).Body)) // as any time within a day
	must(client.Stream(ctx, chat(`, "stream": true, "processor": {"cache": {"mode": "off"}}`), func(d streams.Delta) {
		fmt.Printf("chunk %d: %s\n", d.Number, d.Chunk)
	}))
	unwanted := must(client.Publish(ctx, chat(`, "temperature": 1.5`)))
	must(0, client.Cancel(ctx, unwanted))
	fmt.Printf("cancelled: %s\n", must(client.Await(ctx, unwanted)).Body)
	must(0, client.Feedback(ctx, streams.Feedback{ID: first.ID, Label: "Rayleigh scattering"}))
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
