package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/config"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/streams"
)

const (
	// recordSlice is how many requests get their responses in one round trip.
	recordSlice = 256
	// maxRatings bounds the feedback that is held in memory; the newest counts.
	maxRatings = 500_000
	// lowPause is the rest after each read for a replay of low priority: at most a
	// thousand requests a second, a fifth of what two processors bring through the pipeline.
	lowPause = 250 * time.Millisecond
)

// replaySelection says which requests are wanted.
type replaySelection struct {
	Since  string `placeholder:"AGE|TIME" help:"Requests from then on: an age such as 24h, or a time (RFC 3339)."`
	Until  string `placeholder:"AGE|TIME" help:"Requests before then."`
	Tenant string `placeholder:"T" help:"Requests of one tenant."`
	Model  string `placeholder:"M" help:"Requests for one model, as they name it."`
	Route  string `placeholder:"R" help:"Requests of one route."`
	Limit  int    `placeholder:"N" help:"The first N of them."`
	Sample string `placeholder:"5%" help:"A share of them, chosen by their ids and the seed."`
	Seed   uint64 `default:"1" help:"Of everything that is left to chance."`

	since, until time.Time
	share        float64
}

func (s *replaySelection) check(now time.Time) (err error) {
	if s.since, err = readTime("--since", s.Since, now); err != nil {
		return err
	}
	if s.until, err = readTime("--until", s.Until, now); err != nil {
		return err
	}
	s.share = 1
	switch {
	case s.Tenant != "" && !schemas.ValidName(s.Tenant):
		return wrongUse(fmt.Errorf("--tenant: %.80q is not 1 to 64 characters of A-Z a-z 0-9 _ -", s.Tenant), "--tenant acme")
	case s.Limit < 0:
		return wrongUse(fmt.Errorf("--limit: %d is less than 1", s.Limit), "--limit 1000")
	case s.Limit > 0 && s.Sample != "":
		return wrongUse(errors.New("--limit and --sample stand beside each other; give one of them"), "--sample 5%")
	case !s.until.IsZero() && !s.since.IsZero() && !s.since.Before(s.until):
		return wrongUse(errors.New("--since is not before --until"), "--since 48h --until 24h")
	case s.Sample != "":
		if s.share, err = readShare(s.Sample); err != nil || !(s.share > 0 && s.share <= 1) {
			return wrongUse(fmt.Errorf("--sample: %.40q is no share above 0 and up to 100%%", s.Sample), "--sample 5%")
		}
	}
	return nil
}

func readTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, wrongUse(fmt.Errorf("%s: %.60q is neither an age nor a time", flag, text), flag+" 24h, or "+flag+" 2026-11-23T00:00:00Z")
	}
	return at, nil
}

// readShare reads 5%, 0.05 or 5.0e-2.
func readShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	var f float64
	if err := json.Unmarshal([]byte(number), &f); err != nil {
		return 0, fmt.Errorf("%.40q is no share like 5%% or 0.05", text)
	}
	if percent {
		f /= 100
	}
	return f, nil
}

func (s *replaySelection) wants(x *record) bool {
	if s.Tenant != "" && x.Tenant != s.Tenant || !s.since.IsZero() && x.Time.Before(s.since) || !s.until.IsZero() && !x.Time.Before(s.until) {
		return false
	}
	if s.share < 1 {
		h := fnv.New64a()
		fmt.Fprintf(h, "%d/%s", s.Seed, x.key())
		sum := h.Sum64() * 0x9e3779b97f4a7c15 // so that ids that are near are far apart
		if float64(sum>>11)/(1<<53) >= s.share {
			return false
		}
	}
	if s.Model == "" && s.Route == "" {
		return true
	}
	parsed, err := schemas.Parse(x.body())
	return err == nil && (s.Model == "" || parsed.Model == s.Model) && (s.Route == "" || parsed.Options.Route == s.Route)
}

// source calls with each record that is wanted, in order, until it errs.
type recordSource func(ctx context.Context, each func(*record) error) error

var errEnough = errors.New("as many as were wanted")

