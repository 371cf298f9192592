package kv

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/adpa/processor/internal/jsx"
	"github.com/adpa/processor/internal/near"
	"github.com/adpa/processor/schemas"
)

const (
	// maxTemplates bounds the templates that a process keeps in its index. Past
	// it the bucket still holds them all; the others cost a read for each use.
	maxTemplates = 10_000
	// maxTemplate bounds a stored template, in bytes.
	maxTemplate = 512 << 10
	// maxUnknown and unknownFor bound how often the server is asked for names
	// that it does not know. The watch brings a new template before that.
	maxUnknown = 1024
	unknownFor = time.Second
	// putTries bounds the attempts of a put while others change the same template.
	putTries = 10
)

// ErrNoTemplate is a template, or a revision of one, that is not stored.
var ErrNoTemplate = errors.New("there is no such template")

// TemplateRevision is one stored revision of a template.
type TemplateRevision struct {
	Number   int            `json:"n"` // from 1, by template
	Sequence uint64         `json:"s"` // in the bucket's stream
	Changed  schemas.Millis `json:"t"`
}

// storedTemplate is the value of a key. It carries the places of the revisions
// before it, so that one can be read without a search; its own is that of its message.
type storedTemplate struct {
	Number   int                `json:"revision"`
	Changed  schemas.Millis     `json:"changed"`
	Earlier  []TemplateRevision `json:"earlier,omitzero"` // oldest first
	Document jsontext.Value     `json:"template"`
}

// templateHead is what is known of a template without its document.
type templateHead struct {
	TemplateRevision
	earlier []TemplateRevision
}

// Templates are the prompt templates, in the bucket templates. Their names and
// revisions are kept in step with the bucket by a watch; documents are read when
// asked for. It is safe for concurrent use.
type Templates struct {
	nc     *nats.Conn
	bucket jetstream.KeyValue
	name   string
	stop   func()

	unknown *lru.Cache[string, time.Time] // names that the server did not know, and when

	mu    sync.RWMutex
	heads map[string]templateHead
}

// NewTemplates opens the bucket and follows it. Close ends it.
func NewTemplates(ctx context.Context, nc *nats.Conn, l Layout) (*Templates, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening JetStream: %w", err)
	}
	t := &Templates{nc: nc, name: l.Bucket(BucketTemplates), heads: map[string]templateHead{}}
	if t.bucket, err = js.KeyValue(ctx, t.name); err != nil {
		return nil, fmt.Errorf("opening bucket %s: %w", t.name, err)
	}
	if t.unknown, err = lru.New[string, time.Time](maxUnknown); err != nil {
		return nil, fmt.Errorf("making the list of unknown templates: %w", err)
	}
	t.stop, err = jsx.Watch(ctx, js, jsx.WatchConfig{Bucket: t.name, Apply: t.apply})
	return t, err
}

// Close ends the watch.
func (t *Templates) Close() { t.stop() }

// apply is the only writer of what is known: what a read brings may be older.
func (t *Templates) apply(e jsx.Entry) {
	var stored storedTemplate
	usable := !e.Deleted && json.Unmarshal(e.Value, &stored) == nil
	t.mu.Lock()
	defer t.mu.Unlock()
	_, known := t.heads[e.Key]
	switch {
	case !usable:
		delete(t.heads, e.Key)
	case known || len(t.heads) < maxTemplates:
		t.heads[e.Key] = headOf(stored, e.Revision)
	}
}

func headOf(stored storedTemplate, sequence uint64) templateHead {
	return templateHead{TemplateRevision{stored.Number, sequence, stored.Changed}, stored.Earlier}
}

// read gives what the leader holds of a template, and the sequence of its last
// message, which may be that of its deletion.
func (t *Templates) read(ctx context.Context, name string) (stored storedTemplate, last uint64, found bool, err error) {
	m, exists, err := jsx.LastFromLeader(ctx, t.nc, "KV_"+t.name, "$KV."+t.name+"."+name)
	if err != nil || !exists {
		return stored, 0, false, err
	}
	if jsx.Removed(m.Header) {
		return stored, m.Sequence, false, nil
	}
	if err := json.Unmarshal(m.Data, &stored); err != nil {
		return stored, m.Sequence, false, fmt.Errorf("reading template %s: %w", name, err)
	}
	return stored, m.Sequence, true, nil
}

// find looks for a revision, 0 being the newest. One that is not known here is
// asked for at the bucket's leader, since its put may have been a moment ago.
func (t *Templates) find(ctx context.Context, name string, number int) (r TemplateRevision, found bool, err error) {
	t.mu.RLock()
	head, known := t.heads[name]
	t.mu.RUnlock()
	if known && number <= head.Number {
		r, found = head.find(number)
		return r, found, nil
	}
	key := fmt.Sprintf("%s@%d", name, number)
	if at, asked := t.unknown.Get(key); asked && time.Since(at) < unknownFor {
		return r, false, nil
	}
	stored, sequence, found, err := t.read(ctx, name)
	if err != nil {
		return r, false, err
	}
	if found {
		r, found = headOf(stored, sequence).find(number)
	}
	if !found {
		t.unknown.Add(key, time.Now())
	}
	return r, found, nil
}

func (h templateHead) find(number int) (TemplateRevision, bool) {
	if number == 0 || number == h.Number {
		return h.TemplateRevision, true
	}
	at, found := slices.BinarySearchFunc(h.earlier, number, func(r TemplateRevision, n int) int { return cmp.Compare(r.Number, n) })
	if !found {
		return TemplateRevision{}, false
	}
	return h.earlier[at], true
}

