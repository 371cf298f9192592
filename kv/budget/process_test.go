package budget

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/goleak"

	"github.com/adpa/processor/internal/jsx"
)

// The property tests run the ledger in several processes, which are this test's
// binary started again in one of these roles.
const roleKey = "BUDGET_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleKey) {
	case "":
		goleak.VerifyTestMain(m)
	case "server":
		runServer()
	case "worker":
		if err := runWorker(); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
	case "bench":
		if err := runBench(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
}

// runServer is the role of the NATS server.
func runServer() {
	o := server.Options{Host: "127.0.0.1", NoSigs: true, NoLog: true, JetStream: true}
	if _, err := fmt.Sscan(os.Getenv("BUDGET_TEST_SERVER"), &o.Port, &o.StoreDir); err != nil {
		panic(err)
	}
	s, err := server.NewServer(&o)
	if err != nil {
		panic(err)
	}
	s.Start()
	wait := make(chan os.Signal, 1)
	signal.Notify(wait, syscall.SIGTERM)
	<-wait
}

// job is what a worker process is told.
type job struct {
	NATS     string
	Upstream string
	Slots    int
	ShiftMS  int64 // of the clock that windows go by
	UntilMS  int64 // how long reservations hold
	Budgets  []Config
}

// message is one request of the property tests.
type message struct {
	Estimate int64 // tokens
	Bill     int64 // tokens; what the upstream will bill: the worker does not look at it
}

// answer is what a worker records of a paid call.
type answer struct {
	Call   string
	Billed int64
}

// worker is a small pipeline around the ledger: reserve, call, record, settle,
// publish, acknowledge.
type worker struct {
	job
	js     jetstream.JetStream
	ledger *Ledger
}

func runWorker() error {
	var w worker
	if err := json.Unmarshal([]byte(os.Getenv("BUDGET_TEST_JOB")), &w.job); err != nil {
		return err
	}
	nc, err := nats.Connect(w.NATS, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		return err
	}
	if w.js, err = jetstream.New(nc); err != nil {
		return err
	}
	ctx := context.Background()
	options := Options{Budgets: w.Budgets, CallTimeout: time.Duration(w.UntilMS) * time.Millisecond, Now: shifted(time.Duration(w.ShiftMS) * time.Millisecond)}
	for {
		if w.ledger, err = Open(ctx, w.js, options); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond) // the server may be away
	}
	return w.pull(ctx)
}

// shifted is a clock that is ahead.
func shifted(ahead time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(ahead) }
}

func (w *worker) pull(ctx context.Context) error {
	slots := make(chan struct{}, w.Slots)
	for {
		slots <- struct{}{}
		m := w.next(ctx, w.Slots-len(slots)+1)
		<-slots
		for _, m := range m {
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				if err := w.work(ctx, m); err != nil {
					_ = m.NakWithDelay(50 * time.Millisecond)
				}
			}()
		}
	}
}

func (w *worker) next(ctx context.Context, n int) (list []jetstream.Msg) {
	consumer, err := w.js.Consumer(ctx, "WORK", "work")
	if err != nil {
		time.Sleep(20 * time.Millisecond)
		return nil
	}
	got, err := consumer.Fetch(n, jetstream.FetchMaxWait(200*time.Millisecond))
	if err != nil {
		time.Sleep(20 * time.Millisecond)
		return nil
	}
	for m := range got.Messages() {
		list = append(list, m)
	}
	return list
}

func (w *worker) work(ctx context.Context, m jetstream.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var r message
	if err := json.Unmarshal(m.Data(), &r); err != nil {
		return err
	}
	id := m.Headers().Get("Id")
	paid, err := w.recorded(ctx, id)
	if err != nil {
		return err
	}
	if paid == nil {
		call := nuid.Next()
		o := w.ledger.Reserve(ctx, []Request{{Tenant: "acme", ID: id, Call: call, Model: "m", Estimate: Amount{Tokens: r.Estimate, Cost: USD(r.Estimate)}}})[0]
		switch o.State {
		case Failed:
			return o.Err
		case Wait: // gives up its slot
			return m.NakWithDelay(50*time.Millisecond + rand.N(100*time.Millisecond))
		case Denied:
			return w.respond(ctx, m, id, "denied")
		}
		if paid, err = w.call(ctx, id, call, r); err != nil {
			return err
		}
	}
	if err := w.ledger.Settle(ctx, []Settlement{{Tenant: "acme", ID: id, Call: paid.Call, Billed: Amount{Tokens: paid.Billed, Cost: USD(paid.Billed)}}}); err != nil {
		return err
	}
	return w.respond(ctx, m, id, "answered")
}

// call buys an answer and records that it was paid.
func (w *worker) call(ctx context.Context, id, call string, r message) (*answer, error) {
	body, _ := json.Marshal(map[string]any{"Call": call, "Bill": r.Bill, "Estimate": r.Estimate})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.Upstream, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	paid := &answer{Call: call}
	if err := json.UnmarshalRead(response.Body, &paid.Billed); err != nil {
		return nil, err
	}
	text, _ := json.Marshal(paid)
	for {
		_, err := w.js.Publish(ctx, "ANSWERS."+id, text, jetstream.WithExpectLastSequencePerSubject(0))
		switch {
		case err == nil:
			return paid, nil
		case jsx.IsWrongLastSequence(err): // stored already, perhaps by this very publish
			return w.recorded(ctx, id)
		case ctx.Err() != nil:
			return nil, err
		}
	}
}

func (w *worker) recorded(ctx context.Context, id string) (*answer, error) {
	m, found, err := jsx.LastFromLeader(ctx, w.js.Conn(), "ANSWERS", "ANSWERS."+id)
	if err != nil || !found {
		return nil, err
	}
	paid := &answer{}
	return paid, json.Unmarshal(m.Data, paid)
}

func (w *worker) respond(ctx context.Context, m jetstream.Msg, id, text string) error {
	_, err := w.js.Publish(ctx, "RESPONSES."+id, []byte(text), jetstream.WithExpectLastSequencePerSubject(0))
	if err != nil && !jsx.IsWrongLastSequence(err) {
		return err
	}
	return errors.Join(m.Ack())
}
