package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"
	"sync"
)

// replayLog is a file of a replay to which records are appended: each has its
// length and a checksum, and the file begins with what it belongs to. So what a
// process left that was killed at any moment can be used up to the last record
// that is whole. It is safe for concurrent use.
type replayLog struct {
	file *os.File

	mu      sync.Mutex
	out     *bufio.Writer
	end     int64 // of what was appended
	flushed int64 // of that, what is in the file
	failure error // of the first write that failed: nothing is appended behind it
}

const (
	recordHead = 9 // length and checksum, 4 bytes each, and the kind
	// maxReplayRecord bounds a record: what claims to be longer is damaged.
	maxReplayRecord = maxTapeLine
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errOtherLog is a log that belongs to something else, or was written by
// another version of the program.
var errOtherLog = errors.New("it belongs to another replay, or to another version of the program")

// openReplayLog opens a log, or begins one, and calls each with what is in it. A
// record that was cut off or damaged, or that each gives errDamaged for, ends it:
// it is removed with all behind it. Payloads are valid during the call.
func openReplayLog(path, identity string, each func(kind byte, offset int64, payload []byte) error) (*replayLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return nil, fmt.Errorf("opening what the replay has done: %w", err)
	}
	l := &replayLog{file: f, out: bufio.NewWriterSize(f, 256<<10)}
	if err := l.load(identity, each); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("reading what the replay has done (%s): %w", path, err)
	}
	return l, nil
}

func (l *replayLog) load(identity string, each func(byte, int64, []byte) error) error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	head := replayLogHead(identity)
	if info.Size() < int64(len(head)) { // not even its head was written whole
		if err := l.file.Truncate(0); err != nil {
			return err
		}
		if _, err := l.file.WriteAt(head, 0); err != nil {
			return err
		}
		return l.cut(int64(len(head)))
	}
	r, of, err := newRecordReader(io.NewSectionReader(l.file, 0, info.Size()))
	if err == nil && of != identity {
		err = errOtherLog
	}
	if err != nil {
		return err
	}
	for {
		end := r.offset
		kind, offset, payload, err := r.next()
		if err == nil {
			err = each(kind, offset, payload)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, errDamaged) {
			return l.cut(end)
		}
		if err != nil {
			return err
		}
	}
}

// cut ends the log at an offset.
func (l *replayLog) cut(end int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.file.Truncate(end); err != nil {
		return err
	}
	if _, err := l.file.Seek(end, io.SeekStart); err != nil {
		return err
	}
	l.out.Reset(l.file)
	l.end, l.flushed = end, end
	return nil
}

// replayLogFormat begins a log, and changes with the format of its records.
const replayLogFormat = "processor replay 1 "

func replayLogHead(identity string) []byte { return []byte(replayLogFormat + identity + "\n") }

// append adds a record, whose payload may come in parts, and gives its offset.
func (l *replayLog) append(kind byte, parts ...[]byte) (offset int64, err error) {
	length := 0
	sum := crc32.Update(0, castagnoli, []byte{kind})
	for _, part := range parts {
		length += len(part)
		sum = crc32.Update(sum, castagnoli, part)
	}
	if length > maxReplayRecord {
		return 0, fmt.Errorf("writing what the replay has done: a record of %d bytes is too long", length)
	}
	var head [recordHead]byte
	binary.LittleEndian.PutUint32(head[:], uint32(length))
	binary.LittleEndian.PutUint32(head[4:], sum)
	head[8] = kind
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure != nil {
		return 0, l.failure
	}
	offset = l.end
	_, err = l.out.Write(head[:])
	for _, part := range parts {
		if err == nil {
			_, err = l.out.Write(part)
		}
	}
	l.end += int64(recordHead + length)
	return offset, l.failed(err)
}

