package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/proc"
)

// runReplay measures replays against the live pipeline on the same machine in
// the same run: how fast one is whose answers are all recorded, and what one at
// low priority leaves to the pipeline beside it. With -memory it measures what
// memory a replay takes instead.
func runReplay(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("replay", flag.ContinueOnError)
	b := pipelineBench{out: out}
	flags.IntVar(&b.requests, "requests", 20_000, "requests a measurement")
	turns := flags.Int("turns", 3, "turns; figures are medians")
	memory := flags.Bool("memory", false, "measure the memory of replays of a hundredth, a tenth and all of the requests")
	if err := flags.Parse(args); err != nil {
		return err
	}
	remove, err := b.build(ctx, "replay")
	if err != nil {
		return err
	}
	defer remove()
	if *memory {
		return b.replayMemory(ctx)
	}
	var live, replayed, full, beside, liveCPU, replayCPU []float64
	for range *turns {
		r, err := b.replayTurn(ctx)
		if err != nil {
			return err
		}
		live, replayed = append(live, r.live), append(replayed, r.replay)
		full, beside = append(full, r.replay/r.live), append(beside, r.beside/r.alone)
		liveCPU, replayCPU = append(liveCPU, b.each(r.liveCPU)), append(replayCPU, b.each(r.replayCPU))
		fmt.Fprintf(out, "turn: live %.0f/s, replay %.0f/s (%.2f); live alone %.0f/s, beside a replay %.0f/s (%.2f); processor time of a request: live %.0f us, replay %.0f us\n",
			r.live, r.replay, r.replay/r.live, r.alone, r.beside, r.beside/r.alone, b.each(r.liveCPU), b.each(r.replayCPU))
	}
	fmt.Fprintf(out, "\n| | median |\n| --- | --- |\n| live pipeline, five groups, HTTP upstream, requests/s | %.0f |\n| replay at max with a full cassette, requests/s | %.0f |\n| replay of the live rate | %.2f |\n| live rate beside a replay at low priority, of the rate alone | %.2f |\n",
		median(live), median(replayed), median(full), median(beside))
	fmt.Fprintf(out, "| processor time of a live request, all processes, us | %.0f |\n| processor time of a replayed request, all processes, us | %.0f |\n", median(liveCPU), median(replayCPU))
	return nil
}

// each gives microseconds a request.
func (b *pipelineBench) each(all time.Duration) float64 {
	return float64(all.Microseconds()) / float64(b.requests)
}

type replayRates struct {
	live, replay, alone, beside float64
	liveCPU, replayCPU          time.Duration // of all processes
}

func (b *pipelineBench) replayTurn(ctx context.Context) (r replayRates, err error) {
	sc := scenario{"replay", true, fiveGroups, true, ""}
	s, err := b.start(ctx, sc, 0, nil)
	if err != nil {
		return r, err
	}
	defer s.close()
	batch := 0
	measure := func() (float64, error) {
		begin := time.Now()
		if err := s.publishFrom(batch*b.requests, b.requests); err != nil {
			return 0, err
		}
		batch++
		if err := s.awaitResponses(ctx, batch*b.requests); err != nil {
			return 0, fmt.Errorf("%w\n%s", err, s.log.String())
		}
		return float64(b.requests) / time.Since(begin).Seconds(), nil
	}
	before := s.used() + usedHere()
	if r.live, err = measure(); err != nil {
		return r, err
	}
	r.liveCPU = s.used() + usedHere() - before
	begin, before := time.Now(), s.used()
	replay := b.replayOnce(ctx, "full")
	if err := replay.Run(); err != nil {
		return r, fmt.Errorf("replaying: %w", err)
	}
	r.replay = float64(b.requests) / time.Since(begin).Seconds()
	r.replayCPU = s.used() - before + usedBy(replay)
	if r.alone, err = measure(); err != nil {
		return r, err
	}
	low := b.replayOnce(ctx, "low", "--priority", "low")
	if err := low.Start(); err != nil {
		return r, err
	}
	end := sync.OnceFunc(func() { _ = low.Process.Kill(); _ = low.Wait() })
	defer end()
	if r.beside, err = measure(); err != nil {
		return r, err
	}
	end()
	after, err := measure() // the rate drifts as the streams grow
	r.alone = (r.alone + after) / 2
	return r, err
}

// used gives the processor time that the processes of a setting have used.
func (s *setting) used() time.Duration { return cpuTime(s.nats, s.upstream, s.processor) }

// cpuTime gives the processor time that processes have used; one may be nil.
func cpuTime(processes ...*proc.Process) (sum time.Duration) {
	for _, p := range processes {
		if p == nil {
			continue
		}
		if used, err := p.CPUTime(); err == nil {
			sum += used
		}
	}
	return sum
}

// usedHere gives the processor time of this process.
func usedHere() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// usedBy gives the processor time of a command that has ended.
func usedBy(cmd *exec.Cmd) time.Duration {
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// replayOnce makes the command that replays everything with the same configuration.
func (b *pipelineBench) replayOnce(ctx context.Context, state string, more ...string) *exec.Cmd {
	configuration := filepath.Join(b.dir, "processor.yaml")
	dir := filepath.Join(b.dir, "state-"+state)
	_ = os.RemoveAll(dir)
	args := append([]string{"replay", "--config", configuration, "--candidate", configuration, "--cassette", "--state", dir}, more...)
	cmd := exec.CommandContext(ctx, b.program, args...)
	cmd.Stderr = os.Stderr
	return cmd
}

// publishFrom publishes requests with the prompts from a number on.
func (s *setting) publishFrom(first, requests int) error {
	for i := range requests {
		m := nats.NewMsg("llm.requests.bench")
		m.Data = prompt(first + i)
		if _, err := s.js.PublishMsgAsync(m, jetstream.WithStallWait(10*time.Second)); err != nil {
			return err
		}
	}
	<-s.js.PublishAsyncComplete()
	return nil
}
