package schemas

import (
	"bytes"
	"math"
	"reflect"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

func exampleHandoff() *Handoff {
	return &Handoff{
		State: State{
			ID: "r-1", Tenant: "acme", Class: Batch, Sequence: 1795424474738,
			Accepted: 1795424474738, Deadline: 1795424999999,
			Kind: Chat, Model: "auto", Options: []byte(`{"route":"summaries"}`), BodyHash: "00ff",
			Tokens: Tokens{900, 610, 290}, Stages: Timings{{"compress", 0.2, 0.4}},
		},
		Body: []byte(`{"x": "a body with a\nline"}`), Original: []byte("{ }"), Answer: []byte(`{"choices":[]}`),
	}
}

// scoredHandoff is what most requests are before the last stage.
func scoredHandoff() *Handoff {
	return &Handoff{
		State: State{
			ID: "1795449981248", Tenant: "bench", Class: Interactive, Sequence: 1795449981248, Accepted: 1795449991689,
			Kind: Chat, Model: "gpt-4o", BodyHash: "99dcdb4bdfbda802300927202563ae35",
			Fingerprint: "61dc29c860d9adf18894811d00bb8c7b91a70f42171decca2c677f9244da9833", Cache: "miss",
			Tokens:   Tokens{PromptOriginal: 16, PromptSent: 16},
			Selected: Selected{Model: "gpt-4o", Provider: "simulated", Because: "only provider"},
			Calls:    1, Usage: Usage{PromptTokens: 16, CompletionTokens: 3, TotalTokens: 19},
			Stages: Timings{{"compress", 0.001, 0.779}, {"cache", 0.616, 0.019}, {"batch", 0.849, 0.005}, {"generate", 0.23, 5.977}},
		},
		Body: bytes.Repeat([]byte("b"), 119), Answer: bytes.Repeat([]byte("a"), 340),
	}
}

func TestHandoffsRoundTrip(t *testing.T) {
	first, second := exampleHandoff(), exampleHandoff()
	second.ID, second.Original, second.Answer, second.Deadline = "r-2", nil, nil, 0
	data, err := AppendHandoff(nil, first)
	require.NoError(t, err)
	data, err = AppendHandoff(data, second)
	require.NoError(t, err)

	got, rest, err := ReadHandoff(data)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(first, got))
	got, rest, err = ReadHandoff(rest)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(second, got))
	require.Empty(t, rest)
}

// line gives the state line that AppendHandoff writes of a state.
func line(t testing.TB, s *State) []byte {
	t.Helper()
	data, err := AppendHandoff(nil, &Handoff{State: *s})
	require.NoError(t, err)
	return bytes.TrimSuffix(data, []byte{'\n'})
}

// requireSameLine holds that the line of a state is that of the general encoder,
// and that it is read without the general decoder.
func requireSameLine(t *testing.T, s *State) {
	t.Helper()
	want, err := json.Marshal(&handoffLine{State: *s})
	require.NoError(t, err)
	require.Equal(t, string(want), string(line(t, s)))
	var got, general State
	_, ok := readUsualLine(want, &got)
	require.True(t, ok, "only the general decoder reads %s", want)
	_, err = readAnyLine(want, &general)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(general, got))
}

// TestLinesHaveEveryField fails when a field is added to State, or to what it
// holds, that the writer or the reader of lines does not know.
func TestLinesHaveEveryField(t *testing.T) {
	requireSameLine(t, new(State))
	var all State
	n := 0
	forEachField(reflect.ValueOf(&all).Elem(), "State", func(path string, set func()) {
		n++
		set()
	})
	require.Greater(t, n, 50)
	requireSameLine(t, &all)

	for i := range n { // each on its own, beside those that are always written
		var s State
		at, name := 0, ""
		forEachField(reflect.ValueOf(&s).Elem(), "State", func(path string, set func()) {
			if at == i {
				name = path
				set()
			}
			at++
		})
		t.Run(name, func(t *testing.T) { requireSameLine(t, &s) })
	}
}

