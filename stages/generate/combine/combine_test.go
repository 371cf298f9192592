package combine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/adpa/processor/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// upstream answers an array with one vector an input that holds the input's own
// bytes, in reverse order, and bills ten tokens a call and one a byte.
type upstream struct {
	latency time.Duration
	refuse  string // inputs that hold this are refused with 400
	broken  bool   // answers with the first vector alone
	err     error

	mu    sync.Mutex
	calls []schemas.Call
	ended int
}

type vector struct {
	Object    string         `json:"object"`
	Index     int            `json:"index"`
	Embedding jsontext.Value `json:"embedding"`
}

type list struct {
	Object string   `json:"object"`
	Data   []vector `json:"data"`
	Model  string   `json:"model"`
	Usage  struct {
		Prompt int `json:"prompt_tokens"`
		Total  int `json:"total_tokens"`
	} `json:"usage"`
}

func (u *upstream) Generate(ctx context.Context, call schemas.Call) (schemas.Answer, error) {
	u.mu.Lock()
	u.calls = append(u.calls, call)
	u.mu.Unlock()
	select {
	case <-time.After(u.latency):
	case <-ctx.Done():
		u.mu.Lock()
		u.ended++
		u.mu.Unlock()
		return schemas.Answer{}, &schemas.CallError{Code: schemas.CodeCancelled, Err: ctx.Err()}
	}
	if u.err != nil {
		return schemas.Answer{}, u.err
	}
	var body struct {
		Input jsontext.Value `json:"input"`
	}
	if err := json.Unmarshal(call.Body, &body); err != nil {
		return schemas.Answer{}, &schemas.CallError{Status: 400, Message: err.Error(), Unbilled: true}
	}
	inputs := []jsontext.Value{body.Input}
	if body.Input.Kind() == '[' {
		var elements []jsontext.Value
		if err := json.Unmarshal(body.Input, &elements); err != nil {
			return schemas.Answer{}, err
		}
		if len(elements) == 0 || elements[0].Kind() != '0' {
			inputs = elements
		}
	}
	if u.refuse != "" && bytes.Contains(body.Input, []byte(u.refuse)) {
		return schemas.Answer{}, &schemas.CallError{Status: 400, Message: "refused", Unbilled: true}
	}
	if u.broken {
		inputs = inputs[:1]
	}
	out := list{Object: "list", Model: "served"}
	for i := len(inputs) - 1; i >= 0; i-- {
		out.Data = append(out.Data, vector{"embedding", i, jsontext.Value(schemas.Quote(string(inputs[i])))})
		out.Usage.Prompt += len(inputs[i])
	}
	out.Usage.Prompt += 10
	out.Usage.Total = out.Usage.Prompt
	encoded, err := json.Marshal(out)
	return schemas.Answer{Body: encoded, Model: "served", Usage: schemas.Usage{PromptTokens: out.Usage.Prompt, TotalTokens: out.Usage.Total}}, err
}

func (u *upstream) billed() (total int) {
	for _, call := range u.calls {
		total += 10
		in, _ := readInput(call.Body)
		for _, element := range in.elements {
			total += len(element)
		}
	}
	return total
}

func newCombiner(u *upstream, inputs int) *Combiner {
	c := New(u, Limits{Inputs: inputs, Tokens: 1000, Linger: 2 * time.Millisecond}, Hooks{
		Count: func(_ string, body []byte) int { return len(body) / 4 },
	})
	c.pace.learn(time.Millisecond) // so that requests wait for each other
	return c
}

func embed(body string) schemas.Call {
	return schemas.Call{ID: body, Model: "m", Body: []byte(body), Embeddings: true}
}

type outcome struct {
	answer schemas.Answer
	err    error
	took   time.Duration
}

// all makes the calls at once and gives what came of each.
func all(ctx context.Context, c *Combiner, calls ...schemas.Call) []outcome {
	out := make([]outcome, len(calls))
	var wg sync.WaitGroup
	for i, call := range calls {
		wg.Go(func() {
			begun := time.Now()
			answer, err := c.Generate(ctx, call)
			out[i] = outcome{answer, err, time.Since(begun)}
		})
	}
	wg.Wait()
	return out
}

