package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite what scripts compare with")

// TestMain lets scripts run this test binary as the processor, so that nothing
// is built for them. Tests mostly wait, for time and for servers that end, so
// more of them run at once than there are processors, unless -parallel is given.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	testscript.Main(m, map[string]func(){"processor": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"server": startServer, "deadletter": publishDeadLetter, "waitfile": waitFor, "serving": awaitServing, "lines": countLines, "status": exitStatus, "requests": writeRequests,
		},
	})
}

// startServer starts a NATS server for a script and sets NATS_URL to it.
func startServer(ts *testscript.TestScript, _ bool, _ []string) {
	s, err := server.NewServer(&server.Options{
		ServerName: "test", Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: ts.MkAbs("nats"),
		JetStreamMaxStore: 1 << 50, JetStreamMaxMemory: 1 << 30, NoSigs: true, NoLog: true,
	})
	ts.Check(err)
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		ts.Fatalf("the NATS server did not start")
	}
	ts.Setenv("NATS_URL", s.ClientURL())
	ts.Defer(func() { s.Shutdown(); s.WaitForShutdown() })
}

// publishDeadLetter puts a dead letter on the script's server: id, stage, body.
func publishDeadLetter(ts *testscript.TestScript, _ bool, args []string) {
	nc, err := nats.Connect(ts.Getenv("NATS_URL"))
	ts.Check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = js.PublishMsg(ctx, &nats.Msg{Subject: "llm.dead." + args[1] + ".default", Data: []byte(args[2]), Header: nats.Header{
		"Llm-Id": {args[0]}, "Llm-Stage": {args[1]}, "Llm-Reason": {"provider_error"}, "Llm-Message": {"the provider answered 500"},
		"Llm-Deliveries": {"5"}, "Llm-Subject": {"llm.requests.default"}, "Llm-Sequence": {"17"}, "Llm-Priority": {"batch"},
	}})
	ts.Check(err)
}

// waitFor waits until a file is there and holds something.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	deadline, poll := time.After(20*time.Second), time.NewTicker(10*time.Millisecond)
	defer poll.Stop()
	for {
		if info, err := os.Stat(ts.MkAbs(args[0])); err == nil && info.Size() > 0 {
			return
		}
		select {
		case <-poll.C:
		case <-deadline:
			ts.Fatalf("%s did not come", args[0])
		}
	}
}

// awaitServing waits until the process that a script has started in the
// background takes requests.
func awaitServing(ts *testscript.TestScript, neg bool, _ []string) {
	const address = "data/nats/server.json"
	waitFor(ts, neg, []string{address})
	var server struct{ URL string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(address)), &server))
	nc, err := nats.Connect(server.URL)
	ts.Check(err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	ts.Check(err)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for range again.C {
		if c, err := js.Consumer(ctx, "LLM_REQUESTS", "compress"); err == nil && c.CachedInfo().NumWaiting > 0 {
			return
		}
		ts.Check(ctx.Err())
	}
}

// countLines checks how many lines a file has.
func countLines(ts *testscript.TestScript, _ bool, args []string) {
	if n := strings.Count(ts.ReadFile(args[0]), "\n"); args[1] != plural(n, "line") {
		ts.Fatalf("%s has %s, not %s", args[0], plural(n, "line"), args[1])
	}
}

// exitStatus runs a command and checks its exit status, and that wrong use and
// failures that are not told line by line come with an error.
func exitStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("running %v: %v", args[1:], err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("%v ended with status %d, not %s", args[1:], got, args[0])
	}
}

// writeRequests writes a batch file of so many requests.
func writeRequests(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `{"custom_id":"r%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":"Question %d. The answer is %d."}]}}`+"\n", i, i, i)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text.String()), 0o600))
}
