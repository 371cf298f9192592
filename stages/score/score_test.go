package score

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

// ask builds a request with one user message.
func ask(prompt string) []byte { return askWith("", prompt) }

// askWith builds a request with a system message, if any, and a user message.
func askWith(system, prompt string) []byte {
	var messages []any
	if system != "" {
		messages = append(messages, map[string]any{"role": "system", "content": system})
	}
	messages = append(messages, map[string]any{"role": "user", "content": prompt})
	return encode(map[string]any{"model": "m", "messages": messages})
}

// reply builds a completion with one choice.
func reply(text, finish string) []byte {
	return encode(map[string]any{"id": "c", "object": "chat.completion", "choices": []any{map[string]any{
		"index": 0, "finish_reason": finish, "message": map[string]any{"role": "assistant", "content": text}}}})
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

const (
	question = "How does a durable consumer of a stream differ from an ephemeral one?"
	answer   = "A durable consumer keeps its place on the server by name, so a worker can die and resume. An ephemeral one is removed when its reader goes away. Use the first for work and the second for a look."
)

func TestFlags(t *testing.T) {
	s := New(DefaultConfig())
	list := "Do this:\n" + strings.Repeat("- look at the next item of the list and mark it as done\n", 6)
	for _, c := range []struct {
		name, prompt, answer, finish string
		flags                        []string
	}{
		{"a good answer", question, answer, "stop", nil},
		{"a short answer", "What is the capital of France?", "Paris.", "stop", nil},
		{"a number", "What is 6 times 7?", "42", "stop", nil},
		{"an emoji", "Do you like it?", "👍", "stop", nil},
		{"length limit", question, answer, "length", []string{Truncated}},
		{"nothing", question, "", "stop", []string{Empty}},
		{"white space", question, " \n\t", "stop", []string{Empty}},
		{"invisible", question, "\x00\u200b\u2060\ufeff", "stop", []string{Empty}},
		{"nothing at the limit", question, "", "length", []string{Truncated, Empty}},
		{"filtered", question, answer, "content_filter", []string{Refusal}},
		{"open code block", "Write a loop.", "Here it is:\n\n```go\nfor {\n\twork()\n", "stop", []string{Truncated}},
		{"closed code block", "Write a loop.", "Here it is:\n\n```go\nfor {\n\twork()\n}\n```", "stop", nil},
		{"open JSON", "Give me some data.", `{"a": [1, 2, {"b": "c`, "stop", []string{Truncated}},
		{"JSON", "Give me some data.", `{"a": [1, 2, {"b": "c"}]}`, "stop", nil},
		{"a citation", "Who said so?", "[1] says so, and nobody else does.", "stop", nil},
		{"ends in a sentence", question, answer + " There is a third kind that", "stop", []string{Truncated}},
		{"ends on a comma", question, strings.TrimSuffix(answer, "."), "stop", []string{Truncated}},
		{"ends on an article", question, "A durable consumer keeps its place on the server by name, and an ephemeral one is removed by the", "stop", []string{Truncated}},
		{"a letter's end", "Write a letter to the harbour.", "Dear harbour master,\n\nthank you for the berth that you kept for us last week. We hope to be back.\n\nBest regards,", "stop", nil},
		{"a title at the end", "Name a book.", "I would read this one first, as it is short and says all there is to say.\n\nThe Sea Around Us", "stop", nil},
		{"a sentence for ever", question, strings.Repeat("The consumer keeps its place on the server. ", 40), "stop", []string{Repetition}},
		{"ends in a loop", question, answer + strings.Repeat(" and so on and on", 30), "stop", []string{Repetition}},
		{"one word for ever", question, strings.Repeat("stream ", 500), "stop", []string{Repetition}},
		{"one letter for ever", question, strings.Repeat("a", 5000), "stop", []string{Repetition}},
		{"an ideograph for ever", "说说海港。", strings.Repeat("海", 500), "stop", []string{Repetition}},
		{"one line for ever", question, list, "stop", []string{Repetition}},
		{"a rule", "Draw a line.", "Here it is:\n\n" + strings.Repeat("-", 300) + "\n\nIs it long enough?", "stop", nil},
		{"a table", "Count.", numbers(60), "stop", nil},
		{"the question again", question, question, "stop", []string{Echo}},
		{"the question again, long", strings.Repeat(question+" ", 3) + answer, strings.Repeat(question+" ", 3) + answer, "stop", []string{Echo}},
		{"the question and an answer", question, question + "\n\n" + answer, "stop", nil},
		{"an extract", "Summarise this: " + answer + " There is more to say of both, but not here.", answer, "stop", nil},
		{"a greeting given back", "Hello there!", "Hello there!", "stop", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := s.Score(ask(c.prompt), reply(c.answer, c.finish), Options{})
			require.NoError(t, err)
			require.Equal(t, c.flags, r.Flags)
			inRange(t, r)
		})
	}
}