// vectors gives what the upstream made of each input of a request.
func vectors(t *testing.T, answer schemas.Answer) (inputs []string) {
	t.Helper()
	var got list
	require.NoError(t, json.Unmarshal(answer.Body, &got), "%s", answer.Body)
	require.Equal(t, "list", got.Object)
	require.Equal(t, "served", got.Model)
	require.Equal(t, answer.Usage.PromptTokens, got.Usage.Prompt)
	inputs = make([]string, len(got.Data))
	for _, v := range got.Data {
		text, err := schemas.Unquote(v.Embedding)
		require.NoError(t, err)
		inputs[v.Index] = text
	}
	return inputs
}

func TestRequestsOfManyShareACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{latency: 50 * time.Millisecond}
		c := newCombiner(u, 100)
		got := all(t.Context(), c,
			embed(`{"model":"x","input":"one","user":"ann","processor":{"cache":false}}`),
			embed(`{"model":"y","input":["two","three"],"user":"bob"}`),
			embed(`{"input":["four"]}`))
		require.Len(t, u.calls, 1)
		require.Equal(t, 3, u.calls[0].Requests)
		require.NotContains(t, string(u.calls[0].Body), "user")
		require.NotContains(t, string(u.calls[0].Body), "processor")
		sum := 0
		for i, want := range [][]string{{`"one"`}, {`"two"`, `"three"`}, {`"four"`}} {
			require.NoError(t, got[i].err)
			require.Equal(t, want, vectors(t, got[i].answer))
			require.Equal(t, 52*time.Millisecond, got[i].took)
			sum += got[i].answer.Usage.PromptTokens
		}
		require.Equal(t, u.billed(), sum, "the shares add up to the bill")
	})
}

func TestOnlyWhatIsAlikeSharesACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{}
		other := embed(`{"input":"d"}`)
		other.Model = "other"
		got := all(t.Context(), newCombiner(u, 100),
			embed(`{"input":"a"}`),
			embed(`{"input":"b","dimensions":8}`),
			embed(`{"input":"c","encoding_format":"base64"}`),
			other,
			embed(`{"input":[1,2]}`), embed(`{"input":[[3],[4]]}`))
		require.Len(t, u.calls, 5, "texts and tokens do not mix")
		require.Equal(t, []string{`[1,2]`}, vectors(t, got[4].answer), "a list of tokens is one input")
		require.Equal(t, []string{`[3]`, `[4]`}, vectors(t, got[5].answer))
	})
}

func TestAloneGoesAsItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{}
		c := newCombiner(u, 100)
		call := embed(`{ "user":"ann", "input" : "a" }`)
		got := all(t.Context(), c, call)
		require.Equal(t, []schemas.Call{call}, u.calls)
		require.Equal(t, 2*time.Millisecond, got[0].took, "it lingers no longer")

		chat := schemas.Call{Model: "m", Body: []byte(`{"messages":[],"input":"a"}`)}
		got = all(t.Context(), c, chat, chat)
		require.Equal(t, []schemas.Call{call, chat, chat}, u.calls)
		require.Zero(t, got[0].took, "chats pass")
	})
}

// What a provider would refuse is not put beside others.
func TestTheUnusualIsSentAlone(t *testing.T) {
	for _, body := range []string{
		`{"input":""}`, `{"input":["a",""]}`, `{"input":[]}`, `{"input":[[]]}`, `{"input":["a",[1]]}`, `{"input":[1,"a"]}`,
		`{"input":{}}`, `{"input":null}`, `{"input":[{"text":"a"}]}`, `{"model":"m"}`, `{"input":"a","dimen\u0073ions":3}`,
		`{"input":"a","x":"` + strings.Repeat("y", maxAlike) + `"}`, `{"input":[-1]}`,
	} {
		_, ok := readInput([]byte(body))
		require.False(t, ok, "%.60s", body)
	}
}

func TestACallIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{}
		c := newCombiner(u, 4)
		var calls []schemas.Call
		for i := range 10 {
			calls = append(calls, embed(fmt.Sprintf(`{"input":"%d"}`, i)))
		}
		all(t.Context(), c, append(calls, embed(`{"input":["a","b","c","d","e"]}`))...)
		require.Len(t, u.calls, 4, "4, 4, 2, and the one that is larger than a call may be")

		u = &upstream{}
		calls = nil
		for i := range 10 {
			calls = append(calls, embed(fmt.Sprintf(`{"input":"%d%s"}`, i, strings.Repeat("x", 1000))))
		}
		all(t.Context(), newCombiner(u, 100), calls...)
		require.Len(t, u.calls, 4, "three of 253 tokens fit into 1000")

		u = &upstream{}
		calls = nil
		for i := range maxRequests + 1 {
			calls = append(calls, embed(fmt.Sprintf(`{"input":"%d"}`, i)))
		}
		all(t.Context(), newCombiner(u, 1000), calls...)
		require.Len(t, u.calls, 2)
	})
}

func TestGroupsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{}
		c := newCombiner(u, 10)
		c.most = 64 // a thousand goroutines in a bubble are too much for the race detector
		var calls []schemas.Call
		for i := range c.most + 5 {
			calls = append(calls, embed(fmt.Sprintf(`{"input":"a","dimensions":%d}`, i)))
		}
		atOnce := 0
		for _, got := range all(t.Context(), c, calls...) {
			require.NoError(t, got.err)
			if got.took == 0 {
				atOnce++
			}
		}
		require.Equal(t, 5, atOnce, "what comes on top is sent alone")
		require.Empty(t, c.groups)
	})
}

func TestARefusedRequestFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{refuse: "bad"}
		var calls []schemas.Call
		for i := range 16 {
			text := fmt.Sprintf("good%d", i)
			if i == 5 {
				text = "bad"
			}
			calls = append(calls, embed(fmt.Sprintf(`{"input":%q}`, text)))
		}
		sum := 0
		for i, got := range all(t.Context(), newCombiner(u, 100), calls...) {
			if i == 5 {
				var e *schemas.CallError
				require.ErrorAs(t, got.err, &e)
				require.Equal(t, 400, e.Status)
				require.True(t, e.Unbilled)
				continue
			}
			require.NoError(t, got.err)
			require.Equal(t, []string{fmt.Sprintf(`"good%d"`, i)}, vectors(t, got.answer))
			sum += got.answer.Usage.TotalTokens
		}
		require.Len(t, u.calls, 9, "halves: 16, 8 8, 4 4, 2 2, 1 1")
		answered := 0
		for _, call := range u.calls {
			if !bytes.Contains(call.Body, []byte("bad")) {
				in, _ := readInput(call.Body)
				answered += 10
				for _, element := range in.elements {
					answered += len(element)
				}
			}
		}
		require.Equal(t, answered, sum, "what was billed is what they pay")
	})
}

func TestOtherFailuresAreEverybodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{err: &schemas.CallError{Status: 429, Retryable: true, RetryAfter: time.Second, Usage: schemas.Usage{PromptTokens: 10, TotalTokens: 10}}}
		sum := 0
		for _, got := range all(t.Context(), newCombiner(u, 100), embed(`{"input":"a"}`), embed(`{"input":"b"}`), embed(`{"input":"c"}`)) {
			var e *schemas.CallError
			require.ErrorAs(t, got.err, &e)
			require.Equal(t, time.Second, e.RetryAfter)
			sum += e.Usage.PromptTokens
		}
		require.Equal(t, 10, sum)
		require.Len(t, u.calls, 1)

		u = &upstream{err: errors.New("odd")}
		for _, got := range all(t.Context(), newCombiner(u, 100), embed(`{"input":"a"}`), embed(`{"input":"b"}`)) {
			var e *schemas.CallError
			require.ErrorAs(t, got.err, &e)
			require.True(t, e.Retryable)
		}
	})
}

func TestWhoLeavesLeavesTheOthersCallRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{latency: 100 * time.Millisecond}
		c := newCombiner(u, 100)
		lingering, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		late, stop := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer stop()
		cancelled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		defer cancel()

		var early, deadline, cancels, stays outcome
		var wg sync.WaitGroup
		for _, one := range []struct {
			ctx  context.Context
			to   *outcome
			text string
		}{{lingering, &early, "a"}, {late, &deadline, "b"}, {cancelled, &cancels, "c"}, {t.Context(), &stays, "d"}} {
			wg.Go(func() { *one.to = all(one.ctx, c, embed(`{"input":"`+one.text+`"}`))[0] })
		}
		wg.Wait()
		require.Len(t, u.calls, 1)
		require.NoError(t, stays.err)
		require.Equal(t, []string{`"d"`}, vectors(t, stays.answer))
		require.NotContains(t, string(u.calls[0].Body), `"a"`, "who left before is not sent")
		for _, gone := range []struct {
			outcome
			code     schemas.Code
			unbilled bool
			took     time.Duration
		}{
			{early, schemas.CodeDeadlineExceeded, true, time.Millisecond},
			{deadline, schemas.CodeDeadlineExceeded, false, 30 * time.Millisecond},
			{cancels, schemas.CodeCancelled, false, 20 * time.Millisecond},
		} {
			var e *schemas.CallError
			require.ErrorAs(t, gone.err, &e)
			require.Equal(t, gone.code, e.Code)
			require.Equal(t, gone.unbilled, e.Unbilled, "what was sent may be billed")
			require.Equal(t, gone.took, gone.outcome.took)
		}
	})
}

func TestACallThatNobodyWaitsForEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{latency: time.Hour}
		c := newCombiner(u, 100)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		all(ctx, c, embed(`{"input":"a"}`), embed(`{"input":"b"}`))
		synctest.Wait()
		require.Len(t, u.calls, 1)
		require.Equal(t, 1, u.ended)

		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		all(ctx, c, embed(`{"input":"a"}`), embed(`{"input":"b"}`))
		require.Empty(t, c.groups, "nothing gathers any more")
		require.Len(t, u.calls, 1)
	})
}

// A server that takes the first text of an array for all of it.
func TestAProviderWithoutArraysIsAskedSingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{broken: true}
		c := newCombiner(u, 100)
		sum := 0
		for i, got := range all(t.Context(), c, embed(`{"input":"a"}`), embed(`{"input":"b"}`)) {
			require.NoError(t, got.err)
			var l list
			require.NoError(t, json.Unmarshal(got.answer.Body, &l))
			require.Equal(t, fmt.Sprintf("%q", string(rune('a'+i))), must(schemas.Unquote(l.Data[0].Embedding)))
			sum += got.answer.Usage.PromptTokens
		}
		require.Equal(t, (10+3)*3, sum, "the call that brought nothing is paid too")
		got := all(t.Context(), c, embed(`{"input":"a"}`), embed(`{"input":"b"}`))
		require.Zero(t, got[0].took, "it is not tried again")
		require.Len(t, u.calls, 5)
	})
}

func must(text string, err error) string {
	if err != nil {
		return err.Error()
	}
	return text
}

func TestAnAnswerIsBoundedByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{}
		c := newCombiner(u, 100)
		c.limits.Answer = 300
		got := all(t.Context(), c, embed(`{"input":"a"}`), embed(`{"input":"`+strings.Repeat("b", 300)+`"}`))
		require.NoError(t, got[0].err)
		var e *schemas.CallError
		require.ErrorAs(t, got[1].err, &e)
		require.Contains(t, e.Message, "max_response")
		require.Positive(t, e.Usage.PromptTokens, "it was billed")
	})
}
