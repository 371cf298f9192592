package selection

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
)

func TestFiguresAddUpInAnyOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	parts := make([]Figures, 4)
	var all Figures
	for i := range 400 {
		now := noon.Add(time.Duration(i) * time.Minute)
		score, call := random.Float64(), Call{Took: time.Second, First: time.Second / 4, Output: 50, CostUSD: 0.01}
		for _, f := range []*Figures{&all, &parts[i%4]} {
			f.Scored(now, score)
			f.Called(now, call)
		}
	}
	merge := func(order ...int) (f Figures) {
		for _, i := range order {
			f.Merge(&parts[i])
		}
		return f
	}
	one, other := merge(0, 1, 2, 3), merge(3, 1, 0, 2)
	require.Equal(t, all.Answers, one.Answers)
	require.Equal(t, all.Calls, one.Calls)
	require.InDelta(t, all.Quality.Sum/all.Quality.N, one.Quality.Sum/one.Quality.N, 0.01)
	require.InDelta(t, all.Quality.N, one.Quality.N, 30)
	require.InDelta(t, one.Quality.Sum/one.Quality.N, other.Quality.Sum/other.Quality.N, 0.01)
	require.InDelta(t, 1, one.Latency.at(0), 1e-6)
	require.InDelta(t, 0.01, one.CostUSD.at(p95), 1e-6)
}

func TestFiguresFade(t *testing.T) {
	var f Figures
	for range 200 {
		f.Scored(noon, 0.9)
	}
	before := f.Quality.N
	f.touch(noon.Add(halfLife))
	require.InDelta(t, before/2, f.Quality.N, 1e-9)
	f.touch(noon) // a clock that is behind changes nothing
	require.InDelta(t, before/2, f.Quality.N, 1e-9)
	for range 10_000 {
		f.Scored(noon.Add(halfLife), 0.1)
	}
	require.Less(t, f.Quality.N, 725.0, "however many answers come")
	n, sum := f.Quality.current()
	require.InDelta(t, 0.1, sum/n, 0.001)
}

func TestAChangeIsNoticed(t *testing.T) {
	var f Figures
	for range 700 {
		f.Scored(noon, 0.95)
	}
	mean := func() float64 { n, sum := f.Quality.current(); return sum / n }
	require.InDelta(t, 0.95, mean(), 1e-9)
	for range 25 {
		f.Scored(noon, 0.3)
	}
	require.Less(t, mean(), 0.65)
}

func TestFiguresSurviveTheWire(t *testing.T) {
	var f Figures
	f.Scored(noon, 0.7)
	f.Called(noon, Call{Took: time.Second, Output: 7, CostUSD: 0.1})
	f.Called(noon, Call{Failed: true})
	data, err := f.MarshalBinary()
	require.NoError(t, err)
	require.True(t, json.Valid(data))
	var read Figures
	require.NoError(t, read.UnmarshalBinary(data))
	require.Empty(t, cmp.Diff(f, read, cmpopts.EquateApprox(1e-12, 0)))
	for _, damaged := range []string{``, `{`, `[]`, `{"answers":-1}`, `{"quality":{"n":1,"s":5}}`, `{"latency":{"n":1e300}}`, `{"at":"x"}`} {
		require.ErrorIs(t, read.UnmarshalBinary([]byte(damaged)), errFigures, damaged)
	}
	require.Empty(t, cmp.Diff(f, read, cmpopts.EquateApprox(1e-12, 0)), "what was damaged changed nothing")
}

func TestSkillLearnsWhichPromptsAreHard(t *testing.T) {
	easy := Describe(nil, []byte("Translate the word cat into French"))
	hard := Describe(nil, []byte("Prove the lemma for all integers n > 2"))
	var s Skill
	for range enoughLabels/2 - 1 {
		s.Learn(easy, 0.7, 1, nil)
		s.Learn(hard, 0.7, 0.4, nil)
	}
	require.Zero(t, s.Shift(hard), "too little was learnt")
	for range 300 {
		s.Learn(easy, 0.7, 1, nil)
		s.Learn(hard, 0.7, 0.4, nil)
	}
	require.Greater(t, s.Shift(easy), 0.5)
	require.Less(t, s.Shift(hard), -0.5)
	require.Zero(t, s.Shift(nil))
	require.InDelta(t, s.Shift(easy), s.Shift(Describe(nil, []byte("Translate the word dog into French"))), 1)
}

func TestSkillsOfReplicasAddUp(t *testing.T) {
	easy, hard := Describe(nil, []byte("Say hello")), Describe(nil, []byte("Find the 9-th root of the polynomial"))
	var shared, one, two Skill
	for range 10 { // two replicas learn, and share what they have learnt ten times
		var deltas [2]Skill
		for i, s := range []*Skill{&one, &two} {
			for range 30 {
				s.Learn(easy, 0.5, 1, &deltas[i])
				s.Learn(hard, 0.5, 0, &deltas[i])
			}
		}
		for i := range deltas {
			data, err := deltas[i].MarshalBinary()
			require.NoError(t, err)
			var read Skill
			require.NoError(t, read.UnmarshalBinary(data))
			require.Equal(t, deltas[i], read)
			shared.Merge(&read)
		}
		one, two = shared, shared
	}
	require.Equal(t, 1200.0, shared.Labels)
	require.Greater(t, shared.Shift(easy), 1.0)
	require.Less(t, shared.Shift(hard), -1.0)
}