// forEachField calls do for every value below v that has no parts, with what
// gives it a value that is not zero. Lists and pointers get one element, once
// something in it is set.
func forEachField(v reflect.Value, path string, do func(path string, set func())) {
	if v.Type() == reflect.TypeFor[jsontext.Value]() {
		do(path, func() { v.Set(reflect.ValueOf(jsontext.Value(`{"a":["b",1]}`))) })
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			forEachField(v.Field(i), path+"."+v.Type().Field(i).Name, do)
		}
	case reflect.Pointer:
		element := reflect.New(v.Type().Elem())
		forEachField(element.Elem(), path, func(path string, set func()) {
			do(path, func() { set(); v.Set(element) })
		})
	case reflect.Slice:
		element := reflect.New(v.Type().Elem()).Elem()
		forEachField(element, path+"[]", func(path string, set func()) {
			do(path, func() { set(); v.Set(reflect.Append(reflect.MakeSlice(v.Type(), 0, 1), element)) })
		})
	case reflect.String:
		do(path, func() { v.SetString("some text") })
	case reflect.Bool:
		do(path, func() { v.SetBool(true) })
	case reflect.Int, reflect.Int64:
		do(path, func() { v.SetInt(12) })
	case reflect.Uint64:
		do(path, func() { v.SetUint(12) })
	case reflect.Float64:
		do(path, func() { v.SetFloat(1.25) })
	default:
		panic("no value for " + path + " of " + v.Type().String())
	}
}

func TestLinesOfUnusualValues(t *testing.T) {
	for name, change := range map[string]func(s *State){
		"quotes":             func(s *State) { s.Model = `a"b\c` },
		"control characters": func(s *State) { s.Model = "a\nb\x00c\x7f" },
		"other alphabets":    func(s *State) { s.Model = "модель-模型" },
		"line separators":    func(s *State) { s.Model = "\u2028<&>" },
		"negative":           func(s *State) { s.Attempt, s.Accepted = -3, -1 },
		"huge":               func(s *State) { s.Sequence, s.Accepted = math.MaxUint64, math.MaxInt64 },
		"small parts":        func(s *State) { s.CostUSD = 1.5e-9 },
		"large":              func(s *State) { s.CostUSD = 2.5e+30 },
		"negative zero":      func(s *State) { s.CostUSD = math.Copysign(0, -1) },
		"empty lists":        func(s *State) { s.Tried, s.Stages, s.Attempts = []string{}, Timings{}, []Attempt{} },
		"empty tries":        func(s *State) { s.Selected.Tried = []Tried{} },
		"several":            func(s *State) { s.Tried, s.Stages = []string{"a", "b"}, Timings{{"a", 1, 2}, {"b", 3, 4}} },
		"options over lines": func(s *State) { s.Options = jsontext.Value("{\n  \"a\": [1, 2.50, \"\\u0041\"]\n}") },
		"null":               func(s *State) { s.Options = jsontext.Value("null") },
		"a plain value":      func(s *State) { s.Options = jsontext.Value("12") },
	} {
		t.Run(name, func(t *testing.T) {
			s := exampleHandoff().State
			change(&s)
			want, err := json.Marshal(&handoffLine{State: s})
			require.NoError(t, err)
			require.Equal(t, string(want), string(line(t, &s)))
			requireSameRead(t, want)
		})
	}
	for name, change := range map[string]func(s *State){
		"text":    func(s *State) { s.Model = "\xff" },
		"number":  func(s *State) { s.CostUSD = math.NaN() },
		"options": func(s *State) { s.Options = jsontext.Value(`{"a":`) },
		"nothing": func(s *State) { s.Options = jsontext.Value{} },
		"best":    func(s *State) { s.Best = &Best{Score: math.Inf(1)} },
	} {
		t.Run("no form for "+name, func(t *testing.T) {
			h := exampleHandoff()
			change(&h.State)
			data, err := AppendHandoff([]byte("before"), h)
			require.Error(t, err)
			require.Equal(t, "before", string(data))
		})
	}
}

// requireSameRead holds that a line is read as the general decoder reads it.
func requireSameRead(t *testing.T, line []byte) {
	t.Helper()
	var got, general State
	parts, err := readLine(line, &got)
	wantParts, wantErr := readAnyLine(line, &general)
	require.Equal(t, wantErr == nil, err == nil, "%v, %v", err, wantErr)
	if wantErr == nil {
		require.Equal(t, wantParts, parts)
		require.Empty(t, cmp.Diff(general, got))
	}
}

