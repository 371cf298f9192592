// Command publish-go publishes a request and reads its answer, with the NATS
// client alone:
//
//	go run ./examples/publish-go "Why is the sky blue?"
//	go run ./examples/publish-go -stream "Why is the sky blue?"
//	go run ./examples/publish-go -id ID       (the answer to an earlier one)
//
// The server is NATS_URL, by default nats://127.0.0.1:4222.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

func main() {
	tenant := flag.String("tenant", "default", "whose request it is")
	id := flag.String("id", "", "read the answer to this request instead of publishing one")
	stream := flag.Bool("stream", false, "print the answer as it is written")
	timeout := flag.Duration("timeout", time.Minute, "how long to wait")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()

	nc, err := nats.Connect(cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL))
	if err == nil {
		app := application{nc, *tenant}
		if *id == "" {
			err = app.ask(ctx, flag.Arg(0), *stream)
		} else {
			err = app.read(ctx, *id)
		}
		nc.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "publish-go:", err)
		os.Exit(1)
	}
}

type application struct {
	nc     *nats.Conn
	tenant string
}

func (a application) responseSubject(id string) string {
	return "llm.responses." + a.tenant + "." + id
}

// ask publishes a request and prints its answer. The id is this program's own,
// so that it can listen before it publishes, and may publish again when it does
// not know whether it was heard.
func (a application) ask(ctx context.Context, prompt string, stream bool) error {
	id := "go-" + nuid.Next()
	live := make(chan *nats.Msg, 1024)
	for _, subject := range []string{a.responseSubject(id), "llm.deltas." + a.tenant + "." + id} {
		if _, err := a.nc.ChanSubscribe(subject, live); err != nil {
			return err
		}
	}
	if err := a.publish(ctx, id, prompt, stream); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "published as", id)
	for printed := false; ; printed = true {
		select {
		case m := <-live:
			switch {
			case m.Subject != a.responseSubject(id):
				printDelta(m.Data)
			case printed: // all of it is there already
				fmt.Println()
				return nil
			default: // not streamed, or an answer that was there before
				return printAnswer(m.Data)
			}
		case <-ctx.Done():
			return fmt.Errorf("no answer yet: read it later with -id %s", id)
		}
	}
}

func (a application) publish(ctx context.Context, id, prompt string, stream bool) error {
	body, err := json.Marshal(map[string]any{
		"model": "auto", "stream": stream,
		"messages": []map[string]string{{"role": "user", "content": prompt}},
	})
	if err != nil {
		return err
	}
	js, err := jetstream.New(a.nc)
	if err != nil {
		return err
	}
	m := nats.NewMsg("llm.requests." + a.tenant)
	m.Header.Set("Llm-Id", id)
	m.Data = body
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second) // a server that died never answers
		ack, err := js.PublishMsg(attempt, m)
		cancel()
		switch {
		case err == nil && ack.Duplicate:
			return errors.New("the server took it for a duplicate: it was not accepted")
		case err == nil: // it will be answered, whatever dies in between
			return nil
		case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
			return err
		} // else nobody knows whether it was stored: again, under the same id
	}
}

// read prints the stored answer to a request, which is kept for a day.
func (a application) read(ctx context.Context, id string) error {
	m, err := a.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET.LLM_RESPONSES."+a.responseSubject(id), nil)
	if err != nil {
		return err
	}
	if m.Header.Get("Status") == "404" {
		return fmt.Errorf("there is no answer to %s yet, or none any more", id)
	}
	return printAnswer(m.Data)
}

// printAnswer prints what any OpenAI client would read: a chat completion, or an error.
func printAnswer(data []byte) error {
	var answer struct {
		Choices []struct{ Message struct{ Content string } }
		Error   *struct{ Message, Code string }
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return fmt.Errorf("%s (%s)", answer.Error.Message, answer.Error.Code)
	}
	for _, choice := range answer.Choices {
		fmt.Println(choice.Message.Content)
	}
	return nil
}

// printDelta prints a chunk of a streamed answer.
func printDelta(data []byte) {
	var chunk struct {
		Choices []struct{ Delta struct{ Content string } }
	}
	if json.Unmarshal(data, &chunk) == nil {
		for _, choice := range chunk.Choices {
			fmt.Print(choice.Delta.Content)
		}
	}
}
