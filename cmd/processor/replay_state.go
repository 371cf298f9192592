package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/adpa/processor/internal/evaluate"
)

// keptReplays is how many replays of the past are kept in the directory of
// replays; the oldest go first.
const keptReplays = 20

// replayState is the directory of one replay: what was done of it, so that the
// same command goes on there. One process at a time has it.
type replayState struct {
	dir  string
	lock *os.File
	memo replayMemo
}

// replayMemo is what is remembered beside the tape and the results.
type replayMemo struct {
	Digest   string           `json:"digest"` // of the tape; empty until that is whole
	Requests int              `json:"requests"`
	From     time.Time        `json:"from"`
	To       time.Time        `json:"to"`
	Forecast *evaluate.Amount `json:"forecast,omitempty"`
	Agreed   bool             `json:"agreed"` // to what was forecast
	Bytes    int64            `json:"bytes"`  // of the tape
	Source   string           `json:"source"` // digest of the dataset file
	Copied   []string         `json:"copied"` // sides that have what the deployment had learned
	Done     bool             `json:"done"`
}

// openReplay takes the directory of a replay that is named by everything that
// decides its outcome. While another process has it, one beside it is taken.
func openReplay(base string, parts ...string) (*replayState, error) {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	name := hex.EncodeToString(h.Sum(nil)[:8])
	for n := 1; n <= 100; n++ {
		dir := filepath.Join(base, name)
		if n > 1 {
			dir += fmt.Sprint("-", n)
		}
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, wrongUse(fmt.Errorf("making the replay's directory: %w", err), "name a directory that can be written with --state")
		}
		lock, err := os.OpenFile(filepath.Join(dir, "replay.lock"), os.O_CREATE|os.O_RDWR, 0o640)
		if err != nil {
			return nil, fmt.Errorf("opening the replay's lock: %w", err)
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			s := &replayState{dir: dir, lock: lock}
			s.load()
			return s, nil
		}
		_ = lock.Close()
	}
	return nil, errors.New("a hundred equal replays run already")
}

func (s *replayState) file(name string) string { return filepath.Join(s.dir, name) }

// results is where the results of a side are.
func (s *replayState) results(side string) string { return s.file(side + ".results") }

// name is that of the directory: it stands for everything that decides the outcome.
func (s *replayState) name() string {
	name, _, _ := strings.Cut(filepath.Base(s.dir), "-")
	return name
}

// remove removes a file that need not be there.
func (s *replayState) remove(name string) error {
	if err := os.Remove(s.file(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("clearing the replay's directory: %w", err)
	}
	return nil
}

// load reads the memo. One that cannot be read is that of nothing done.
func (s *replayState) load() {
	text, err := os.ReadFile(s.file("memo.json"))
	if err != nil || json.Unmarshal(text, &s.memo) != nil {
		s.memo = replayMemo{}
	}
}

func (s *replayState) save() error {
	text, err := json.Marshal(s.memo)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.file("memo.json.new"), text, 0o640); err != nil {
		return fmt.Errorf("remembering the replay: %w", err)
	}
	if err := os.Rename(s.file("memo.json.new"), s.file("memo.json")); err != nil {
		return fmt.Errorf("remembering the replay: %w", err)
	}
	return nil
}

// wipe forgets all that was done.
func (s *replayState) wipe() error {
	s.memo = replayMemo{}
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		if e.Name() != "replay.lock" && err == nil {
			err = os.RemoveAll(s.file(e.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("clearing the replay's directory: %w", err)
	}
	return nil
}

// finish keeps what reports are made from, and drops the rest; the private server
// goes when the replay is closed.
func (s *replayState) finish() error {
	s.memo.Done = true
	err := s.save()
	for _, name := range resultFiles {
		err = errors.Join(err, s.remove(name+cacheSuffix))
	}
	return err
}

func (s *replayState) close(base string) {
	if s.memo.Done {
		_ = os.RemoveAll(s.file("nats")) // what is left is no more than in the way
	}
	_ = s.lock.Close()
	dropOldReplays(base)
}

// dropOldReplays removes the replays beyond the newest that no process has.
func dropOldReplays(base string) {
	entries, err := os.ReadDir(base)
	if err != nil {
		return
	}
	type old struct {
		dir string
		at  time.Time
	}
	var list []old
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(base, e.Name(), "replay.lock")) // of other things nothing is known
		memo, memoErr := os.Stat(filepath.Join(base, e.Name(), "memo.json"))
		switch {
		case err != nil:
		case memoErr == nil:
			list = append(list, old{filepath.Join(base, e.Name()), memo.ModTime()})
		default:
			list = append(list, old{filepath.Join(base, e.Name()), info.ModTime()})
		}
	}
	slices.SortFunc(list, func(a, b old) int { return cmp.Compare(b.at.UnixNano(), a.at.UnixNano()) })
	for _, o := range list[min(len(list), keptReplays):] {
		lock, err := os.Open(filepath.Join(o.dir, "replay.lock"))
		if err != nil {
			continue
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(o.dir)
		}
		_ = lock.Close()
	}
}