func TestLinesThatOthersWrote(t *testing.T) {
	const usual = `{"id":"a","tenant":"b","class":"batch","seq":1,"at":2,"kind":"chat","model":"m","hash":"h","parts":{"body":1}}`
	for name, text := range map[string]string{
		"members of a newer version":     `{"id":"a","tenant":"b","newer":{"x":[1]},"seq":1,"parts":{"body":1,"newer":2},"at":5}`,
		"another order":                  `{"parts":{"body":1},"tenant":"b","id":"a"}`,
		"spaces":                         ` { "id" : "a" , "tenant" : "b" , "parts" : { "body" : 1 } } `,
		"absent members":                 `{"id":"a","tenant":"b","parts":{}}`,
		"null":                           `{"id":"a","tenant":"b","tokens":null,"tried":null,"stages":null,"best":null,"parts":{"body":1}}`,
		"false":                          `{"id":"a","tenant":"b","stream":false}`,
		"escapes":                        `{"id":"\u0061","tenant":"b","model":"\ud83d\ude00"}`,
		"numbers in other forms":         `{"id":"a","tenant":"b","seq":18446744073709551615,"at":-1,"cost":1e-3}`,
		"bodies that are longer than it": `{"id":"a","tenant":"b","parts":{"body":-1}}`,
	} {
		t.Run(name, func(t *testing.T) {
			var s State
			_, err := readLine([]byte(text), &s)
			require.NoError(t, err)
			require.Equal(t, "a", s.ID)
			require.Equal(t, "b", s.Tenant)
			requireSameRead(t, []byte(text))
		})
	}
	for i := range usual { // cut off anywhere
		requireSameRead(t, []byte(usual[:i]))
	}
	for _, text := range []string{
		`{"id":"a","id":"b"}`, `{"id":"a",}`, `{,"id":"a"}`, `{"id":"a"}x`, `{"id":"a""tenant":"b"}`, `{"id":"` + "\xff" + `"}`,
		`{"id":"a","seq":01}`, `{"id":"a","seq":1.0}`, `{"id":"a","cost":1.}`, `{"id":"a","cost":.5}`, `{"id":"a","cost":0x1}`,
		`{"id":"a","options":{"x":1,"x":2}}`, `{"id":"a","options":{]}`, `{"id":"a","stages":[{"s":"x"},]}`, `{"id":"a","stages":[{"s":"x"}{"s":"y"}]}`,
		`{"id":"a","stages":[{"s":"x","s":"y"}]}`, `{"id":"a","tried":["x","y"`, `{"id":"a","tried":["x",]}`, `[]`, `"a"`, ``,
	} {
		var s State
		_, err := readLine([]byte(text), &s)
		require.Error(t, err, text)
		requireSameRead(t, []byte(text))
	}
}

func FuzzReadHandoff(f *testing.F) {
	for _, h := range []*Handoff{exampleHandoff(), scoredHandoff()} {
		data, err := AppendHandoff(nil, h)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte("{\"id\":\"a\",\"tenant\":\"b\",\"parts\":{\"body\":-1}}\n"))
	f.Add([]byte("{\"id\":\"a\",\"tenant\":\"b\",\"options\":{\"a\":[1,\"\\\"\"]},\"tried\":[\"a\",\"b\"],\"best\":{\"score\":1},\"cost\":0.125,\"parts\":{}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		line, _, _ := bytes.Cut(data, []byte{'\n'})
		requireSameRead(t, line)
		h, rest, err := ReadHandoff(data)
		if err != nil {
			return
		}
		again, err := AppendHandoff(nil, h)
		require.NoError(t, err)
		want, err := json.Marshal(&handoffLine{State: h.State, Parts: lengths{len(h.Body), len(h.Original), len(h.Answer)}})
		require.NoError(t, err)
		require.Equal(t, string(want), string(again[:bytes.IndexByte(again, '\n')]))
		back, _, err := ReadHandoff(again)
		require.NoError(t, err)
		third, err := AppendHandoff(nil, back) // compared as text: absent members of a Best come back as null
		require.NoError(t, err)
		require.Equal(t, string(again), string(third))
		require.LessOrEqual(t, len(rest), len(data))
	})
}

// BenchmarkHandoff compares with the general encoder and decoder.
func BenchmarkHandoff(b *testing.B) {
	h := scoredHandoff()
	data, err := AppendHandoff(nil, h)
	require.NoError(b, err)
	state := bytes.TrimSuffix(data[:bytes.IndexByte(data, '\n')], []byte{'\n'})
	buf := make([]byte, 0, 2*len(data))
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = AppendHandoff(buf, h)
		}
	})
	b.Run("write/general", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = json.Marshal(&handoffLine{State: h.State})
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		var into Handoff
		for b.Loop() {
			into = Handoff{}
			_, _ = into.Read(data)
		}
	})
	b.Run("read/general", func(b *testing.B) {
		b.ReportAllocs()
		var into State
		for b.Loop() {
			into = State{}
			_, _ = readAnyLine(state, &into)
		}
	})
}
