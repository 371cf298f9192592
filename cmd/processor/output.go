package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// output is where a command's lines go: a stream, or a file that gets its name
// once it is whole. It is safe for concurrent use.
type output struct {
	mu     sync.Mutex
	buffer *bufio.Writer
	file   *os.File // nil for a stream
	path   string   // that the file gets; "" where it has its name already
	ended  bool
}

// openOutput opens path, or takes the stream where path is empty. A regular file
// is written beside its place, as path.part, so that whoever finds it finds it
// whole. A run that goes on after an interruption writes it anew.
func openOutput(path string, stream io.Writer) (*output, error) {
	if path == "" {
		return &output{buffer: bufio.NewWriterSize(stream, 64<<10)}, nil
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { // such as /dev/null
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return nil, wrongUse(fmt.Errorf("opening the output: %w", err), "name a file that can be written")
		}
		return &output{buffer: bufio.NewWriterSize(f, 64<<10), file: f}, nil
	}
	f, err := os.Create(path + ".part")
	if err != nil {
		return nil, wrongUse(fmt.Errorf("making the output: %w", err), "name a file in a directory that exists and can be written")
	}
	return &output{buffer: bufio.NewWriterSize(f, 64<<10), file: f, path: path}, nil
}

func (o *output) write(line []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, err := o.buffer.Write(line); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

// flush shows what was written so far.
func (o *output) flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.buffer.Flush(); err != nil {
		return fmt.Errorf("writing the output: %w", err)
	}
	return nil
}

// commit ends the output and gives the file its name.
func (o *output) commit() error {
	if o.ended {
		return nil
	}
	if err := o.abandon(); err != nil || o.path == "" {
		return err
	}
	if err := os.Rename(o.path+".part", o.path); err != nil {
		return fmt.Errorf("naming the output: %w", err)
	}
	return nil
}

// abandon ends the output and leaves what it holds where it is.
func (o *output) abandon() error {
	if o.ended {
		return nil
	}
	o.ended = true
	err := o.flush()
	if o.file != nil {
		err = errors.Join(err, o.file.Close())
	}
	return err
}
