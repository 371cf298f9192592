package tune

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// memory is a store of one process.
type memory map[string]*Learner

func (m memory) View(key string, f func(*Learner)) bool {
	if m[key] != nil {
		f(m[key])
	}
	return m[key] != nil
}

func (m memory) Observe(key string, f func(use, own *Learner)) bool {
	if m[key] == nil {
		m[key] = new(Learner)
	}
	f(m[key], new(Learner))
	return true
}

func newTuner(enabled bool, share float64) (*Tuner, memory) {
	store := memory{}
	return New(Config{
		Enabled: enabled, Parameters: []string{"temperature", "top_p"}, Objective: Quality, Ranges: DefaultRanges(), Share: share,
		Key: func(tenant, route, model, search string) string {
			return strings.Join([]string{tenant, route, model, search}, "/")
		},
	}, store), store
}

func request(id int, body, options string) *stages.Request {
	return &stages.Request{Handoff: schemas.Handoff{
		State: schemas.State{ID: fmt.Sprintf("r%d", id), Tenant: "acme", Kind: schemas.Chat, Options: []byte(options), Selected: schemas.Selected{Model: "m"}},
		Body:  []byte(body),
	}}
}

const open = `{"messages":[{"role":"user","content":"hi"}]}`

func TestSettingsAreTenAndChangeOneParameterEach(t *testing.T) {
	list := settings([]string{"temperature", "top_p"}, DefaultRanges())
	require.Equal(t, []Setting{
		{}, {"temperature", "0"}, {"temperature", "0.25"}, {"temperature", "0.5"}, {"temperature", "0.75"}, {"temperature", "1"},
		{"top_p", "0.6"}, {"top_p", "0.7"}, {"top_p", "0.8"}, {"top_p", "0.9"},
	}, list)
}

func TestOneParameterIsSetAndShown(t *testing.T) {
	tuner, _ := newTuner(true, 1)
	seen := map[string]bool{}
	for i := range 500 {
		r := request(i, open, "")
		sent, parameters := tuner.Prepare(r, "m", r.Body)
		again, _ := tuner.Prepare(r, "m", r.Body)
		require.Equal(t, string(sent), string(again), "a request that is worked again gets the same")
		seen[string(parameters)] = true
		_, temperature := schemas.Member(sent, "temperature")
		_, topP := schemas.Member(sent, "top_p")
		require.False(t, temperature && topP)
		require.Equal(t, open, string(r.Body), "what was asked stays")
		if parameters != nil {
			value, _ := schemas.Member(parameters, "temperature")
			had, _ := schemas.Member(sent, "temperature")
			require.Equal(t, string(value.Of(parameters)), string(had.Of(sent)))
		}
	}
	require.Len(t, seen, 10)
}

func TestWhatARequestSetsItselfIsNeverTouched(t *testing.T) {
	tuner, store := newTuner(true, 1)
	for name, r := range map[string]*stages.Request{
		"temperature":     request(1, `{"temperature":1,"messages":[]}`, ""),
		"top_p":           request(2, `{"messages":[],"top_p":0.5}`, ""),
		"of another kind": func() *stages.Request { r := request(3, open, ""); r.Kind = schemas.Embeddings; return r }(),
		"asked again":     func() *stages.Request { r := request(4, open, ""); r.Round = 1; return r }(),
		"not wanted":      request(5, open, `{"tune":false}`),
		"penalty only":    request(6, `{"messages":[],"temperature":0.1}`, `{"tune":{"parameters":["presence_penalty"]}}`),
	} {
		t.Run(name, func(t *testing.T) {
			sent, parameters := tuner.Prepare(r, "m", r.Body)
			require.Nil(t, sent)
			require.Nil(t, parameters)
			tuner.Observe(r, r.Body, 1)
			require.Empty(t, store)
		})
	}
}

func TestARequestSteersTuning(t *testing.T) {
	tuner, store := newTuner(false, 1)
	r := request(0, open, "")
	sent, _ := tuner.Prepare(r, "m", r.Body)
	require.Nil(t, sent, "it is off")
	set := 0
	for i := range 100 {
		r := request(i, open, `{"route":"summaries","tune":{"parameters":["presence_penalty"],"objective":"cost"}}`)
		_, parameters := tuner.Prepare(r, "m", r.Body)
		if parameters != nil {
			set++
			require.Contains(t, string(parameters), "presence_penalty")
		}
		r.Parameters, r.CostUSD = parameters, 0.5
		tuner.Observe(r, r.Body, 1)
	}
	require.Positive(t, set)
	require.Len(t, store, 1)
	for key, l := range store {
		require.True(t, strings.HasPrefix(key, "acme/summaries/m/"), key)
		require.Equal(t, 100.0, l.trials())
		require.Equal(t, -50.0, l.Arms[0].Sum+l.Arms[1].Sum+l.Arms[2].Sum+l.Arms[3].Sum, "what it cost")
	}
	for _, options := range []string{`{"tune":7}`, `{"tune":"temperature"}`, `{"tune":{"parameters":"temperature"}}`, `{"tune":{"parameters":["n"]}}`, `{"tune":{"objective":"fame"}}`, `{"tune":{"x":1}}`} {
		verdict, decided := tuner.Ask(t.Context(), request(0, open, options))
		require.True(t, decided, options)
		require.ErrorContains(t, verdict.Err, "", options)
	}
	_, decided := tuner.Ask(t.Context(), request(0, open, `{"tune":{"parameters":["top_p"]}}`))
	require.False(t, decided)
}

func TestTheShareIsKeptUntilASettingIsFound(t *testing.T) {
	tuner, store := newTuner(true, 0.2)
	touched := 0
	for i := range 2000 {
		r := request(i, open, "")
		if sent, _ := tuner.Prepare(r, "m", r.Body); sent != nil {
			touched++
		}
	}
	require.InDelta(t, 2000*0.2*0.9, touched, 60)
	r := request(0, open, "")
	tuner.Observe(r, r.Body, 1)
	for _, l := range store {
		l.Frozen, l.Best = true, 3
	}
	for i := range 100 {
		r := request(i, open, "")
		_, parameters := tuner.Prepare(r, "m", r.Body)
		require.Equal(t, `{"temperature":0.5}`, string(parameters), "what was found is for all")
	}
	tuner.Refused("m")
	sent, _ := tuner.Prepare(r, "m", r.Body)
	require.Nil(t, sent)
}