// numbers writes a table whose rows differ.
func numbers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "| %d | %d | %d |\n", i, i*i, i*i*i)
	}
	return b.String()
}

func inRange(t *testing.T, r Result) {
	t.Helper()
	for _, m := range append(r.Metrics, Metric{"score", r.Score}) {
		require.False(t, math.IsNaN(m.Value), m.Name)
		require.GreaterOrEqual(t, m.Value, 0.0, m.Name)
		require.LessOrEqual(t, m.Value, 1.0, m.Name)
	}
}

func TestRefusals(t *testing.T) {
	s := New(DefaultConfig())
	for text, refusal := range map[string]bool{
		"I'm sorry, but I can't assist with that.":                                          true,
		"I’m sorry, but I can’t help with that request.":                                    true,
		"Sorry, I can't do that.":                                                           true,
		"I cannot fulfill your request. It would be illegal.":                               true,
		"I won't write that.":                                                               true,
		"I must decline.":                                                                   true,
		"That is not something I can help with.":                                            true,
		"I'd rather not discuss this topic.":                                                true,
		"Unfortunately, I am not able to provide instructions for this.":                    true,
		"As a language model, I am unable to give medical advice.":                          true,
		"I can help with that! Here is the code you need: it reads a file.":                 false,
		"You cannot divide by zero, so the result is not defined.":                          false,
		"Sorry for the delay! The answer is 42.":                                            false,
		"The capital is Paris. It is not Lyon.":                                             false,
		"No.":                                                                               false,
		"Dear Sir, I am sorry that I cannot attend the meeting on Monday.":                  false,
		"We were unable to deliver your parcel; please call us to arrange another day.":     false,
		"Ibsen wrote it. He would not explain the ending, and neither can his biographers.": false,
		answer: false,
	} {
		r, err := s.Score(ask("What is the answer to this?"), reply(text, "stop"), Options{})
		require.NoError(t, err)
		require.Equal(t, refusal, r.Has(Refusal), text)
	}
}

func TestRefusalMember(t *testing.T) {
	r, err := New(DefaultConfig()).Score(ask(question), []byte(`{"choices":[{"finish_reason":"stop","message":{"content":null,"refusal":"I can't."}}]}`), Options{})
	require.NoError(t, err)
	require.Equal(t, []string{Refusal}, r.Flags)
}

func TestRelevance(t *testing.T) {
	s := New(Config{Metrics: []string{Relevance}, MaxAttempts: 1})
	measure := func(prompt, text string) float64 {
		r, err := s.Score(ask(prompt), reply(text, "stop"), Options{})
		require.NoError(t, err)
		return r.Metrics[0].Value
	}
	other := "Preheat the oven, whisk the eggs with sugar until they are pale, fold in the flour and bake the cake for half an hour."
	require.Equal(t, 1.0, measure(question, answer))
	require.Less(t, measure(question, other), 0.4)
	require.Greater(t, measure("What is the capital of France?", "Paris."), 0.7, "too short to tell")
}

func TestGroundedness(t *testing.T) {
	s := New(Config{Metrics: []string{Groundedness}, MaxAttempts: 1})
	source := strings.Repeat("The quick harbour pilot met nobody. ", 3) + answer + " It was raining, and the boats that had gone out in the night were late to come back, as they had been the day before and on most days of that month, which was the wettest of the year. Nobody minded much. The market opened at nine, as it always did, and whoever wanted fish had to wait. By ten the first boat was seen behind the pier, and then the others one by one, low in the water and slow."
	r, err := s.Score(ask("Summarise this.\n\n"+source), reply(answer, "stop"), Options{})
	require.NoError(t, err)
	inside, ok := r.Metric(Groundedness)
	require.True(t, ok, "a long prompt is a context")
	require.Greater(t, inside, 0.9)

	r, err = s.Score(ask("Summarise it."), reply(answer, "stop"), Options{Context: []byte(source)})
	require.NoError(t, err)
	given, _ := r.Metric(Groundedness)
	require.InDelta(t, inside, given, 1e-9)

	r, err = s.Score(ask("Summarise this.\n\n"+source), reply("The pilots of the city protested against new rules for durable goods in nine countries.", "stop"), Options{})
	require.NoError(t, err)
	outside, _ := r.Metric(Groundedness)
	require.Less(t, outside, 0.2)

	r, err = s.Score(ask(question), reply(answer, "stop"), Options{})
	require.NoError(t, err)
	require.Empty(t, r.Metrics, "a question is no context")
	require.Equal(t, 1.0, r.Score)
}

