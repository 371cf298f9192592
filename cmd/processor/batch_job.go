package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

const (
	// lookAhead and lookAheadBytes bound the lines for which stored responses
	// are looked up at a time.
	lookAhead      = 256
	lookAheadBytes = 4 << 20
	// maxBatchLines bounds the custom ids that are remembered, as 16 bytes each.
	maxBatchLines = 5_000_000
)

// batchJob brings the lines of one file through the pipeline. What it holds is
// bounded by the exchange's window and the look-ahead, but for a hash of each
// custom id.
type batchJob struct {
	client   *streams.Client
	out      *output
	errs     *output
	tally    *tally
	fresh    bool
	salt     string
	maxLine  int
	buffer   int // for reading the file, in bytes
	exchange *streams.Exchange
	seen     map[[16]byte]struct{}

	mu     sync.Mutex
	custom map[string]string // the custom ids of the requests under way, by request id
}

// request is a line that is one.
type request struct {
	id       string
	customID string
	body     []byte
}

// run publishes the lines and writes the answers. complete is false where it
// ended before every line had one.
func (j *batchJob) run(ctx context.Context, x *streams.Exchange, input io.Reader) (complete bool, err error) {
	j.exchange, j.seen = x, map[[16]byte]struct{}{}
	if j.fresh {
		j.salt = streams.NewID()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	fed := make(chan error, 1)
	go func() {
		err := j.feed(ctx, input)
		x.Finish()
		fed <- err
	}()
	complete, err = j.collect()
	if !complete {
		cancel() // so that nothing more is sent
	}
	feeding := <-fed
	if err == nil && !errors.Is(feeding, context.Canceled) {
		err = feeding
	}
	return complete && feeding == nil, err
}

// collect writes answers until all have come or the exchange ends.
func (j *batchJob) collect() (complete bool, err error) {
	for {
		select {
		case answer, more := <-j.exchange.Answers():
			if !more {
				err := j.flush()
				return err == nil, err
			}
			if err := j.answered(answer); err != nil {
				return false, err
			}
			if len(j.exchange.Answers()) == 0 {
				if err := j.flush(); err != nil {
					return false, err
				}
			}
		case <-j.exchange.Done():
			return false, j.flush()
		}
	}
}

// flush shows the answers and the failures so far, which may go to one output.
func (j *batchJob) flush() error {
	if err := j.out.flush(); err != nil || j.errs == j.out {
		return err
	}
	return j.errs.flush()
}

func (j *batchJob) answered(answer streams.Answer) error {
	j.mu.Lock()
	customID := j.custom[answer.ID]
	delete(j.custom, answer.ID)
	j.mu.Unlock()
	if answer.Err != nil {
		result := schemas.NewBatchFailure(customID, 0, schemas.Invalid(schemas.CodeTooLarge, "body", "%v", answer.Err))
		result.ID = "batch_req_" + answer.ID
		j.tally.add(nil, true, false)
		return j.errs.line(&result)
	}
	return j.write(customID, answer.ID, answer.Body, false)
}

// write writes the line of a response. earlier says that it was stored before
// this run.
func (j *batchJob) write(customID, id string, response []byte, earlier bool) error {
	result, failed := schemas.NewBatchResult(customID, id, response)
	j.tally.add(response, failed, earlier)
	if failed {
		return j.errs.line(&result)
	}
	return j.out.line(&result)
}

// fail writes the line of what was never a request.
func (j *batchJob) fail(customID string, number int, err error) error {
	result := schemas.NewBatchFailure(customID, number, err)
	j.tally.add(nil, true, false)
	return j.errs.line(&result)
}

// feed reads the input to its end and sends what is not answered yet.
func (j *batchJob) feed(ctx context.Context, input io.Reader) error {
	reader := lineReader(input, j.buffer)
	var ahead []request
	size := 0
	for number := 1; ; number++ {
		text, length, err := readLine(reader, j.maxLine)
		j.tally.read(length)
		if errors.Is(err, io.EOF) && length == 0 {
			return j.send(ctx, ahead)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return errors.Join(fmt.Errorf("reading line %d: %w", number, err), j.send(ctx, ahead))
		}
		r, ok, err := j.parse(text, length, number)
		if err != nil {
			return err
		}
		if ok {
			ahead, size = append(ahead, r), size+len(r.body)
		}
		if len(ahead) >= lookAhead || size >= lookAheadBytes {
			if err := j.send(ctx, ahead); err != nil {
				return err
			}
			ahead, size = ahead[:0], 0
		}
	}
}

// lineReader reads lines of an input, without the byte order mark that some
// programs put before the first.
func lineReader(input io.Reader, buffer int) *bufio.Reader {
	const mark = "\xef\xbb\xbf"
	r := bufio.NewReaderSize(input, buffer)
	if start, _ := r.Peek(len(mark)); string(start) == mark { // an error comes again with the first line
		_, _ = r.Discard(len(mark))
	}
	return r
}

// readLine reads a line without its end. Of one that is longer than most it
// gives nothing but the length.
func readLine(r *bufio.Reader, most int) (text []byte, length int, err error) {
	for {
		part, err := r.ReadSlice('\n')
		length += len(part)
		if length <= most {
			text = append(text, part...)
		} else {
			text = nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSpace(text), length, err
		}
	}
}

// parse makes a request of a line; ok is false for lines that are none, which
// are answered with an error line, and for empty ones.
func (j *batchJob) parse(text []byte, length, number int) (r request, ok bool, err error) {
	if length > j.maxLine {
		return r, false, j.fail("", number, schemas.Invalid(schemas.CodeTooLarge, "", "the line has %d bytes, at most %d are allowed", length, j.maxLine))
	}
	if len(text) == 0 {
		return r, false, nil
	}
	line, lineErr := schemas.ParseBatchLine(text)
	if lineErr == nil {
		lineErr, err = j.unique(line.CustomID)
	}
	if err != nil {
		return r, false, err
	}
	if lineErr != nil {
		return r, false, j.fail(line.CustomID, number, lineErr)
	}
	r = request{id: j.requestID(&line), customID: line.CustomID, body: line.Body}
	if j.fresh {
		r.body = refreshed(r.body)
	}
	return r, true, nil
}

// unique remembers a custom id; lineErr says that it came before.
func (j *batchJob) unique(customID string) (lineErr, err error) {
	sum := sha256.Sum256([]byte(customID))
	key := [16]byte(sum[:])
	if _, again := j.seen[key]; again {
		return schemas.Invalid(schemas.CodeInvalidField, "custom_id", "custom_id %.80q stands on an earlier line; it must be unique", customID), nil
	}
	if len(j.seen) >= maxBatchLines {
		return nil, hint(fmt.Errorf("the file has more than %d lines", maxBatchLines), "split it")
	}
	j.seen[key] = struct{}{}
	return nil, nil
}

// requestID makes the id of a line: the same for the same line, so that what was
// answered before is found.
func (j *batchJob) requestID(line *schemas.BatchLine) string {
	h := sha256.New()
	for _, part := range []string{j.salt, line.CustomID, line.URL} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	_, _ = h.Write(line.Body)
	return "b-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// refreshed asks for an answer that does not come from the cache. What the
// processor object holds otherwise stays.
func refreshed(body []byte) []byte {
	options, cache := []byte("{}"), []byte("{}")
	if span, ok := schemas.Member(body, "processor"); ok {
		options = span.Of(body)
	}
	if span, ok := schemas.Member(options, "cache"); ok {
		cache = span.Of(options)
	}
	if options[0] != '{' || cache[0] != '{' {
		return body // is answered with an error that names the field
	}
	cache = schemas.SetMember(cache, "mode", []byte(`"refresh"`))
	return schemas.SetMember(body, "processor", schemas.SetMember(options, "cache", cache))
}

// send writes what was answered before and publishes the rest.
func (j *batchJob) send(ctx context.Context, requests []request) error {
	if len(requests) == 0 {
		return nil
	}
	stored := map[string][]byte{}
	if !j.fresh {
		ids := make([]string, len(requests))
		for i, r := range requests {
			ids[i] = r.id
		}
		var err error
		if stored, err = j.client.Lookup(ctx, ids); err != nil {
			return fmt.Errorf("looking for answers of an earlier run: %w", err)
		}
	}
	for _, r := range requests {
		if body, ok := stored[r.id]; ok {
			if err := j.write(r.customID, r.id, body, true); err != nil {
				return err
			}
			continue
		}
		j.mu.Lock()
		j.custom[r.id] = r.customID
		j.mu.Unlock()
		if err := j.exchange.Send(ctx, streams.Message{ID: r.id, Class: schemas.Batch, Body: r.body}); err != nil {
			return err
		}
	}
	return nil
}

// line writes one output line.
func (o *output) line(result *schemas.BatchResult) error {
	text, err := json.Marshal(result)
	if err != nil {
		return fmt.Errorf("encoding the output line: %w", err)
	}
	return o.write(append(text, '\n'))
}
