package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/evaluate"
	"github.com/adpa/processor/internal/units"
	"github.com/adpa/processor/kv"
)

// payloads opens a log and gives what is in it.
func payloads(t *testing.T, path string) (l *replayLog, list []string) {
	t.Helper()
	l, err := openReplayLog(path, "id", func(kind byte, offset int64, payload []byte) error {
		require.Equal(t, byte('x'), kind)
		list = append(list, string(payload))
		return nil
	})
	require.NoError(t, err)
	return l, list
}

func TestALogIsReadUpToWhatWasCutOffOrDamaged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	rng := rand.New(rand.NewPCG(1, 2))
	l, _ := payloads(t, path)
	var written []string
	for range 200 {
		payload := bytes.Repeat([]byte{byte(rng.IntN(256))}, rng.IntN(300))
		offset, err := l.append('x', payload[:len(payload)/2], payload[len(payload)/2:])
		require.NoError(t, err)
		read, err := l.read(offset, len(payload))
		require.NoError(t, err)
		require.Equal(t, string(payload), string(read), "what is not in the file yet is read too")
		written = append(written, string(payload))
	}
	require.NoError(t, l.close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	head := len(replayLogHead("id"))
	for n := range 600 {
		damaged := bytes.Clone(whole)
		at := head + rng.IntN(len(whole)-head)
		if n%2 == 0 {
			damaged = damaged[:at]
		} else {
			damaged[at] ^= 1 << rng.IntN(8)
		}
		require.NoError(t, os.WriteFile(path, damaged, 0o600))
		l, list := payloads(t, path)
		require.Less(t, len(list), len(written))
		require.True(t, slices.Equal(written[:len(list)], list), "a prefix of what was written, whatever happened at %d", at)
		_, err = l.append('x', []byte("more"))
		require.NoError(t, err)
		require.NoError(t, l.close())
		l, again := payloads(t, path)
		require.Equal(t, append(list, "more"), again, "and it goes on behind that")
		require.NoError(t, l.close())
	}
}

func TestALogOfSomethingElseIsNotRead(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	l, _ := payloads(t, path)
	require.NoError(t, l.close())
	for _, text := range []string{"", "processor repl", string(replayLogHead("id"))} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		l, list := payloads(t, path)
		require.Empty(t, list, "one whose head was cut off is empty")
		require.NoError(t, l.close())
	}
	for _, text := range []string{string(replayLogHead("other")), "processor replay 0 id\n and more", `{"i":0,"o":{}}` + "\n" + `{"i":1,"o":{}}`, "no line at all, and long"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := openReplayLog(path, "id", func(byte, int64, []byte) error { return nil })
		require.ErrorIs(t, err, errOtherLog, text)
	}
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Mkdir(path, 0o700))
	_, err := openReplayLog(path, "id", func(byte, int64, []byte) error { return nil })
	require.ErrorContains(t, err, path, "says which file it is")
}

func TestAFullDiskEndsALog(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there is no /dev/full here")
	}
	l, _ := payloads(t, filepath.Join(t.TempDir(), "log"))
	require.NoError(t, l.file.Close())
	l.file = full
	l.out.Reset(full)
	_, err = l.append('x', []byte("fits into the buffer"))
	require.NoError(t, err)
	require.ErrorContains(t, l.flush(), "no space left")
	_, err = l.append('x', []byte("more"))
	require.ErrorContains(t, err, "no space left", "nothing comes behind what was not written")
}

// side opens what a side has done, with room for everything.
func side(t *testing.T, path string) *sideDone {
	t.Helper()
	d, err := openSideDone(path, "id", kv.CacheConfig{MaxSize: units.MB})
	require.NoError(t, err)
	d.cache.clock, d.cache.largest, d.cache.fail = &replayClock{}, 1000, func(err error) { require.NoError(t, err) }
	return d
}

// answers are the texts in the cache of a side under the keys t.k0 to t.k9.
func answers(d *sideDone) (list []string) {
	for i := range 10 {
		key := fmt.Sprintf("t.k%d", i)
		if e := d.cache.Get(context.Background(), []string{key})[key]; e != nil {
			list = append(list, string(e.Answer))
		}
	}
	return list
}

