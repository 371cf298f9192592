package cache

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/stages"
)

// lookUp runs the stage on one request.
func lookUp(t *testing.T, cfg Config, s *store, r *stages.Request) stages.Verdict {
	t.Helper()
	cfg.Enabled, cfg.MaxTemperature = true, 2
	var verdict stages.Verdict
	New(cfg, s, func(string) {}).Run(t.Context(), []*stages.Request{r}, func(_ *stages.Request, v stages.Verdict) { verdict = v })
	return verdict
}

const (
	question = `{"messages":[{"role":"user","content":"What are the highest mountains of Europe?"}]}`
	likeIt   = `{"messages":[{"role":"user","content":"what are highest mountains of europe, please"}]}`
)

func TestNormalizedMatchesWhereItIsAskedFor(t *testing.T) {
	asked := newRequest("acme", question, `{"cache":{"match":"normalized"}}`)
	asked.Fingerprint = Fingerprint(asked.Body, asked.Options)
	key := Config{}.NormalizedKey(asked)
	require.NotEmpty(t, key)
	s := &store{entries: map[string]Entry{key: {Model: "m", Answer: []byte(`{}`)}}}
	for _, c := range []struct {
		tenant, options string
		configured      bool
		cache           string
	}{
		{"acme", `{"cache":{"match":"normalized"}}`, false, Normalized},
		{"acme", ``, true, Normalized},
		{"acme", ``, false, Miss},
		{"acme", `{"cache":{"match":"exact"}}`, true, Miss},
		{"acme", `{"cache":{"mode":"refresh"}}`, true, Miss},
		{"acme", `{"cache":{"mode":"off"}}`, true, Off},
		{"acme", `{"structure":{"format":"json"}}`, true, Miss},
		{"other", ``, true, Miss},
	} {
		r := newRequest(c.tenant, likeIt, c.options)
		verdict := lookUp(t, Config{Normalized: c.configured}, s, r)
		require.Equal(t, c.cache, r.Cache, "%+v", c)
		require.Equal(t, c.cache == Normalized, verdict.Stage == stages.Score)
	}
	require.Empty(t, Config{}.NormalizedKey(newRequest("acme", question, "")), "off by default")
}

func TestWhatWasStoredUnderAnOlderFormIsAMiss(t *testing.T) {
	cfg := Config{Normalized: true}
	r := newRequest("acme", question, "")
	r.Fingerprint = Fingerprint(r.Body, nil)
	key := cfg.NormalizedKey(r)
	for prefix, cache := range map[string]string{".n-": Miss, ".n1-": Miss, ".n2-": Miss, ".n3-": Normalized} {
		old := strings.Replace(key, "."+normalizedPrefix, prefix, 1)
		r := newRequest("acme", likeIt, "")
		lookUp(t, cfg, &store{entries: map[string]Entry{old: {Model: "m", Answer: []byte(`{}`)}}}, r)
		require.Equal(t, cache, r.Cache, prefix)
	}
}

func TestAnEqualRequestIsAHitBeforeItIsNormalized(t *testing.T) {
	r := newRequest("acme", question, "")
	r.Fingerprint = Fingerprint(r.Body, nil)
	s := &store{entries: map[string]Entry{
		Key(r): {Model: "exact", Answer: []byte(`{}`)}, Config{Normalized: true}.NormalizedKey(r): {Model: "like it", Answer: []byte(`{}`)},
	}}
	lookUp(t, Config{Normalized: true}, s, r)
	require.Equal(t, Hit, r.Cache)
	require.Equal(t, "exact", r.Selected.Model)
}

func TestTenantsShareWhereBothSaySo(t *testing.T) {
	const shared = `{"cache":{"scope":"shared"}}`
	keyOf := func(tenant, options string, configured bool) string {
		r := newRequest(tenant, question, options)
		lookUp(t, Config{Shared: configured}, &store{}, r)
		require.Equal(t, configured && options == shared, OverTenants(r))
		return Key(r)
	}
	require.Equal(t, keyOf("acme", shared, true), keyOf("other", shared, true))
	for _, apart := range []struct {
		mine, theirs string
		configured   bool
	}{{shared, shared, false}, {shared, "", true}, {"", shared, true}, {"", "", true}, {shared, `{"cache":{"scope":"tenant"}}`, true}} {
		require.NotEqual(t, keyOf("acme", apart.mine, apart.configured), keyOf("other", apart.theirs, apart.configured), "%+v", apart)
	}
	require.NotEqual(t, keyOf("acme", "", true), keyOf("acme", shared, true), "what a tenant keeps for itself is not shared later")
}

func TestAnswersForOtherTenantsDoNotSayWhoAsked(t *testing.T) {
	r := newRequest("acme", question, "")
	const answer = `{"id":"x","metadata":{"customer":"acme"},"choices":[],"user":"u"}`
	require.Equal(t, answer, string(ForOthers(r, []byte(answer))), "in a tenant it stays as it is")
	r.Fingerprint = ScopeKey("", "f", true)
	require.JSONEq(t, `{"id":"x","choices":[]}`, string(ForOthers(r, []byte(answer))))
}

func TestOptionsThatChangeNoAnswerChangeNoKey(t *testing.T) {
	plain := Fingerprint([]byte(question), nil)
	for options, same := range map[string]bool{
		`{}`: true, `{"cache":{"ttl":"1m"},"priority":"batch"}`: true, `{"route":"r"}`: true,
		`{"structure":{"format":"json"}}`: false, `{"quality":{"threshold":1}}`: false, `{"tune":{}}`: false,
	} {
		require.Equal(t, same, plain == Fingerprint([]byte(question), []byte(options)), options)
	}
}

func TestCallsOfLaterRoundsAreTheSameForTheSameQuestion(t *testing.T) {
	again := func(body string, tried ...string) string {
		r := newRequest("acme", body, "")
		r.Fingerprint, r.Round, r.Tried = "f", 1, tried
		return CallKey(r)
	}
	key, same := again(question, "small"), again(question, "small")
	require.Equal(t, key, same)
	require.NotEqual(t, again(question, "small"), again(question))
	require.NotEqual(t, again(question), again(likeIt))
	require.NotEqual(t, "acme.f", again(question))
	require.Regexp(t, `^acme\.f-r1-[0-9a-f]{32}$`, again(question), "a key of a bucket")
}
