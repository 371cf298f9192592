// Package proc starts the processes that a benchmark or a crash test needs: a
// NATS server, an upstream and processors, each a real process that can be killed.
package proc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/adpa/processor/internal/fakellm"
)

// Child is set in the environment of a process that Main is to play a role in.
const Child = "PROCESSOR_BENCH_CHILD"

// Main plays the role of a child where the environment says so, and never
// returns then. A program that uses this package calls it first.
func Main() {
	role := os.Getenv(Child)
	if role == "" {
		return
	}
	name, args, _ := strings.Cut(role, " ")
	var err error
	switch name {
	case "nats":
		err = playServer(strings.Fields(args))
	case "node":
		err = playNode(strings.Fields(args))
	case "upstream":
		err = playUpstream(strings.Fields(args))
	default:
		err = fmt.Errorf("%q is no role", name)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// playServer runs a NATS server: directory and port.
func playServer(args []string) error {
	port, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		ServerName: "bench", Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: args[0],
		JetStreamMaxStore: 1 << 50, JetStreamMaxMemory: 4 << 30, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return err
	}
	go s.Start()
	if !s.ReadyForConnections(30 * time.Second) {
		return errors.New("the NATS server did not start")
	}
	fmt.Println(s.ClientURL())
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent ends
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// playUpstream runs the fake upstream: latency, whether to count calls, and what
// else it is to do, as limit=10.
func playUpstream(args []string) error {
	latency, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	cfg := fakellm.Config{Latency: latency, Count: args[1] == "count"}
	if err := misbehave(&cfg, args[2:]); err != nil {
		return err
	}
	s, err := fakellm.Listen(cfg)
	if err != nil {
		return err
	}
	fmt.Println(s.URL)
	defer s.Close()
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() { // each line asks for the figures
		stats := s.Stats()
		fmt.Printf("%d %d %d %d %d\n", stats.Calls, stats.Repeats, stats.Connections, stats.HighWater, stats.PromptTokens+stats.CompletionTokens)
	}
	return in.Err()
}

// misbehave sets what an upstream does beside answering: limit=N refuses calls
// above so many in flight, retry_after=D asks those to wait, failures=S fails a
// share of all, and text=N answers with so many bytes of text.
func misbehave(cfg *fakellm.Config, args []string) (err error) {
	for _, arg := range args {
		name, value, _ := strings.Cut(arg, "=")
		switch name {
		case "limit":
			cfg.Limit, err = strconv.Atoi(value)
		case "retry_after":
			cfg.RetryAfter, err = time.ParseDuration(value)
		case "failures":
			var share float64
			share, err = strconv.ParseFloat(value, 64)
			cfg.Failures = map[int]float64{500: share}
		case "text":
			var size int
			size, err = strconv.Atoi(value)
			cfg.Text = strings.Repeat("words ", size/6+1)
		default:
			err = fmt.Errorf("an upstream knows no %q", name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Process is a child process.
type Process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	URL string // what it printed first, where it prints an address
}

// Start runs a role of Main in a child of this program and waits for its address.
func Start(ctx context.Context, role string) (*Process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), Child+"="+role)
	p, err := begin(cmd)
	if err != nil {
		return nil, err
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.Kill()
		return nil, fmt.Errorf("starting %s: %w", role, err)
	}
	p.URL = strings.TrimSpace(line)
	return p, nil
}

// Command runs a program; what it says on standard error goes to log.
func Command(ctx context.Context, log io.Writer, program string, args ...string) (*Process, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = log
	return begin(cmd)
}

func begin(cmd *exec.Cmd) (*Process, error) {
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return &Process{cmd: cmd, in: in, out: bufio.NewReader(out)}, nil
}

// UpstreamStats asks an upstream for its figures.
func (p *Process) UpstreamStats() (calls, repeats, connections, highWater int, err error) {
	calls, repeats, connections, highWater, _, err = p.upstreamFigures()
	return
}

// UpstreamBill asks an upstream for the tokens that it has billed so far, and for how many calls.
func (p *Process) UpstreamBill() (tokens, calls int, err error) {
	calls, _, _, _, tokens, err = p.upstreamFigures()
	return
}

func (p *Process) upstreamFigures() (calls, repeats, connections, highWater, tokens int, err error) {
	if _, err = io.WriteString(p.in, "\n"); err != nil {
		return
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		return
	}
	_, err = fmt.Sscan(line, &calls, &repeats, &connections, &highWater, &tokens)
	return
}

// Kill ends the process with SIGKILL and waits for it.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// Freeze stops the process where it is (SIGSTOP).
func (p *Process) Freeze() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// Stop asks the process to end (SIGTERM) and waits for it.
func (p *Process) Stop() error {
	_ = p.in.Close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return p.cmd.Wait()
}

// Signal sends a signal to the process.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Ended reports whether the process has ended, and reaps it then.
func (p *Process) Ended() bool {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(p.cmd.Process.Pid, &status, syscall.WNOHANG, nil)
	return err != nil || pid == p.cmd.Process.Pid
}

// ResidentBytes is the memory that the process has in RAM.
func (p *Process) ResidentBytes() (int64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "statm"))
	if err != nil {
		return 0, err
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(text), &size, &resident); err != nil {
		return 0, err
	}
	return resident * int64(os.Getpagesize()), nil
}

// CPUTime is the processor time that the process has used so far.
func (p *Process) CPUTime() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "stat"))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	if err != nil {
		return 0, err
	}
	return time.Duration(user+system) * time.Second / 100, nil
}

// Run runs a program to its end and gives what it printed.
func Run(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	return string(out), err
}

// Build compiles the processor into dir and gives the program's path.
func Build(ctx context.Context, dir string, flags ...string) (string, error) {
	program := filepath.Join(dir, "processor")
	args := append(append([]string{"build"}, flags...), "-o", program, "github.com/adpa/processor/cmd/processor")
	cmd := exec.CommandContext(ctx, "go", args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the processor: %w\n%s", err, out)
	}
	return program, nil
}
