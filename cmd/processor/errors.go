package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/nats-io/nats.go"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/streams"
	"github.com/adpa/processor/streams/embedded"
)

// commandError is an error with what to do about it.
type commandError struct {
	err   error
	try   string
	usage bool // the command line or the configuration is at fault
}

func (e *commandError) Error() string { return e.err.Error() }
func (e *commandError) Unwrap() error { return e.err }

// wrongUse makes an error of the command line, with the right use.
func wrongUse(err error, try string) error { return &commandError{err, try, true} }

// hint adds to an error what to try.
func hint(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &commandError{err, fmt.Sprintf(format, args...), false}
}

// errFailed ends a command that has told already what failed.
var errFailed = errors.New("failed")

// report prints an error and gives the exit status.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, errFailed) {
		return 1
	}
	fmt.Fprintln(stderr, "error:", err)
	e := advise(err)
	if e.try != "" {
		fmt.Fprintln(stderr, "try:", e.try)
	}
	if e.usage {
		return 2
	}
	return 1
}

// advise finds out what to do about an error that came without advice.
func advise(err error) *commandError {
	var own *commandError
	var settings *config.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &settings):
		return &commandError{err, "correct the configuration; processor config show prints the one in force, docs/configuration.md explains every key", true}
	case errors.Is(err, streams.ErrNoStreams):
		return &commandError{err, "processor provision, or start processor run on that server", false}
	case errors.Is(err, embedded.ErrDirInUse):
		return &commandError{err, "use the server of that process with --nats URL, or set nats.embedded.dir", false}
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired):
		return &commandError{err, "check nats.creds, nats.nkey or the user in nats.url", false}
	case errors.Is(err, nats.ErrMaxPayload):
		return &commandError{err, "make the request shorter, or raise max_payload of the server; processor doctor says how many bytes one may have", false}
	case errors.Is(err, context.Canceled):
		return &commandError{err, "", false}
	}
	return &commandError{err: err}
}