func put(d *sideDone, request, key int, answer string) {
	d.cache.Put(fmt.Sprintf("t.k%d", key), kv.Entry{Request: "t." + replayID(request), Answer: []byte(answer)}, 0, nil)
}

func finish(t *testing.T, d *sideDone, request int) {
	t.Helper()
	require.NoError(t, d.add(&result{Index: request, Outcome: evaluate.Outcome{Text: "x"}}, first{requestKey(request + 1), 7}))
	d.cache.decided(request)
}

func TestWhatARequestLeftInTheCacheCountsOnceItIsDone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "side")
	d := side(t, path)
	put(d, 0, 0, `{"a":0}`)
	put(d, 0, 1, `{"a":1}`)
	finish(t, d, 0)
	put(d, 1, 1, `{"a":"of one that is not done"}`)
	put(d, 2, 2, `{"a":"of another"}`)
	d.cache.drop(3, "t.k0")
	require.NoError(t, d.close())

	d = side(t, path)
	require.Equal(t, 1, d.count)
	require.Equal(t, []first{{1, 7}}, d.firsts)
	require.Equal(t, []string{`{"a":0}`, `{"a":1}`}, answers(d))
	put(d, 1, 1, `{"a":"made again"}`)
	finish(t, d, 1)
	require.Equal(t, []string{`{"a":0}`, `{"a":"made again"}`}, answers(d))
	finish(t, d, 2)
	require.Equal(t, []string{`{"a":0}`, `{"a":"made again"}`, `{"a":"of another"}`}, answers(d), "it was answered from what was stored, and has left this")
	require.NoError(t, d.close())

	d = side(t, path)
	require.Equal(t, 3, d.count)
	require.Equal(t, []string{`{"a":0}`, `{"a":"made again"}`, `{"a":"of another"}`}, answers(d))
	finish(t, d, 3)
	require.Equal(t, []string{`{"a":"made again"}`, `{"a":"of another"}`}, answers(d))
	require.NoError(t, d.close())
}

func TestResultsWhoseCacheIsGoneDoNotCount(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "side")
	d := side(t, path)
	for i := range 10 {
		put(d, i, i, fmt.Sprintf(`{"a":%d}`, i))
		finish(t, d, i)
	}
	require.NoError(t, d.close())
	whole, err := os.ReadFile(path + cacheSuffix)
	require.NoError(t, err)
	for n := 9; n >= 0; n-- {
		require.NoError(t, os.WriteFile(path+cacheSuffix, whole[:len(whole)*n/10], 0o600))
		d := side(t, path)
		require.LessOrEqual(t, d.count, n)
		require.Len(t, answers(d), d.count)
		require.NoError(t, d.close())
	}
}

func TestACacheOfAReplayIsBounded(t *testing.T) {
	t.Parallel()
	d, err := openSideDone(filepath.Join(t.TempDir(), "side"), "id", kv.CacheConfig{MaxSize: 10 * units.KB})
	require.NoError(t, err)
	d.cache.clock, d.cache.largest, d.cache.fail = &replayClock{}, 1000, func(err error) { require.NoError(t, err) }
	for i := range 10_000 {
		d.cache.Put(fmt.Sprintf("t.n%d", i), kv.Entry{Request: "t." + replayID(i), Answer: []byte(`{"a":"` + string(make([]byte, 400)) + `"}`)}, 0, nil)
		require.NotNil(t, d.cache.Get(t.Context(), []string{"t.n0"})["t.n0"], "what is used stays")
		require.LessOrEqual(t, d.cache.bytes, int64(10*units.KB))
		require.LessOrEqual(t, len(d.cache.entries), 20)
		require.LessOrEqual(t, cap(d.cache.queue), 4096)
	}
	d.cache.Put("t.large", kv.Entry{Answer: make([]byte, 1001)}, 0, nil)
	require.Empty(t, d.cache.Get(t.Context(), []string{"t.large"}), "a deployment would not keep it")
	require.NoError(t, d.close())
}
