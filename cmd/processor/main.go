// Command processor is an event-streaming stream processor for LLM requests on
// NATS JetStream.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the command line. Each command is a file of its own.
type cli struct {
	Config string `placeholder:"FILE" help:"The configuration; processor.yaml where that exists."`
	NATS   string `name:"nats" placeholder:"URL" help:"The NATS server, in place of the configured one."`

	Run       runCmd       `cmd:"" help:"Serve: work on requests until a signal comes."`
	Batch     batchCmd     `cmd:"" help:"Answer the requests of a file in OpenAI's batch format."`
	Ask       askCmd       `cmd:"" help:"Publish one request and print its answer."`
	Status    statusCmd    `cmd:"" help:"Say where a request is."`
	Cancel    cancelCmd    `cmd:"" help:"End a request."`
	Dead      deadCmd      `cmd:"" help:"Look at requests that were given up, and publish them again."`
	Tenant    tenantCmd    `cmd:"" help:"Work on what is kept of a tenant."`
	Cache     cacheCmd     `cmd:"" help:"Work on the shared cache of answers."`
	Budget    budgetCmd    `cmd:"" help:"Work on the budgets of tenants."`
	Template  templateCmd  `cmd:"" help:"Store, compare and render prompt templates."`
	Top       topCmd       `cmd:"" help:"Show rates, lag, latency, budgets and models live."`
	Models    modelsCmd    `cmd:"" help:"Show what was measured of models: quality, speed, cost."`
	Replay    replayCmd    `cmd:"" help:"Evaluate a change on recorded traffic."`
	Dataset   datasetCmd   `cmd:"" help:"Move recorded traffic between the archive and files."`
	Tokens    tokensCmd    `cmd:"" help:"Count the tokens of texts and of requests."`
	Compress  compressCmd  `cmd:"" help:"Compress a text, or each request of a .jsonl file."`
	Score     scoreCmd     `cmd:"" help:"Judge the answers of a .jsonl file."`
	Health    healthCmd    `cmd:"" help:"Ask the process that serves on this machine whether it is ready."`
	Provision provisionCmd `cmd:"" help:"Set up all streams, buckets and consumers."`
	Doctor    doctorCmd    `cmd:"" help:"Check everything that a deployment needs, and say what to do about it."`
	Settings  configCmd    `cmd:"" name:"config" help:"Check and show the configuration."`
	Version   versionCmd   `cmd:"" help:"Print the version."`
	Markdown  markdownCmd  `cmd:"" hidden:"" help:"Print this command line as Markdown."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes a command line and gives the exit status: 0 done, 1 failed, 2
// wrong use.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) (status int) {
	var flags cli
	defer recoverExit(&status)
	parser, err := kong.New(&flags,
		kong.Name("processor"),
		kong.Description("An event-streaming stream processor for LLM requests on NATS JetStream.\n\n"+
			"Requests are compressed, looked up in a cache, batched, generated and scored. "+
			"Without a server, run, batch and ask start one in this process; without a provider, a model is simulated."),
		kong.Writers(stdout, stderr), kong.Exit(exit), kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
	)
	if err != nil {
		return report(stderr, err)
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if err != nil {
		return report(stderr, wrongUse(inWords(err), helpFor(err)))
	}
	a := &app{ctx: ctx, flags: &flags, stdin: stdin, stdout: stdout, stderr: stderr}
	return report(stderr, command.Run(a, parser))
}

// inWords says that a flag has no value where the parser speaks of its tokens.
func inWords(err error) error {
	if flag, what, ok := strings.Cut(err.Error(), ": expected "); ok && strings.Contains(what, `got "EOL"`) {
		return fmt.Errorf("%s needs a value", flag)
	}
	return err
}

// helpFor gives the command line that explains the command that was used wrongly.
func helpFor(err error) string {
	if parse, ok := errors.AsType[*kong.ParseError](err); ok {
		if command, _, _ := strings.Cut(parse.Context.Command(), " <"); command != "" {
			return "processor " + command + " --help"
		}
	}
	return "processor --help"
}

// exited is how kong's own exit, after it has printed help, leaves run.
type exited int

func exit(status int) { panic(exited(status)) }

func recoverExit(status *int) {
	switch r := recover().(type) {
	case nil:
	case exited:
		*status = int(r)
	default:
		panic(r)
	}
}