// failed notes that a write failed. The caller holds the lock.
func (l *replayLog) failed(err error) error {
	if err != nil && l.failure == nil {
		l.failure = hint(fmt.Errorf("writing what the replay has done: %w", err), "make room where --state is: the same command goes on from here")
	}
	return l.failure
}

// flush hands what was appended to the system: it is there for the next
// process, whatever becomes of this one.
func (l *replayLog) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushLocked()
}

func (l *replayLog) flushLocked() error {
	if l.flushed == l.end {
		return l.failure
	}
	if err := l.failed(l.out.Flush()); err != nil {
		return err
	}
	l.flushed = l.end
	return nil
}

func (l *replayLog) size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// read gives the payload of the record at an offset, of the given length.
func (l *replayLog) read(offset int64, length int) ([]byte, error) {
	l.mu.Lock()
	if offset+recordHead+int64(length) > l.flushed {
		if err := l.flushLocked(); err != nil {
			l.mu.Unlock()
			return nil, err
		}
	}
	l.mu.Unlock()
	record := make([]byte, recordHead+length)
	if _, err := l.file.ReadAt(record, offset); err != nil {
		return nil, fmt.Errorf("reading what the replay has done: %w", err)
	}
	if int(binary.LittleEndian.Uint32(record)) != length || binary.LittleEndian.Uint32(record[4:]) != crc32.Checksum(record[8:], castagnoli) {
		return nil, fmt.Errorf("reading what the replay has done: %w", errDamaged)
	}
	return record[recordHead:], nil
}

// close writes what is left, also to the disk, and closes the file.
func (l *replayLog) close() error {
	err := l.flush()
	if syncErr := l.file.Sync(); err == nil && syncErr != nil {
		err = fmt.Errorf("writing what the replay has done: %w", syncErr)
	}
	return errors.Join(err, l.file.Close())
}

// errDamaged is a record that was cut off or changed.
var errDamaged = errors.New("a record is damaged")

// recordReader reads a log from its begin.
type recordReader struct {
	in     *bufio.Reader
	offset int64 // behind the last whole record
	buffer []byte
}

func newRecordReader(in io.Reader) (r *recordReader, identity string, err error) {
	r = &recordReader{in: bufio.NewReaderSize(in, 256<<10)}
	head, err := r.in.ReadSlice('\n')
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
		return nil, "", err
	}
	identity, ok := strings.CutPrefix(string(head), replayLogFormat)
	if identity, whole := strings.CutSuffix(identity, "\n"); ok && whole {
		r.offset = int64(len(head))
		return r, identity, nil
	}
	return nil, "", errOtherLog
}

// next gives the next record, io.EOF behind the last one, and errDamaged for one
// that is not whole. The payload is valid until the next call.
func (r *recordReader) next() (kind byte, offset int64, payload []byte, err error) {
	var head [recordHead]byte
	if _, err := io.ReadFull(r.in, head[:]); err != nil {
		return 0, 0, nil, cutOffAs(err)
	}
	length := int(binary.LittleEndian.Uint32(head[:]))
	if length > maxReplayRecord {
		return 0, 0, nil, errDamaged
	}
	if cap(r.buffer) < length {
		r.buffer = make([]byte, length+length/4)
	}
	payload = r.buffer[:length]
	if _, err := io.ReadFull(r.in, payload); errors.Is(err, io.EOF) {
		return 0, 0, nil, errDamaged
	} else if err != nil {
		return 0, 0, nil, cutOffAs(err)
	}
	kind = head[8]
	if sum := crc32.Update(crc32.Checksum(head[8:], castagnoli), castagnoli, payload); sum != binary.LittleEndian.Uint32(head[4:]) {
		return 0, 0, nil, errDamaged
	}
	offset = r.offset
	r.offset += int64(recordHead + length)
	return kind, offset, payload, nil
}

// cutOffAs has a file that ends within a record be damaged; other errors of
// reading stay what they are, so that nothing is cut off for them.
func cutOffAs(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errDamaged
	}
	return err
}
