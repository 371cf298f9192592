package kv

import (
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/schemas"
)

// Record says that a request was paid: by which call, for what, and what was
// answered. It is written before anything else is done with the answer.
type Record struct {
	Call     string         `json:"call"`
	Model    string         `json:"model"`
	Provider string         `json:"provider"`
	Calls    int            `json:"calls"` // made for the request so far
	Usage    schemas.Usage  `json:"usage"`
	CostUSD  float64        `json:"cost_usd"`
	Failed   schemas.Spent  `json:"failed,omitzero"` // on calls before it that brought no answer
	Answer   jsontext.Value `json:"answer,omitzero"`
}

// ErrRecorded is a record that another call made first.
var ErrRecorded = errors.New("the request has a recorded answer")

// Answers are the recorded answers, in the bucket answers. It is safe for
// concurrent use.
type Answers struct {
	nc     *nats.Conn
	put    *jsx.Publisher
	get    *jsx.Getter
	bucket string
}

// NewAnswers opens the bucket. Close ends it.
func NewAnswers(nc *nats.Conn, l Layout) (*Answers, error) {
	get, err := jsx.NewGetter(nc)
	if err != nil {
		return nil, err
	}
	put, err := jsx.NewPublisher(nc, jsx.PublisherConfig{})
	if err != nil {
		get.Close()
		return nil, err
	}
	return &Answers{nc: nc, put: put, get: get, bucket: l.Bucket(BucketAnswers)}, nil
}

// Close ends reads and writes.
func (a *Answers) Close() {
	a.get.Close()
	a.put.Close()
}

func (a *Answers) subject(key string) string { return "$KV." + a.bucket + "." + key }

// Find gives the records of those keys (tenant.id) that have one. What was
// written a moment ago on another server may be missed: see FindNow.
func (a *Answers) Find(ctx context.Context, keys []string) (map[string]Record, error) {
	subjects := make([]string, len(keys))
	for i, key := range keys {
		subjects[i] = a.subject(key)
	}
	found, err := a.get.Last(ctx, "KV_"+a.bucket, subjects)
	if err != nil {
		return nil, fmt.Errorf("looking for recorded answers: %w", err)
	}
	records := make(map[string]Record, len(found))
	for subject, m := range found {
		if record, ok := readRecord(m); ok {
			records[subject[len(a.subject("")):]] = record
		}
	}
	return records, nil
}

// FindNow gives the record of one key as the bucket's leader holds it.
func (a *Answers) FindNow(ctx context.Context, key string) (Record, bool, error) {
	m, found, err := jsx.LastFromLeader(ctx, a.nc, "KV_"+a.bucket, a.subject(key))
	if err != nil || !found {
		return Record{}, false, err
	}
	record, ok := readRecord(m)
	return record, ok, nil
}

// readRecord decodes a stored record; a deleted or damaged one is none.
func readRecord(m jsx.Stored) (Record, bool) {
	var record Record
	if m.Header.Get("KV-Operation") != "" || json.Unmarshal(m.Data, &record) != nil || len(record.Answer) == 0 {
		return Record{}, false
	}
	return record, true
}

// marshalWith writes an object as JSON, one with members and none that is called
// answer, and adds the answer as it is: providers give valid JSON, and to look
// through it once more for each copy takes time.
func marshalWith(v any, answer jsontext.Value) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	whole := make([]byte, 0, len(text)+len(answerMember)+len(answer))
	whole = append(append(whole, text[:len(text)-1]...), answerMember...)
	return append(append(whole, answer...), '}'), nil
}

const answerMember = `,"answer":`

// Create writes the record of a key unless it has one: then ErrRecorded. Other
// errors leave the outcome unknown; the same Create may be tried again.
func (a *Answers) Create(ctx context.Context, key string, record Record) error {
	return a.CreateAll(ctx, []string{key}, []Record{record})[0]
}

// CreateAll is Create for many keys, in one round trip.
func (a *Answers) CreateAll(ctx context.Context, keys []string, records []Record) []error {
	failed := make([]error, len(keys))
	sent, messages := make([]int, 0, len(keys)), make([]*nats.Msg, 0, len(keys))
	for i, key := range keys {
		record := records[i]
		record.Answer = nil
		value, err := marshalWith(&record, records[i].Answer)
		if err != nil {
			failed[i] = fmt.Errorf("encoding the record of %s: %w", key, err)
			continue
		}
		sent, messages = append(sent, i), append(messages, &nats.Msg{Subject: a.subject(key), Data: value, Header: createOnly})
	}
	for n, o := range a.put.PublishAll(ctx, messages) {
		failed[sent[n]] = recordError(keys[sent[n]], o.Err)
	}
	return failed
}

func recordError(key string, err error) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case jsx.IsWrongLastSequence(err):
		return ErrRecorded
	}
	return fmt.Errorf("recording the answer of %s: %w", key, err)
}

// createOnly has a message stored only if its subject has none.
var createOnly = nats.Header{jetstream.ExpectedLastSubjSeqHeader: []string{"0"}}