func TestReadFindsWhatABodyNeeds(t *testing.T) {
	require.Empty(t, cmp.Diff(Need{
		Images: true, Tools: true, Schema: true, Logprobs: true, Bound: 77,
		Prompt: []byte(`"what is this?"`), Task: []byte(`"Be brief."`),
	}, Read([]byte(`{"model":"auto","max_tokens":77,"logprobs":true,"tools":[{"type":"function"}],
		"response_format":{"type":"json_schema","json_schema":{}},
		"messages":[{"role":"system","content":"Be brief."},{"content":"first","role":"user"},{"role":"assistant","content":null},
		{"role":"user","content":[{"type":"text","text":"what is this?"},{"type":"image_url","image_url":{"url":"data:"}}]}]}`))))
	require.Equal(t, Need{Prompt: []byte(`"a"`)}, Read([]byte(`{"tools":[],"response_format":null,"logprobs":null,"messages":[{"role":"user","content":"a"}]}`)))
	require.Equal(t, Need{Prompt: []byte(`["a","b"]`)}, Read([]byte(`{"input":["a","b"]}`)))
}

func TestClustersAreFewAndStandForApplications(t *testing.T) {
	seen := map[string]bool{}
	for i := range 2000 {
		need := Need{Task: fmt.Appendf(nil, `"You are application %d"`, i), Prompt: fmt.Appendf(nil, `"%d"`, i)}
		name := Cluster(&need)
		seen[name] = true
		need.Prompt = []byte(`"another question altogether"`)
		require.Equal(t, name, Cluster(&need))
	}
	require.Len(t, seen, clusters)
	short, long := Need{Prompt: []byte(`"hi"`)}, Need{Prompt: []byte(`"` + strings.Repeat("word = 1;\\n", 300) + `"`)}
	require.NotEqual(t, Cluster(&short), Cluster(&long))
}

func TestDescribeIsBoundedAndTheSameForTheSamePrompt(t *testing.T) {
	for _, text := range []string{"", "\\", "\\u00", strings.Repeat("a b ", 1<<18), strings.Repeat("\xff", 1<<20), strings.Repeat("1\\n", 1<<18)} {
		f := Describe(nil, []byte(text))
		require.LessOrEqual(t, len(f), maxFeatures+6)
		require.Equal(t, f, Describe(nil, []byte(text)))
	}
	require.Equal(t, Describe(nil, []byte("Add 17 and 25")), Describe(nil, []byte("add 18 and 31")), "case and figures do not matter")
	require.NotEqual(t, Describe(nil, []byte("Add 17")), Describe(nil, []byte("Sub 17")))
}

func TestOptions(t *testing.T) {
	o, err := ParseOptions([]byte(`{"quality":1,"cost":0.5,"max_cost_usd":0.01,"min_quality":0.9,"deterministic":true}`))
	require.NoError(t, err)
	ask := Ask{Weights: Weights{Speed: 1}}
	o.Apply(&ask)
	require.Equal(t, Ask{Weights: Weights{Quality: 1, Cost: 0.5}, MaxCostUSD: 0.01, MinQuality: 0.9, Deterministic: true}, ask)
	for _, nothing := range []string{``, `null`, `{}`} {
		o, err := ParseOptions([]byte(nothing))
		require.NoError(t, err)
		ask := Ask{Weights: Weights{Speed: 1}, MinQuality: 0.5}
		o.Apply(&ask)
		require.Equal(t, Ask{Weights: Weights{Speed: 1}, MinQuality: 0.5}, ask)
	}
	for raw, want := range map[string]string{
		`true`: "must be an object", `{"qualtiy":1}`: "takes the numbers", `{"quality":"1"}`: "takes the numbers",
		`{"quality":-1}`: "processor.select.quality", `{"min_quality":1.5}`: "not within 0 and 1",
		`{"quality":0,"cost":0}`: "at least one", `{"max_cost_usd":-0.1}`: "processor.select.max_cost_usd",
	} {
		_, err := ParseOptions([]byte(raw))
		require.ErrorContains(t, err, want, raw)
	}
}

func FuzzReadAndDescribe(f *testing.F) {
	f.Add([]byte(`{"messages":[{"role":"user","content":[{"type":"text","text":"a\u00e4 {1}"}]}],"max_tokens":9}`))
	f.Add([]byte(`{"messages":[{"role":"user","content":"`))
	f.Fuzz(func(t *testing.T, body []byte) {
		need := Read(body)
		require.LessOrEqual(t, len(Describe(nil, need.Prompt)), maxFeatures+6)
		require.NotEmpty(t, Cluster(&need))
		require.GreaterOrEqual(t, need.Bound, 0)
	})
}

func FuzzWhatTheBucketHolds(f *testing.F) {
	var skill Skill
	skill.Learn(Features{1, 2, 3}, 0.5, 1, nil)
	data, _ := skill.MarshalBinary()
	f.Add(data)
	f.Add([]byte(`{"at":1,"answers":2,"quality":{"n":1,"s":0.5,"qn":1,"qs":0.5}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Skill
		if s.UnmarshalBinary(data) == nil {
			shift := s.Shift(Features{1, 2, 3})
			require.False(t, math.IsNaN(shift))
		}
		var figures Figures
		if figures.UnmarshalBinary(data) == nil {
			m := &Memory{figures: map[[2]string]*Figures{{"r", "a"}: &figures}}
			e := Expect(m, &Ask{Route: "r", Now: noon}, &Candidate{Model: "a"})
			require.True(t, e.Quality >= 0 && e.Quality <= 1.0001, "%v", e.Quality)
		}
	})
}
