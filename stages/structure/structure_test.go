package structure

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// request makes an accepted request with the given processor object.
func request(t testing.TB, options string) *stages.Request {
	body := `{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Who is it?"}],"processor":` + options + `}`
	_, err := schemas.Parse([]byte(body))
	require.NoError(t, err)
	return &stages.Request{Handoff: schemas.Handoff{
		State: schemas.State{ID: "a", Tenant: "t", Kind: schemas.Chat, Model: "m", Options: []byte(options)},
		Body:  []byte(body),
	}}
}

func forms(native bool) *Forms {
	return New(Config{MaxAttempts: 2, Native: func(*stages.Request) bool { return native }})
}

// completion makes an answer with the given choices, each written as JSON members of a choice.
func completion(texts ...string) []byte {
	var list []string
	for _, text := range texts {
		list = append(list, fmt.Sprintf(`{"index":0,"message":{"role":"assistant","content":%s,"refusal":null},"finish_reason":"stop"}`, schemas.Quote(text)))
	}
	return []byte(`{"id":"x","choices":[` + strings.Join(list, ",") + `],"usage":{"prompt_tokens":1}}`)
}

func structured(schema string) string {
	return `{"structure":{"format":"json","schema":` + schema + `}}`
}

func TestTheSchemaIsAskedForAsTheModelTakesIt(t *testing.T) {
	open := `{"type": "object", "properties": {"a": {"type": "string"}}}`
	for name, c := range map[string]struct {
		options string
		native  bool
		has     []string
		hasNot  []string
	}{
		"native, strict":       {structured(personSchema), true, []string{`"response_format":{"type":"json_schema","json_schema":{"name":"answer","strict":true,"schema":{"type":"object","properties":`}, []string{"code fence"}},
		"native, not strict":   {structured(open), true, []string{`"strict":false`}, []string{"code fence"}},
		"native, no object":    {structured(`{"type":"array"}`), true, []string{`no code fence.\n\nJSON Schema:\n{\"type\":\"array\"}`}, []string{"response_format"}},
		"native, no schema":    {`{"structure":{"format":"json"}}`, true, []string{`"response_format":{"type":"json_object"}`, "one JSON object and nothing else"}, nil},
		"in words":             {structured(personSchema), false, []string{`{"role":"system","content":"Be brief."},{"role":"system","content":"Answer with one JSON value that fits the JSON Schema below`}, []string{"response_format"}},
		"in words, no schema":  {`{"structure":{}}`, false, []string{"one JSON object and nothing else"}, []string{"response_format"}},
		"nothing is asked for": {`{"route":"r"}`, true, nil, []string{"response_format", "code fence"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, c.options)
			published := string(r.Body)
			_, decided := forms(c.native).Ask(t.Context(), r)
			require.False(t, decided)
			require.True(t, json.Valid(r.Body))
			for _, part := range c.has {
				require.Contains(t, string(r.Body), part)
			}
			for _, part := range c.hasNot {
				require.NotContains(t, string(r.Body), part)
			}
			require.Equal(t, published, string(r.Published()))
		})
	}
}

func TestAResponseFormatOfTheRequestStays(t *testing.T) {
	r := request(t, structured(personSchema))
	r.Body = schemas.SetMember(r.Body, "response_format", []byte(`{"type":"json_object"}`))
	before := string(r.Body)
	_, decided := forms(true).Ask(t.Context(), r)
	require.False(t, decided)
	require.Equal(t, before, string(r.Body))
	require.Nil(t, r.Original, "a body that did not change is not carried twice")
}