// limited ends a source once there are as many as are wanted.
func (s *replaySelection) limited(source recordSource) recordSource {
	return func(ctx context.Context, each func(*record) error) error {
		n := 0
		err := source(ctx, func(x *record) error {
			if !s.wants(x) {
				return nil
			}
			if s.Limit > 0 && n >= s.Limit {
				return errEnough
			}
			n++
			return each(x)
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		return err
	}
}

// live reads the archive with the stored responses and the feedback. Nothing
// is written to the server.
func (s *replaySelection) live(cfg config.Config, nc *nats.Conn, pause time.Duration) recordSource {
	names := streams.Names{Prefix: cfg.NATS.Prefix}
	return func(ctx context.Context, each func(*record) error) error {
		ratings, err := readRatings(ctx, nc, names, s.Tenant)
		if err != nil {
			return err
		}
		responses, err := streams.NewResponses(nc, names)
		if err != nil {
			return err
		}
		defer responses.Close()
		archive, err := streams.NewArchive(nc, names, pause)
		if err != nil {
			return err
		}
		defer archive.Close()
		var slice []*record
		complete := func() error {
			err := addResponses(ctx, responses, slice)
			for _, x := range slice {
				if err != nil {
					break
				}
				x.Feedback = ratings[x.key()]
				err = each(x)
			}
			slice = slice[:0]
			return err
		}
		n := 0
		err = archive.Each(ctx, s.since, s.until, s.Tenant, func(r streams.Archived) error {
			x := newRecord(r)
			if !s.wants(x) {
				return nil
			}
			slice = append(slice, x)
			if n++; s.Limit > 0 && n >= s.Limit {
				return errEnough
			}
			if len(slice) == recordSlice {
				return complete()
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
		return complete()
	}
}

func addResponses(ctx context.Context, responses *streams.Responses, slice []*record) error {
	keys := make([]string, 0, len(slice))
	for _, x := range slice {
		if schemas.ValidName(x.Tenant) && schemas.ValidName(x.ID) {
			keys = append(keys, x.key())
		}
	}
	if len(keys) == 0 {
		return nil
	}
	found, err := responses.Find(ctx, keys)
	if err != nil {
		return err
	}
	for _, x := range slice {
		x.Response = found[x.key()]
	}
	return nil
}

// readRatings reads the feedback by tenant.id, the newest up to a bound.
func readRatings(ctx context.Context, nc *nats.Conn, names streams.Names, tenant string) (map[string][]opinion, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	prefix := names.Prefix + ".feedback."
	filter := prefix + "*"
	if tenant != "" {
		filter = prefix + tenant
	}
	ratings, n := map[string][]opinion{}, 0
	err = kv.EachMessage(ctx, js, names.Feedback(), filter, func(m jetstream.Msg) error {
		if r, ok := streams.ReadRating(m.Data()); ok && n < maxRatings {
			key := strings.TrimPrefix(m.Subject(), prefix) + "." + r.ID
			ratings[key] = append(ratings[key], opinion{r.Score, r.Label, r.Ideal})
			n++
		}
		return nil
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return ratings, nil
	}
	return ratings, err
}

// fromFile reads a dataset.
func fromFile(in source) recordSource {
	return func(ctx context.Context, each func(*record) error) error {
		return in.each(func(e entry) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			x, err := parseRecord(e.text, e.number)
			if err != nil {
				return fmt.Errorf("%s:%d: %w", in.name, e.number, err)
			}
			return each(x)
		})
	}
}

// tape is the requests of a replay on disk: a snapshot, so that an interrupted
// replay goes on with the same, whatever the archive dropped meanwhile.
type tape struct {
	file     *os.File
	requests int
	from, to time.Time
	digest   string
	bytes    int64
}

// openTape opens the tape of an interrupted replay.
func openTape(path string, memo *replayMemo) (*tape, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the tape: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() != memo.Bytes {
		err = fmt.Errorf("its tape has %d bytes and not %d", info.Size(), memo.Bytes)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &tape{file: f, requests: memo.Requests, from: memo.From, to: memo.To, digest: memo.Digest, bytes: memo.Bytes}, nil
}

// maxTapeLine bounds a line of a tape: a request and its response with all that
// JSON may add to them.
const maxTapeLine = 64 << 20

// writeTape records a source. sent, which may be nil, fills in what the
// baseline sent for a slice of records.
func writeTape(ctx context.Context, path string, source recordSource, sent func([]*record)) (*tape, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, fmt.Errorf("making the tape: %w", err)
	}
	t, out, sum := &tape{file: f}, bufio.NewWriterSize(f, 256<<10), sha256.New()
	var slice []*record
	flush := func() error {
		if sent != nil {
			sent(slice)
		}
		for _, x := range slice {
			line, err := marshalLine(x)
			if err != nil {
				return err
			}
			_, _ = sum.Write(line)
			t.bytes += int64(len(line))
			if _, err := out.Write(line); err != nil {
				return fmt.Errorf("writing the tape: %w", err)
			}
		}
		slice = slice[:0]
		return nil
	}
	err = source(ctx, func(x *record) error {
		if t.requests == 0 {
			t.from = x.Time
		}
		t.requests, t.to = t.requests+1, x.Time
		if slice = append(slice, x); len(slice) == recordSlice {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	t.digest = hex.EncodeToString(sum.Sum(nil)[:16])
	return t, nil
}

func (t *tape) close() { _ = t.file.Close() }

// each calls f with each record from number first on, with its place on the tape.
func (t *tape) each(first int, f func(index int, offset int64, x *record) error) error {
	reader := bufio.NewReaderSize(io.NewSectionReader(t.file, 0, 1<<62), 256<<10)
	offset := int64(0)
	for i := 0; ; i++ {
		text, length, err := readLine(reader, maxTapeLine)
		if errors.Is(err, io.EOF) && length == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the tape: %w", err)
		}
		if i >= first {
			x := &record{}
			if err := json.Unmarshal(text, x); err != nil {
				return fmt.Errorf("reading the tape: %w", err)
			}
			if err := f(i, offset, x); err != nil {
				return err
			}
		}
		offset += int64(length)
	}
}

// response reads the response of the record at a place, and nothing else of it.
func (t *tape) response(offset int64) ([]byte, error) {
	buffer := make([]byte, 8<<10)
	for filled := 0; ; {
		n, err := t.file.ReadAt(buffer[filled:], offset+int64(filled))
		filled += n
		if end := bytes.IndexByte(buffer[:filled], '\n'); end >= 0 {
			span, ok := schemas.Member(buffer[:end], "response")
			if !ok {
				return nil, fmt.Errorf("reading the tape: there is no response at %d", offset)
			}
			return span.Of(buffer), nil
		}
		if err != nil || filled > maxTapeLine {
			return nil, fmt.Errorf("reading the tape: no line at %d: %w", offset, err)
		}
		buffer = slices.Grow(buffer, 3*len(buffer))[:4*len(buffer)]
	}
}