func TestPair(t *testing.T) {
	s := New(DefaultConfig())
	good, short, loop := reply(answer, "stop"), reply("A name.", "stop"), reply(strings.Repeat("The consumer keeps its place. ", 40), "stop")
	for _, c := range [][2][]byte{{good, short}, {good, loop}, {good, reply("I'm sorry, but I can't help with that.", "stop")}, {good, reply("", "stop")}} {
		p, err := s.Pair(ask(question), c[0], c[1], Options{})
		require.NoError(t, err)
		require.Greater(t, p, 0.5, string(c[1]))
		swapped, err := s.Pair(ask(question), c[1], c[0], Options{})
		require.NoError(t, err)
		require.InDelta(t, 1-p, swapped, 1e-12)
	}
	p, err := s.Pair(ask(question), good, good, Options{})
	require.NoError(t, err)
	require.Equal(t, 0.5, p)
	_, err = s.Pair(ask(question), good, []byte("no"), Options{})
	require.ErrorContains(t, err, "second answer")
}

func TestWorstChoiceCounts(t *testing.T) {
	choice := func(text string) any {
		return map[string]any{"finish_reason": "stop", "message": map[string]any{"content": text}}
	}
	r, err := New(DefaultConfig()).Score(ask(question), encode(map[string]any{"choices": []any{choice(answer), choice(""), choice(answer)}}), Options{})
	require.NoError(t, err)
	require.Equal(t, []string{Empty}, r.Flags)
	require.Zero(t, r.Score)
}

func TestMetricsOfTheRequest(t *testing.T) {
	s := New(DefaultConfig())
	r, err := s.Score(ask(question), reply(answer, "stop"), Options{Metrics: []string{Coherence, "taste"}})
	require.NoError(t, err)
	require.Len(t, r.Metrics, 1)
	require.Equal(t, Coherence, r.Metrics[0].Name)
	require.Equal(t, r.Metrics[0].Value, r.Score)
}

func TestContentParts(t *testing.T) {
	request := []byte(`{"messages":[{"role":"user","content":[{"type":"text","text":"How does a durable consumer"},
		{"type":"image_url","image_url":{"url":"x"}},{"type":"text","text":"of a stream differ from an ephemeral one?"}]}]}`)
	whole, err := New(DefaultConfig()).Score(ask(question), reply(answer, "stop"), Options{})
	require.NoError(t, err)
	parts, err := New(DefaultConfig()).Score(request, reply(answer, "stop"), Options{})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(whole, parts))
}

func TestEscapedNames(t *testing.T) {
	completion := []byte(`{"\u0063hoices":[{"finish\u005freason":"length","message":{"content":"x\u0041"}}]}`)
	r, err := New(DefaultConfig()).Score(ask(question), completion, Options{})
	require.NoError(t, err)
	require.Equal(t, []string{Truncated}, r.Flags)
}

func TestNotReadable(t *testing.T) {
	s := New(DefaultConfig())
	good := reply(answer, "stop")
	for name, c := range map[string]struct {
		request, completion string
		says                string
	}{
		"request is no JSON":      {"no", string(good), "reading the request"},
		"request is no object":    {"[]", string(good), "reading the request: not a JSON object"},
		"completion is empty":     {string(ask(question)), "", "reading the completion"},
		"completion is HTML":      {string(ask(question)), "<html>", "reading the completion"},
		"completion is cut off":   {string(ask(question)), string(good[:len(good)-5]), "reading the completion"},
		"completion goes on":      {string(ask(question)), string(good) + "{}", "reading the completion: more data"},
		"completion repeats":      {string(ask(question)), `{"choices":[],"choices":[]}`, "duplicate"},
		"completion is too deep":  {string(ask(question)), strings.Repeat(`{"choices":`, 20_000), "reading the completion"},
		"completion is too large": {string(ask(question)), strings.Repeat(" ", maxBody+1), "over 16777216 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Score([]byte(c.request), []byte(c.completion), Options{})
			require.ErrorContains(t, err, c.says)
		})
	}
}