// Resolve gives the revision that a name and a number mean now; 0 is the newest.
// found is false where there is none.
func (t *Templates) Resolve(ctx context.Context, name string, number int) (revision int, found bool, err error) {
	r, found, err := t.find(ctx, name, number)
	return r.Number, found, err
}

// Document gives the document of a revision. Without it the error is ErrNoTemplate.
func (t *Templates) Document(ctx context.Context, name string, number int) ([]byte, error) {
	r, found, err := t.find(ctx, name, number)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, fmt.Errorf("%w: %s@%d", ErrNoTemplate, name, number)
	}
	// The newest is read from the leader: not every replica may have it yet.
	stored, _, found, err := t.read(ctx, name)
	if err != nil {
		return nil, err
	}
	if found && stored.Number == r.Number {
		return stored.Document, nil
	}
	entry, err := t.bucket.GetRevision(ctx, name, r.Sequence)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("%w: %s@%d is not kept any more", ErrNoTemplate, name, number)
	}
	if err != nil {
		return nil, fmt.Errorf("reading template %s@%d: %w", name, number, err)
	}
	stored = storedTemplate{}
	if err := json.Unmarshal(entry.Value(), &stored); err != nil {
		return nil, fmt.Errorf("reading template %s@%d: %w", name, number, err)
	}
	return stored.Document, nil
}

// Revisions lists the revisions of a template that are kept, the oldest first.
func (t *Templates) Revisions(name string) []TemplateRevision {
	t.mu.RLock()
	defer t.mu.RUnlock()
	head, found := t.heads[name]
	if !found {
		return nil
	}
	return append(slices.Clone(head.earlier), head.TemplateRevision)
}

// Names lists the templates in order.
func (t *Templates) Names() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	names := make([]string, 0, len(t.heads))
	for name := range t.heads {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Put stores a document, which must be valid JSON, as the next revision of a
// template, and gives its number. The document that is the newest already is not
// stored again: then changed is false. Others may put at the same time: each
// gets a number of its own.
func (t *Templates) Put(ctx context.Context, name string, document []byte) (number int, changed bool, err error) {
	value := jsontext.Value(document).Clone()
	if err := value.Compact(); err != nil {
		return 0, false, fmt.Errorf("reading the template: %w", err)
	}
	for range putTries {
		stored, last, found, err := t.read(ctx, name)
		if err != nil {
			return 0, false, err
		}
		if found && bytes.Equal(stored.Document, value) {
			return stored.Number, false, nil
		}
		next := storedTemplate{Number: 1, Changed: schemas.ToMillis(time.Now()), Document: value}
		switch {
		case found:
			next.Number = stored.Number + 1
			next.Earlier = append(stored.Earlier, TemplateRevision{stored.Number, last, stored.Changed})
			next.Earlier = next.Earlier[max(0, len(next.Earlier)-(templateHistory-1)):]
		case last > 0: // deleted: numbers go on, so that a pin never means another text
			if next.Number, err = t.afterDeletion(ctx, name); err != nil {
				return 0, false, err
			}
		}
		if number, err = t.store(ctx, name, next, last); !errors.Is(err, errChanged) {
			return number, err == nil, err
		}
	}
	return 0, false, fmt.Errorf("storing template %s: others keep changing it", name)
}

var errChanged = errors.New("the template was changed meanwhile")

func (t *Templates) store(ctx context.Context, name string, next storedTemplate, last uint64) (int, error) {
	value, err := json.Marshal(&next)
	if err != nil {
		return 0, fmt.Errorf("encoding template %s: %w", name, err)
	}
	if len(value) > maxTemplate {
		return 0, fmt.Errorf("template %s has %d bytes, it may have %d", name, len(value), maxTemplate)
	}
	_, err = t.bucket.Update(ctx, name, value, last)
	if err == nil {
		return next.Number, nil
	}
	if jsx.IsWrongLastSequence(err) || jsx.IsInFlight(err) {
		return 0, errChanged
	}
	return 0, fmt.Errorf("storing template %s: %w", name, err)
}

// afterDeletion gives the number behind the last one of a template that was deleted.
func (t *Templates) afterDeletion(ctx context.Context, name string) (int, error) {
	entries, err := t.bucket.History(ctx, name)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, fmt.Errorf("reading the history of template %s: %w", name, err)
	}
	number := 0
	for _, e := range entries {
		var stored storedTemplate
		if e.Operation() == jetstream.KeyValuePut && json.Unmarshal(e.Value(), &stored) == nil {
			number = max(number, stored.Number)
		}
	}
	return number + 1, nil
}

// Delete removes a template with all its revisions. Without one the error is ErrNoTemplate.
func (t *Templates) Delete(ctx context.Context, name string) error {
	_, last, found, err := t.read(ctx, name)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: %s", ErrNoTemplate, name)
	}
	if err := t.bucket.Delete(ctx, name, jetstream.LastRevision(last)); err != nil {
		return fmt.Errorf("deleting template %s: %w", name, err)
	}
	return nil
}

const (
	maxNear     = 3    // names that are suggested
	maxCompared = 2000 // names that are compared for it
)

// Near gives up to three names that are spelled much like a name.
func (t *Templates) Near(name string) []string {
	type candidate struct {
		name     string
		distance int
	}
	var found []candidate
	most := max(1, len(name)/3)
	names := t.Names()
	for _, n := range names[:min(len(names), maxCompared)] {
		if d := len(n) - len(name); d > most || -d > most {
			continue
		}
		if d := near.Distance(strings.ToLower(n), strings.ToLower(name)); d <= most {
			found = append(found, candidate{n, d})
		}
	}
	slices.SortStableFunc(found, func(x, y candidate) int { return cmp.Compare(x.distance, y.distance) })
	var list []string
	for _, n := range found[:min(len(found), maxNear)] {
		list = append(list, n.name)
	}
	return list
}