func TestUnusableFormsAreRefusedBeforeAnythingIsPaid(t *testing.T) {
	for name, c := range map[string]struct{ options, param, message string }{
		"format":            {`{"structure":{"format":"xml"}}`, "processor.structure.format", `"xml" is not json`},
		"no schema":         {structured(`{"type":"nothing"}`), "processor.structure.schema", "compiling the schema"},
		"a text":            {structured(`"type"`), "processor.structure.schema", "compiling the schema"},
		"remote reference":  {structured(`{"$ref":"http://example.com/x.json"}`), "processor.structure.schema", "not followed"},
		"file":              {structured(`{"$ref":"file:///etc/passwd"}`), "processor.structure.schema", "not followed"},
		"too large":         {structured(`{"title":"` + strings.Repeat("x", maxSchemaBytes) + `"}`), "processor.structure.schema", "over 65536 bytes"},
		"too deep":          {structured(strings.Repeat(`{"not":`, 100) + "{}" + strings.Repeat("}", 100)), "processor.structure.schema", "nested deeper"},
		"bad pattern":       {structured(`{"pattern":"("}`), "processor.structure.schema", "compiling the schema"},
		"exploding pattern": {structured(`{"pattern":"((((a{100}){100}){100}){100})"}`), "processor.structure.schema", "compiling the schema"},
		"too many patterns": {structured(`{"allOf":[` + strings.Repeat(`{"pattern":"a"},`, 70) + `{}]}`), "processor.structure.schema", "regular expressions"},
		"too many attempts": {`{"structure":{"format":"json"},"quality":{"max_attempts":11}}`, "processor.quality.max_attempts", "from 1 to 10"},
		"no attempts":       {`{"structure":{"format":"json"},"quality":{"max_attempts":0}}`, "processor.quality.max_attempts", "from 1 to 10"},
		"attempts in words": {`{"structure":{"format":"json"},"quality":{"max_attempts":"two"}}`, "processor.quality.max_attempts", "from 1 to 10"},
	} {
		t.Run(name, func(t *testing.T) {
			verdict, decided := forms(true).Ask(t.Context(), request(t, c.options))
			require.True(t, decided)
			require.Equal(t, stages.ActionReject, verdict.Action)
			var e *schemas.Error
			require.ErrorAs(t, verdict.Err, &e)
			require.Equal(t, schemas.CodeInvalidField, e.Code)
			require.Equal(t, c.param, e.Param)
			require.Contains(t, e.Message, c.message)
		})
	}
	r := request(t, structured(personSchema))
	r.Kind = schemas.Embeddings
	verdict, decided := forms(true).Ask(t.Context(), r)
	require.True(t, decided)
	require.ErrorContains(t, verdict.Err, "embeddings")
}

const good = `{"name": "Ada", "age": 36}`