// Shapes that no provider should send are read as answers without text.
func TestOddShapes(t *testing.T) {
	s := New(DefaultConfig())
	for _, completion := range []string{
		`{}`, `{"choices":null}`, `{"choices":{}}`, `{"choices":[]}`, `{"choices":[null]}`, `{"choices":[1,"x",[]]}`,
		`{"choices":[{"message":null}]}`, `{"choices":[{"message":{"content":null}}]}`, `{"choices":[{"message":{"content":5}}]}`,
		`{"choices":[{"message":{"content":[]}}]}`, `{"choices":[{"message":{"content":[{"text":null}]}}]}`,
		`{"choices":[{"message":{"tool_calls":{}}}]}`, `{"choices":[{"finish_reason":7,"message":{}}]}`,
	} {
		r, err := s.Score(ask(question), []byte(completion), Options{})
		require.NoError(t, err, completion)
		require.Equal(t, []string{Empty}, r.Flags, completion)
		require.Zero(t, r.Score)
	}
	for _, request := range []string{`{}`, `{"messages":null}`, `{"messages":[null,1,{"role":1,"content":2}],"tools":1,"response_format":2,"processor":3}`} {
		r, err := s.Score([]byte(request), reply(answer, "stop"), Options{})
		require.NoError(t, err, request)
		require.Empty(t, r.Flags)
	}
}

// hostile is content that has been used, or could be, to hang a scorer.
var hostile = map[string]string{
	"100,000 repeated tokens":    strings.Repeat("token ", 100_000),
	"100,000 different tokens":   numbers(33_000),
	"1 MB of one letter":         strings.Repeat("a", 1<<20),
	"1 MB of quotes":             strings.Repeat(`"`, 1<<20),
	"1 MB of NUL":                strings.Repeat("\x00", 1<<20),
	"1 MB of new lines":          strings.Repeat("\n", 1<<20),
	"1 MB of code fences":        strings.Repeat("```\n", 1<<18),
	"unclosed JSON":              strings.Repeat(`{"a":[`, 100_000),
	"unclosed JSON string":       `{"a":"` + strings.Repeat(`\"`, 200_000),
	"mixed scripts":              strings.Repeat("a я α ש ع क ก 海 ひ 한 ", 40_000),
	"combining marks":            "a" + strings.Repeat("\u0301", 400_000),
	"replacement characters":     strings.Repeat("\ufffd", 300_000),
	"right to left and joiners":  strings.Repeat("\u202e\u200d\u2066x", 100_000),
	"sorry without end":          strings.Repeat("i cannot rather ", 50_000),
	"full stops":                 strings.Repeat("a. B ", 200_000),
	"emoji":                      strings.Repeat("👩‍👩‍👧‍👦", 40_000),
	"a language without end":     strings.Repeat("in French ", 100_000),
	"numbers of a gigabyte each": "[" + strings.Repeat("1e1000000000,", 50_000) + "1]",
}

// Every hostile answer, and prompt, is scored in a time that grows linearly with its size.
func TestHostileContent(t *testing.T) {
	s := New(Config{Metrics: []string{Relevance, Coherence, Groundedness}, MaxAttempts: 1})
	schema := []byte(personSchema)
	for name, text := range hostile {
		t.Run(name, func(t *testing.T) {
			if raceEnabled { // ten times as slow, and nothing to find in size
				text = strings.ToValidUTF8(text[:len(text)/10], "")
			}
			start := time.Now()
			r, err := s.Score(ask(question), reply(text, "stop"), Options{Context: []byte(text), Schema: schema})
			require.NoError(t, err)
			inRange(t, r)
			require.NotEmpty(t, r.Flags)
			_, err = s.Score(askWith(text, text), reply(text, ""), Options{})
			require.NoError(t, err)
			// Either takes tens of milliseconds; what this catches takes minutes.
			require.Less(t, time.Since(start), time.Minute)
		})
	}
}

// What a large input needed is not held on to.
func TestScratchIsBounded(t *testing.T) {
	s := New(DefaultConfig())
	big := strings.Repeat("some words that are long enough ", 30_000)
	_, err := s.Score(ask(big), reply(big, "stop"), Options{})
	require.NoError(t, err)
	for range 100 { // the pool may hold others, but none that is large
		x := s.pool.Get().(*scratch)
		require.LessOrEqual(t, cap(x.prompt)+cap(x.output), maxKept)
	}
}

