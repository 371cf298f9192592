package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv"
	"github.com/adpa/processor/schemas"
)

// result is what became of one request of the tape.
type result struct {
	Index   int              `json:"i"`
	Outcome evaluate.Outcome `json:"o"`
	Note    note             `json:"n,omitzero"`
	Pending bool             `json:"pending,omitzero"` // the answer is a placeholder
}

// sideDone is what a side has done, in two files: the results in the order in
// which the requests were sent, and the cache, which is of no more use once all
// are there. A result says how much of the cache had been written when it was:
// where that is gone, as the disk may have it after a crash of the machine, the
// result does not count either, and its request runs again.
type sideDone struct {
	results *replayLog
	cache   *replayCache

	count   int          // results that were there
	last    int          // the number of the request of the last of them
	firsts  []first      // that led equal requests
	paid    map[int]note // what was paid, and played, for requests without a result
	charges []charge     // that were settled for those with one
}

// first is the first of equal requests: what they have in common, and when it was published.
type first struct {
	key requestKey
	at  schemas.Millis
}

// requestKey stands for what equal requests have in common; 0 is that of none.
// Two that share one are taken for equal until they reach the cache.
type requestKey uint64

// The kinds of records of results.
const (
	recordResult = 'r'
	recordNote   = 'n'
)

// resultHead is the length of what is before the JSON of a result: how long the
// cache's log was, and the request's place among equal ones.
const resultHead = 24

// openSideDone opens what a side of a replay has done, or begins it. identity
// stands for everything that decides its outcome.
func openSideDone(path, identity string, cfg kv.CacheConfig) (*sideDone, error) {
	for most := int64(math.MaxInt64); ; {
		d := &sideDone{last: -1, paid: map[int]note{}}
		needed, err := d.openResults(path, identity, most)
		if err != nil {
			return nil, err
		}
		d.cache, err = openReplayCache(path+cacheSuffix, identity, cfg, func(index int) bool { return index <= d.last })
		if err != nil {
			_ = d.results.close()
			return nil, err
		}
		if needed <= d.cache.log.size() {
			return d, nil
		}
		most = d.cache.log.size()
		if err := d.close(); err != nil {
			return nil, err
		}
	}
}

// cacheSuffix is added to the name of the results for that of the cache.
const cacheSuffix = ".cache"

// openResults reads the results that need no more than so much of the cache.
func (d *sideDone) openResults(path, identity string, most int64) (needed int64, err error) {
	d.results, err = openReplayLog(path, identity, func(kind byte, _ int64, payload []byte) error {
		if kind == recordNote {
			index, n, err := readNote(payload)
			if err == nil {
				d.paid[index] = d.paid[index].and(n)
			}
			return err
		}
		r, err := readResult(payload)
		if err != nil {
			return err
		}
		used, f := readResultHead(payload)
		if used > most {
			return errDamaged
		}
		if f.key != 0 {
			d.firsts = append(d.firsts, f)
		}
		d.charges = addCharges(d.charges, r.Note.Charges)
		delete(d.paid, r.Index)
		needed, d.last = used, r.Index
		d.count++
		return nil
	})
	return needed, err
}

// add appends a result.
func (d *sideDone) add(r *result, f first) error {
	text, err := jsonv2.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding a result: %w", err)
	}
	head := binary.LittleEndian.AppendUint64(make([]byte, 0, resultHead), uint64(d.cache.log.size()))
	head = binary.LittleEndian.AppendUint64(head, uint64(f.key))
	head = binary.LittleEndian.AppendUint64(head, uint64(f.at))
	_, err = d.results.append(recordResult, head, text)
	return err
}

func readResultHead(payload []byte) (used int64, f first) {
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(payload[8*i:]) }
	return int64(word(0)), first{requestKey(word(1)), schemas.Millis(word(2))}
}

func readResult(payload []byte) (*result, error) {
	r := &result{}
	if len(payload) < resultHead || jsonv2.Unmarshal(payload[resultHead:], r) != nil {
		return nil, errDamaged
	}
	return r, nil
}

// note appends what a call took, before its answer is of any consequence.
func (d *sideDone) note(index int, n note) error {
	text, err := jsonv2.Marshal(&n)
	if err != nil {
		return fmt.Errorf("encoding a note: %w", err)
	}
	if _, err := d.results.append(recordNote, binary.LittleEndian.AppendUint32(nil, uint32(int32(index))), text); err != nil {
		return err
	}
	return d.results.flush()
}

func readNote(payload []byte) (index int, n note, err error) {
	if len(payload) < 4 || jsonv2.Unmarshal(payload[4:], &n) != nil {
		return 0, n, errDamaged
	}
	return int(int32(binary.LittleEndian.Uint32(payload))), n, nil
}

// flush hands everything to the system: the cache first, on which results rest.
func (d *sideDone) flush() error {
	if err := d.cache.log.flush(); err != nil {
		return err
	}
	return d.results.flush()
}

func (d *sideDone) close() error {
	return errors.Join(d.cache.log.close(), d.results.close())
}

// resultReader reads the results of a side in order.
type resultReader struct {
	file    *os.File // nil where there is none
	records *recordReader
}

func openResultReader(path string) (*resultReader, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return &resultReader{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening the results: %w", err)
	}
	records, _, err := newRecordReader(f)
	if err != nil {
		_ = f.Close()
		return nil, unreadable(path, err)
	}
	return &resultReader{f, records}, nil
}

func unreadable(path string, err error) error {
	return hint(fmt.Errorf("reading the results (%s): %w", path, err), "begin anew with --fresh")
}

func (r *resultReader) close() {
	if r != nil && r.file != nil {
		_ = r.file.Close()
	}
}

// next gives the next result, nil at the end.
func (r *resultReader) next() (*result, error) {
	for r.file != nil {
		kind, _, payload, err := r.records.next()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err == nil && kind != recordResult {
			continue
		}
		var x *result
		if err == nil {
			x, err = readResult(payload)
		}
		if err != nil {
			return nil, unreadable(r.file.Name(), err)
		}
		return x, nil
	}
	return nil, nil
}

// readResults calls f with each result of a file, in order. A file that is not
// there has none.
func readResults(path string, f func(*result) error) error {
	reader, err := openResultReader(path)
	if err != nil {
		return err
	}
	defer reader.close()
	for {
		r, err := reader.next()
		if r == nil || err != nil {
			return err
		}
		if err := f(r); err != nil {
			return err
		}
	}
}

// largestEntry is how large an entry of a deployment's cache may be, where a
// message has at most so many bytes.
func largestEntry(payload int64) int { return int(payload - int64(units.KB)) }