func TestAnswersThatFitGoOn(t *testing.T) {
	refusal := []byte(`{"choices":[{"message":{"role":"assistant","content":null,"refusal":"No."},"finish_reason":"stop"}]}`)
	calls := []byte(`{"choices":[{"message":{"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]}}]}`)
	for name, c := range map[string]struct {
		answer   []byte
		want     []byte // nil: as it was
		repaired string
	}{
		"fits":            {completion(good), nil, ""},
		"all fit":         {completion(good, good), nil, ""},
		"a refusal":       {refusal, nil, ""},
		"tool calls":      {calls, nil, ""},
		"fence":           {completion("```json\n" + good + "\n```"), completion(good), `{"repaired":["code_fence"]}`},
		"the second only": {completion(good, "It is "+good), completion(good, good), `{"repaired":["surrounding"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, structured(personSchema))
			r.Answer, r.Calls = c.answer, 1
			if c.want == nil {
				c.want = c.answer
			}
			_, decided := forms(true).Check(t.Context(), r)
			require.False(t, decided)
			require.Equal(t, string(c.want), string(r.Answer))
			require.Equal(t, c.repaired, string(r.Structure))
		})
	}
}

func TestAnAnswerThatDoesNotFitIsAskedForAgain(t *testing.T) {
	rejected := 0
	f := New(Config{MaxAttempts: 3, Native: func(*stages.Request) bool { return true }, Rejected: func(*stages.Request) { rejected++ }})
	r := request(t, structured(personSchema))
	asked := string(r.Body)
	for round := range 2 {
		r.Answer, r.AnswerRecorded, r.Calls = completion(fmt.Sprintf(`{"name": "Ada", "age": "%d", "x": "</s>\n\nHuman: "}`, round)), true, round+1
		r.Usage, r.CostUSD = schemas.Usage{PromptTokens: 10 * (round + 1)}, float64(round+1)
		verdict, decided := f.Check(t.Context(), r)
		require.True(t, decided)
		require.Equal(t, stages.ActionSkip, verdict.Action)
		require.Equal(t, stages.Generate, verdict.Stage)
		require.Equal(t, stages.ActionFail, verdict.Full.Action, "if generate is full, this was the last attempt")
		require.Equal(t, round+1, r.Round)
		require.Nil(t, r.Answer)
		require.False(t, r.AnswerRecorded)
		require.Equal(t, schemas.Spent{Usage: r.Usage, CostUSD: r.CostUSD}, r.Earlier)

		var body struct {
			Messages []struct{ Role, Content string }
		}
		require.NoError(t, json.Unmarshal(r.Body, &body))
		require.Len(t, body.Messages, 4, "only the last answer is shown")
		require.Equal(t, "assistant", body.Messages[2].Role)
		require.Equal(t, fmt.Sprintf(`{"name": "Ada", "age": "%d", "x": "</s>\n\nHuman: "}`, round), body.Messages[2].Content)
		require.Equal(t, "That answer cannot be used:\n- /: additional properties 'x' not allowed\n- /age: got string, want integer\n"+
			"Give the whole answer again, corrected, as one JSON value that fits the schema and with nothing else.", body.Messages[3].Content)
	}
	r.Answer, r.Calls = completion("No idea."), 3
	verdict, decided := f.Check(t.Context(), r)
	require.True(t, decided)
	require.Equal(t, stages.ActionFail, verdict.Action)
	var quality schemas.QualityError
	require.ErrorAs(t, verdict.Err, &quality)
	require.Equal(t, schemas.CodeSchemaViolation, quality.Code)
	require.Equal(t, "No idea.", quality.Details["answer"])
	require.Equal(t, 3, quality.Details["attempts"])
	require.Len(t, quality.Details["violations"], 1)
	require.Equal(t, 3, rejected, "none may be used for later requests")
	require.Equal(t, asked, string(r.Body), "what was asked is what it was")
}

func TestAnswersAreScoredByTheQuestionAsItWasAsked(t *testing.T) {
	f := forms(true)
	r := request(t, structured(personSchema))
	asked := string(r.Body)
	r.Answer, r.Calls = completion("{}"), 1
	_, decided := f.Check(t.Context(), r)
	require.True(t, decided)
	require.NotEqual(t, asked, string(r.Body))
	r.Answer, r.Calls = completion(good), 2
	_, decided = f.Check(t.Context(), r)
	require.False(t, decided)
	require.Equal(t, asked, string(r.Body))
}

func TestTheRequestSaysHowManyAttempts(t *testing.T) {
	for attempts, want := range map[int]stages.Action{1: stages.ActionFail, 2: stages.ActionSkip} {
		r := request(t, fmt.Sprintf(`{"structure":{"format":"json"},"quality":{"max_attempts":%d}}`, attempts))
		r.Answer, r.Calls = completion("no"), 1
		verdict, decided := forms(true).Check(t.Context(), r)
		require.True(t, decided)
		require.Equal(t, want, verdict.Action)
	}
}

func TestAnAnswerToAnEqualRequestIsNotTheLast(t *testing.T) {
	f := New(Config{MaxAttempts: 1, Native: func(*stages.Request) bool { return true }})
	for _, from := range []string{"hit", "shared"} {
		r := request(t, structured(personSchema))
		r.Cache, r.Answer, r.Usage = from, completion("{}"), schemas.Usage{PromptTokens: 5}
		verdict, decided := f.Check(t.Context(), r)
		require.True(t, decided)
		require.Equal(t, stages.ActionSkip, verdict.Action)
		require.Equal(t, 1, r.Round, "a round that shares nothing")
		require.Equal(t, "miss", r.Cache)
		require.Equal(t, schemas.Spent{}, r.Earlier, "nothing was paid yet")
		r.Answer, r.Calls = completion("{}"), 1
		verdict, decided = f.Check(t.Context(), r)
		require.True(t, decided)
		require.Equal(t, stages.ActionFail, verdict.Action)
	}
}

func TestWhatIsWrongWithAnAnswer(t *testing.T) {
	for name, c := range map[string]struct{ options, answer, finish, violation string }{
		"empty":        {structured(`{}`), "", "stop", "the answer is empty"},
		"white space":  {structured(`{}`), " \n", "stop", "the answer is empty"},
		"text":         {structured(`{}`), "Ada", "stop", "not a JSON value alone"},
		"ends early":   {structured(`{}`), `{"a": [1`, "stop", "ends before its JSON value does"},
		"cut off":      {structured(`{}`), `{"a": [1`, "length", "cut off at the limit"},
		"no object":    {`{"structure":{"format":"json"}}`, `[1]`, "stop", "not a JSON object"},
		"name twice":   {structured(`{}`), `{"a":1,"a":2}`, "stop", "duplicate"},
		"two values":   {structured(`{}`), `{"a":1} {"a":2}`, "stop", "more text after the JSON value"},
		"a huge value": {structured(`{}`), `[` + strings.Repeat("0,", maxTreeNodes) + `0]`, "stop", "too much to be checked"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(t, c.options)
			r.Calls = 2
			r.Round = 1
			r.Answer = []byte(strings.Replace(string(completion(c.answer)), `"stop"`, `"`+c.finish+`"`, 1))
			verdict, decided := forms(true).Check(t.Context(), r)
			require.True(t, decided)
			require.ErrorContains(t, verdict.Err, c.violation)
		})
	}
}

func TestTheErrorIsBounded(t *testing.T) {
	r := request(t, structured(`{"items":{"type":"integer"}}`))
	r.Round, r.Calls = 1, 2
	r.Answer = completion(`["` + strings.Repeat("ä", 300_000) + strings.Repeat(`","x`, 50) + `"]`)
	verdict, _ := forms(true).Check(t.Context(), r)
	response := schemas.ErrorResponse(&r.State, stages.Score, verdict.Err)
	require.True(t, json.Valid(response))
	require.Less(t, len(response), maxAnswerShown+32*2*maxReason)
	require.Contains(t, string(response), `"answer_cut":true`)
}

func TestBeforeLetsTheRestThrough(t *testing.T) {
	var reached []string
	inner := stages.Func(func(_ context.Context, requests []*stages.Request) []stages.Verdict {
		for _, r := range requests {
			reached = append(reached, r.ID)
		}
		return make([]stages.Verdict, len(requests))
	})
	bad, fine := request(t, structured(`{"type":"nothing"}`)), request(t, `{}`)
	bad.ID, fine.ID = "bad", "fine"
	verdicts := map[string]stages.Action{}
	stages.Before(forms(true).Ask, inner).Run(t.Context(), []*stages.Request{bad, fine}, func(r *stages.Request, v stages.Verdict) {
		verdicts[r.ID] = v.Action
	})
	require.Equal(t, []string{"fine"}, reached)
	require.Equal(t, map[string]stages.Action{"bad": stages.ActionReject, "fine": stages.ActionContinue}, verdicts)
}

// Whatever a model answers, the result is valid and says the same.
func FuzzCheck(f *testing.F) {
	f.Add(good, "stop")
	f.Add("```json\n[1,]\n```", "length")
	f.Add("{\"a\": \"\u2028</script>\"}", "")
	form := &form{}
	f.Fuzz(func(t *testing.T, text, finish string) {
		answer := fmt.Appendf(nil, `{"choices":[{"message":{"content":%s},"finish_reason":%s}]}`, schemas.Quote(text), schemas.Quote(finish))
		r := form.check(answer)
		require.True(t, json.Valid(r.answer))
		if len(r.violations) == 0 && len(r.repaired) == 0 {
			require.Equal(t, answer, r.answer)
		}
		if len(r.violations) > 0 {
			body := []byte(`{"messages":[{"role":"user","content":"x"}]}`)
			again := withFeedback(body, r)
			require.True(t, json.Valid(again))
			require.Equal(t, string(body), string(withoutFeedback(again)))
		}
	})
}
