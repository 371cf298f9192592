package kv

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/internal/near"
)

func openTemplates(t *testing.T, nc *nats.Conn) *Templates {
	templates, err := NewTemplates(t.Context(), nc, layout())
	require.NoError(t, err)
	t.Cleanup(templates.Close)
	return templates
}

func document(text string) []byte { return fmt.Appendf(nil, `{"text": %q}`, text) }

func putText(t *testing.T, templates *Templates, name, text string) int {
	number, changed, err := templates.Put(t.Context(), name, document(text))
	require.NoError(t, err)
	require.True(t, changed)
	return number
}

// text reads a revision as a request does.
func textOf(t *testing.T, templates *Templates, name string, number int) string {
	revision, found, err := templates.Resolve(t.Context(), name, number)
	require.NoError(t, err)
	if !found {
		return "none"
	}
	d, err := templates.Document(t.Context(), name, revision)
	require.NoError(t, err)
	return fmt.Sprintf("%d %s", revision, d)
}

// within waits for what a watch brings.
func within(t *testing.T, limit time.Duration, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, limit, 2*time.Millisecond)
}

func TestTemplatesHaveRevisions(t *testing.T) {
	nc, _ := open(t)
	a, b := openTemplates(t, nc), openTemplates(t, nc)
	require.Equal(t, "none", textOf(t, a, "greet", 0))
	require.Equal(t, 1, putText(t, a, "greet", "Hello"))
	require.Equal(t, 1, putText(t, a, "other", "x"), "numbers are by template")
	require.Equal(t, 2, putText(t, a, "greet", "Hi"))
	number, changed, err := a.Put(t.Context(), "greet", []byte("{ \"text\":\n\"Hi\" }"))
	require.NoError(t, err)
	require.False(t, changed, "the same document")
	require.Equal(t, 2, number)

	within(t, time.Second, func() bool { return textOf(t, b, "greet", 0) == `2 {"text":"Hi"}` })
	require.Equal(t, `1 {"text":"Hello"}`, textOf(t, b, "greet", 1))
	require.Equal(t, "none", textOf(t, b, "greet", 3))
	within(t, time.Second, func() bool { return len(b.Revisions("greet")) == 2 })
	require.Equal(t, []string{"greet", "other"}, b.Names())
	require.Equal(t, []string{"greet"}, b.Near("gret"))
}

func TestAChangeReachesEveryReplicaInUnderASecond(t *testing.T) {
	nc, _ := open(t)
	a, b := openTemplates(t, nc), openTemplates(t, nc)
	putText(t, a, "greet", "Hello")
	for i := range 20 {
		number := putText(t, a, "greet", fmt.Sprint("Hello ", i))
		within(t, time.Second, func() bool {
			revision, found, err := b.Resolve(t.Context(), "greet", 0)
			return err == nil && found && revision == number
		})
	}
	require.NoError(t, a.Delete(t.Context(), "greet"))
	within(t, time.Second, func() bool {
		_, found, err := b.Resolve(t.Context(), "greet", 0)
		return err == nil && !found
	})
}

func TestADeletedTemplateIsGoneAndItsNumbersAreNotUsedAgain(t *testing.T) {
	nc, _ := open(t)
	templates := openTemplates(t, nc)
	putText(t, templates, "greet", "one")
	putText(t, templates, "greet", "two")
	require.NoError(t, templates.Delete(t.Context(), "greet"))
	require.ErrorIs(t, templates.Delete(t.Context(), "greet"), ErrNoTemplate)
	within(t, time.Second, func() bool { return textOf(t, templates, "greet", 1) == "none" })
	require.Equal(t, 3, putText(t, templates, "greet", "two"))
	within(t, time.Second, func() bool { return len(templates.Revisions("greet")) == 1 })
	require.Equal(t, "none", textOf(t, templates, "greet", 2), "a pin of what was deleted")
	require.Equal(t, `3 {"text":"two"}`, textOf(t, templates, "greet", 3))
}

func TestTheLast64RevisionsAreKept(t *testing.T) {
	nc, _ := open(t)
	templates := openTemplates(t, nc)
	for i := range 70 {
		require.Equal(t, i+1, putText(t, templates, "greet", fmt.Sprint(i+1)))
	}
	within(t, time.Second, func() bool {
		kept := templates.Revisions("greet")
		return len(kept) == templateHistory && kept[0].Number == 7 && kept[63].Number == 70
	})
	require.Equal(t, "none", textOf(t, templates, "greet", 6))
	require.Equal(t, `7 {"text":"7"}`, textOf(t, templates, "greet", 7))
	require.Equal(t, `69 {"text":"69"}`, textOf(t, templates, "greet", 69))
}

func TestPutsAtTheSameTimeGetNumbersOfTheirOwn(t *testing.T) {
	nc, _ := open(t)
	templates := openTemplates(t, nc)
	var all sync.WaitGroup
	var numbers sync.Map
	for i := range 6 {
		all.Go(func() {
			number, _, err := templates.Put(context.Background(), "greet", document(fmt.Sprint(i)))
			if err == nil {
				numbers.Store(number, true)
			}
		})
	}
	all.Wait()
	for i := range 6 {
		_, found := numbers.Load(i + 1)
		require.True(t, found, "number %d", i+1)
	}
}

func TestTemplatesAreBounded(t *testing.T) {
	nc, _ := open(t)
	templates := openTemplates(t, nc)
	_, _, err := templates.Put(t.Context(), "large", document(strings.Repeat("x", maxTemplate)))
	require.ErrorContains(t, err, "it may have")
	for i := range 3 * maxUnknown {
		require.Equal(t, "none", textOf(t, templates, fmt.Sprint("unknown", i), 0))
	}
	require.Equal(t, maxUnknown, templates.unknown.Len())
}

func TestDamagedTemplatesAreNone(t *testing.T) {
	nc, js := open(t)
	templates := openTemplates(t, nc)
	bucket, err := js.KeyValue(t.Context(), layout().Bucket(BucketTemplates))
	require.NoError(t, err)
	putText(t, templates, "greet", "Hello")
	_, err = bucket.Put(t.Context(), "greet", []byte("not JSON"))
	require.NoError(t, err)
	within(t, time.Second, func() bool { return len(templates.Names()) == 0 })
	_, _, err = templates.Resolve(t.Context(), "greet", 0)
	require.ErrorContains(t, err, "reading template greet")
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"summarise", "summarize", 1}, {"greet", "gret", 1}, {"abc", "xyz", 3}} {
		require.Equal(t, c.want, near.Distance(c.a, c.b), "%s %s", c.a, c.b)
	}
}
