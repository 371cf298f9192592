package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
)

// topCmd shows a deployment live.
type topCmd struct {
	Once     bool          `help:"Print one frame and end."`
	Interval time.Duration `default:"1s" placeholder:"TIME" help:"Between frames, 100ms to 1h."`
	jsonFlag
}

// Help says what the figures are.
func (*topCmd) Help() string {
	return "Rates are means since the frame before. Waited is how long requests had waited when a stage took them, worked how long the stage " +
		"had them; these and the hit rate are since the replicas began where nothing came since the frame before. " +
		"Columns that do not fit are left out. q ends it. NO_COLOR switches colours off; without a terminal, frames are printed one after the other."
}

const (
	leastInterval = 100 * time.Millisecond
	mostInterval  = time.Hour
	// patience is how long a server may be away before that ends the view.
	patience = 30 * time.Second
	// plainWidth is the width of frames that go to no terminal, unless COLUMNS
	// says otherwise.
	plainWidth = 120
)

// Run shows frames until q, a signal, or the first one with --once.
func (c *topCmd) Run(a *app) error {
	if c.Interval < leastInterval || c.Interval > mostInterval {
		return wrongUse(fmt.Errorf("--interval: %v is not within %v and %v", c.Interval, leastInterval, mostInterval), "processor top --interval 2s")
	}
	cfg, err := a.load()
	if err != nil {
		return err
	}
	w, err := a.openWatcher(cfg)
	if err != nil {
		return err
	}
	defer w.close()
	if _, terminal := onTerminal(a.stdout); terminal && !c.Once && !c.JSON {
		return c.live(a, w)
	}
	return c.each(a.ctx, w, func(f *frame) error { return c.print(a, f) })
}

// each makes frames at the interval until ctx ends.
func (c *topCmd) each(ctx context.Context, w *watcher, show func(*frame) error) error {
	was, err := w.sample(ctx)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(c.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		is, err := w.sample(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if c.Once || time.Since(was.at) > patience {
				return err
			}
			continue // the server may be back in a moment
		}
		if err := show(newFrame(was, is)); err != nil || c.Once {
			return err
		}
		was = is
	}
}

// print writes a frame where there is no terminal to draw on.
func (c *topCmd) print(a *app, f *frame) error {
	if c.JSON {
		return printJSON(a.stdout, []*frame{f})
	}
	columns, terminal := onTerminal(a.stdout)
	if !terminal {
		columns = plainWidth
		if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n >= 20 {
			columns = n
		}
	}
	text := strings.Join(f.lines(columns, 0, terminal && colours()), "\n") + "\n"
	if !c.Once {
		text += "\n"
	}
	_, err := fmt.Fprint(a.stdout, text)
	return err
}

// colours reports whether the terminal is to be given any.
func colours() bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// live draws on the terminal until q or a signal, and leaves it as it was.
func (c *topCmd) live(a *app, w *watcher) error {
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	restore := a.takeKeys(cancel)
	defer restore()
	const enter, leave = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
	fmt.Fprint(a.stdout, enter+"\x1b[2J\x1b[Hlooking ...")
	defer fmt.Fprint(a.stdout, leave)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)

	frames, failed := make(chan *frame), make(chan error, 1)
	go func() {
		failed <- c.each(ctx, w, func(f *frame) error {
			select {
			case frames <- f:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	var last *frame
	for {
		select {
		case err := <-failed:
			return err
		case last = <-frames:
		case <-resized:
		}
		if last != nil {
			a.draw(last)
		}
	}
}

// draw writes a frame over the one before, in one write, so that nothing flickers.
func (a *app) draw(f *frame) {
	columns, rows := 80, 24
	if out, ok := a.stdout.(*os.File); ok {
		if w, h, err := term.GetSize(int(out.Fd())); err == nil && w > 0 && h > 0 {
			columns, rows = w, h
		}
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range f.lines(columns, rows, colours()) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString("\x1b[K" + line) // first, for the last letter may be at the edge
	}
	b.WriteString("\x1b[J")
	fmt.Fprint(a.stdout, b.String())
}

// takeKeys reads keys as they are pressed: q and Ctrl-C call quit. restore gives
// the terminal its ways back.
func (a *app) takeKeys(quit func()) (restore func()) {
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return func() {}
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return func() {}
	}
	go func() { // ends with the process: reading a terminal cannot be broken off
		key := make([]byte, 1)
		for {
			n, err := in.Read(key)
			const ctrlC, ctrlD = 3, 4
			if n == 1 && (key[0] == 'q' || key[0] == 'Q' || key[0] == ctrlC || key[0] == ctrlD) {
				quit()
				return
			}
			if err != nil && !errors.Is(err, syscall.EINTR) {
				return
			}
		}
	}()
	return func() { _ = term.Restore(int(in.Fd()), before) }
}
