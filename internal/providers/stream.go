package providers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/adpa/processor/schemas"
)

// events turns the events of one stream into chunks in OpenAI's form.
type events interface {
	// event reads one event and emits the chunks that it makes, if any; data and
	// the chunks are valid during the call only. done says that the provider
	// ended the stream. An error of emit is to be returned as it is.
	event(name string, data []byte, emit func(chunk []byte) error) (done bool, err error)
}

// drainTime is how long the end of a response may take after the end of its stream.
const drainTime = time.Second

// readStream reads a streamed answer, hands its chunks on as they come, and
// gives the whole. It ends the exchange.
func (x *exchange) readStream(response *http.Response, call *schemas.Call) (schemas.Answer, error) {
	s := stream{x: x, call: call, assembler: newAssembler(x.remote.cfg.MaxResponse), usageAsked: UsageAsked(call.Body)}
	done, err := s.read(response.Body)
	if err != nil {
		x.end(response)
		var e *schemas.CallError
		if !errors.As(err, &e) {
			e = s.broken(response, err)
		}
		e.Message = x.remote.redact(e.Message)
		return schemas.Answer{}, e
	}
	answer := s.assembler.answer()
	if done {
		go x.drain(response)
	} else {
		x.end(response)
	}
	return answer, nil
}

// drain waits for the end of a response whose stream is over, so that its
// connection can be used again. It follows at once as a rule, but the answer
// need not wait for it.
func (x *exchange) drain(response *http.Response) {
	timer := time.AfterFunc(drainTime, x.cancel)
	defer timer.Stop()
	_, _ = io.CopyN(io.Discard, response.Body, 4<<10)
	x.end(response)
}

type stream struct {
	x          *exchange
	call       *schemas.Call
	assembler  *assembler
	usageAsked bool
}

// read reads until the stream is over, and tells whether the provider said so.
// Without that the answer is whole if each choice has its finish reason: then
// only the usage is unknown, and nothing need be bought again.
func (s *stream) read(body io.Reader) (done bool, err error) {
	reader, translate := newSSEReader(body, s.x.remote.cfg.MaxResponse), s.x.remote.dialect.stream(s.call)
	for !done {
		name, data, err := reader.next()
		if err == nil {
			done, err = translate.event(name, data, s.emit)
		} else if s.whole(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	if s.assembler.finished() == 0 {
		return true, errNoFinish
	}
	return true, nil
}

// whole tells whether all was there when the stream ended as err says. Where it
// was cut off, choices may be missing that had not begun.
func (s *stream) whole(err error) bool {
	switch {
	case errors.Is(err, errEventTooLarge):
		return false
	case errors.Is(err, io.EOF):
		return s.assembler.finished() > 0
	}
	return s.assembler.finished() >= choicesAsked(s.call.Body)
}

var errNoFinish = errors.New("the stream ended without a finish reason")

func (s *stream) emit(chunk []byte) error {
	usageOnly, err := s.assembler.add(chunk)
	if err == nil && (!usageOnly || s.usageAsked) {
		s.call.Delta(chunk)
	}
	return err
}

// broken makes the error of a stream that did not end as it should. What of it
// was billed is unknown, unless the provider had said so before.
func (s *stream) broken(response *http.Response, err error) *schemas.CallError {
	e := &schemas.CallError{Status: response.StatusCode, Code: schemas.CodeProviderError, Retryable: true, Err: err}
	switch {
	case errors.Is(err, errEventTooLarge), errors.Is(err, errTooLarge):
		e = s.x.tooLarge(response.StatusCode)
	case errors.Is(err, errNoFinish), errors.Is(err, io.EOF):
		e.Message = errNoFinish.Error()
	case errors.Is(err, errNotObject):
		e.Message = "an event of the stream is no valid JSON object"
	default:
		e = s.x.cutOff(err)
	}
	e.Usage = s.assembler.usage()
	return e
}

// UsageAsked tells whether the application asked for the usage in a chunk of its own;
// others are not prepared for a chunk without choices.
func UsageAsked(body []byte) bool {
	options, ok := schemas.Member(body, "stream_options")
	if !ok {
		return false
	}
	asked, ok := schemas.Member(options.Of(body), "include_usage")
	return ok && string(asked.Of(options.Of(body))) == "true"
}

// choicesAsked gives how many choices a request asks for.
func choicesAsked(body []byte) int {
	if span, ok := schemas.Member(body, "n"); ok {
		if n, err := strconv.Atoi(string(span.Of(body))); err == nil {
			return max(n, 1)
		}
	}
	return 1
}

// pause waits, or gives the context's error if that ends first.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting: %w", ctx.Err())
	}
}