func TestConcurrentAndDeterministic(t *testing.T) {
	s := New(Config{Metrics: []string{Relevance, Coherence, Groundedness}, MaxAttempts: 1})
	type given struct{ request, completion []byte }
	cases := []given{
		{ask(question), reply(answer, "stop")},
		{askFor(`"response_format": {"type": "json_schema", "json_schema": {"schema": ` + personSchema + `}}`), reply(`{"name": 1}`, "stop")},
		{ask(samples[german]), reply(samples[chinese], "length")},
		{ask(hostile["mixed scripts"][:5000]), reply(hostile["100,000 different tokens"][:5000], "stop")},
	}
	want := make([]Result, len(cases))
	for i, c := range cases {
		var err error
		want[i], err = New(Config{Metrics: s.metrics, MaxAttempts: 1}).Score(c.request, c.completion, Options{})
		require.NoError(t, err)
	}
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for n := range 100 {
				i := (worker + n) % len(cases)
				got, err := s.Score(cases[i].request, cases[i].completion, Options{})
				if err != nil || !cmp.Equal(want[i], got) {
					t.Errorf("case %d: %v %s", i, err, cmp.Diff(want[i], got))
				}
			}
		})
	}
	group.Wait()
}

func TestConfigValidate(t *testing.T) {
	require.NoError(t, DefaultConfig().Validate())
	for says, change := range map[string]func(*Config){
		"at least one":       func(c *Config) { c.Metrics = nil },
		`"taste" is not one`: func(c *Config) { c.Metrics = []string{"taste"} },
		"named twice":        func(c *Config) { c.Metrics = []string{Relevance, Relevance} },
		"threshold":          func(c *Config) { c.Threshold = 1.1 },
		"threshold: NaN":     func(c *Config) { c.Threshold = math.NaN() },
		"max_attempts":       func(c *Config) { c.MaxAttempts = 0 },
	} {
		c := DefaultConfig()
		change(&c)
		require.ErrorContains(t, c.Validate(), says)
	}
}

// Few allocations are part of the contract: the result's, and no more for an ordinary answer.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	s := New(DefaultConfig())
	request, completion := ask(question), reply(answer, "stop")
	allocations := testing.AllocsPerRun(100, func() {
		if _, err := s.Score(request, completion, Options{}); err != nil {
			t.Fatal(err)
		}
	})
	require.LessOrEqual(t, allocations, 4.0)
}

func FuzzScore(f *testing.F) {
	f.Add([]byte(answer), []byte(`{"type": "object"}`), false)
	f.Add(reply(answer, "stop"), []byte(personSchema), true)
	f.Add([]byte(`{"choices":[{"message":{"tool_calls":[{"function":{"name":"f","arguments":"{"}}]}}]}`), []byte(`{"enum":[1]}`), true)
	f.Add([]byte("```json\n{\"a\": 1e999}\n```\xff\x00"), []byte(branching), false)
	for _, text := range samples {
		f.Add([]byte(text), []byte(`true`), false)
	}
	s := New(Config{Metrics: []string{Relevance, Coherence, Groundedness}, MaxAttempts: 1})
	f.Fuzz(func(t *testing.T, content, schema []byte, raw bool) {
		completion := content
		if !raw {
			completion = reply(string(content), "")
		}
		tools := askFor(`"tools": [{"function": {"name": "f", "parameters": {"type": "object"}}}]`)
		opts := Options{Context: content, Schema: schema}
		first, err := s.Score(tools, completion, opts)
		again, errAgain := s.Score(tools, completion, opts)
		if raw && err != nil {
			require.Error(t, errAgain)
			return
		}
		require.NoError(t, err, "content that is a JSON string can be scored, whatever it is")
		require.Empty(t, cmp.Diff(first, again))
		inRange(t, first)
	})
}

func BenchmarkScore(b *testing.B) {
	s := New(DefaultConfig())
	prompt := strings.Repeat("Explain how a durable consumer on a stream differs from an ephemeral one, and when each is right. ", 10)
	var long strings.Builder
	for i := 0; long.Len() < 1800; i++ { // about 400 tokens
		fmt.Fprintf(&long, "%s Case %d: %s ", answer[i*7:], i, answer[:i*9])
	}
	for _, c := range []struct{ name, prompt, answer string }{
		{"1KB prompt, 200 byte answer", prompt, answer},
		{"250 token prompt, 400 token answer", prompt, long.String()},
	} {
		request, completion := ask(c.prompt), reply(c.answer, "stop")
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Score(request, completion, Options{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
