package compress

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// at gives the options of a semantic compression to a ratio without a floor.
func at(ratio float64) Options {
	return Options{Techniques: []string{Semantic}, TargetRatio: &ratio, QualityThreshold: new(0.0)}
}

// library gives documents of which the n-th says where the n-th thing is.
func library(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "Document [%d](Title: Room %d) This room has a window to the garden. The thing number %d lies in drawer D-%04d. "+
			"Nobody has opened it for a long time. The walls are white and the floor is made of oak.\n", i+1, i+1, i+1, 7*i)
	}
	return b.String()
}

func contents(t testing.TB, body []byte) []string {
	t.Helper()
	var parsed struct {
		Messages []struct{ Content string }
	}
	require.NoError(t, json.Unmarshal(body, &parsed))
	var list []string
	for _, m := range parsed.Messages {
		list = append(list, m.Content)
	}
	return list
}

func TestRatioIsAnUpperBound(t *testing.T) {
	c := newCompressor(t)
	text := library(40)
	for _, ratio := range []float64{0.05, 0.1, 0.25, 0.5, 0.7} {
		r := c.Text(text, "Where does the thing number 17 lie?", at(ratio))
		require.LessOrEqual(t, float64(r.Sent), ratio*float64(r.Original))
		require.Greater(t, float64(r.Sent), 0.7*ratio*float64(r.Original), "the budget is used")
		require.Contains(t, r.Text, "D-0112")
		require.True(t, r.QueryMatch)
		require.True(t, r.Lossy())
	}
}

func TestATextIsNeverANoticeAlone(t *testing.T) {
	c := newCompressor(t)
	short := "The cat sat on the mat. Dogs bark at night. Petrol is dear in winter, and cheap in summer when nobody drives."
	for _, text := range []string{short, strings.Repeat("endless", 1000)} {
		for _, query := range []string{"When is petrol cheap?", "Where is Lima?"} {
			r := c.Text(text, query, at(0.25))
			require.Equal(t, text, r.Text, "nothing fits into the budget")
			require.False(t, r.Changed)
			require.Equal(t, r.Original, r.Sent)
		}
	}
	two := bodyOf(t,
		map[string]string{"role": "tool", "content": strings.Repeat("endless", 1000)},
		map[string]string{"role": "tool", "content": strings.Repeat("without", 1000)},
		map[string]string{"role": "user", "content": "Where is Lima?"})
	require.Equal(t, two, c.Body(two, at(0.25)).Body)
}

func TestThresholdWinsUnlessMeaningMayGo(t *testing.T) {
	c := newCompressor(t)
	text, query := library(40), "Which drawer holds the thing?"
	for _, threshold := range []float64{0.5, 0.9, 0.99} {
		r := c.Text(text, query, Options{Techniques: []string{Semantic}, TargetRatio: new(0.05), QualityThreshold: &threshold})
		require.GreaterOrEqual(t, r.Preservation, threshold)
		require.Greater(t, float64(r.Sent), 0.05*float64(r.Original))
		alone := c.Text(text, query, Options{Techniques: []string{Semantic}, TargetRatio: new(0.0), QualityThreshold: &threshold})
		require.GreaterOrEqual(t, alone.Preservation, threshold)
		no := false
		r = c.Text(text, query, Options{Techniques: []string{Semantic}, TargetRatio: new(0.05), QualityThreshold: &threshold, PreserveMeaning: &no})
		require.LessOrEqual(t, float64(r.Sent), 0.05*float64(r.Original))
	}
	r := c.Text(text, query, Options{Techniques: []string{Semantic}, TargetRatio: new(0.0), QualityThreshold: new(0.0)})
	require.False(t, r.Changed, "nothing is asked for")
}

func TestWhatIsProtectedInAConversation(t *testing.T) {
	c := newCompressor(t)
	system := "You are a librarian. " + strings.Repeat("Be kind to everybody who asks. ", 40)
	old := "Earlier we spoke of the garden. " + strings.Repeat("It has many flowers of all colours. ", 40)
	question := "Where does the thing number 17 lie?"
	body := bodyOf(t,
		map[string]string{"role": "system", "content": system},
		map[string]string{"role": "user", "content": old},
		map[string]string{"role": "assistant", "content": "A lovely garden."},
		map[string]string{"role": "user", "content": library(40)},
		map[string]string{"role": "assistant", "content": "Thank you for the list."},
		map[string]string{"role": "user", "content": question})
	r := c.Body(body, at(0.2))
	require.True(t, r.Changed)
	got := contents(t, r.Body)
	require.Equal(t, system, got[0])
	require.Less(t, len(got[1]), len(old)/2)
	require.Less(t, len(got[3]), len(library(40))/3)
	require.Contains(t, got[3], "D-0112")
	require.Equal(t, "Thank you for the list.", got[4])
	require.Equal(t, question, got[5])
	require.Less(t, r.Sent*2, r.Original)
}

func TestDocumentsAndQuestionInOneMessage(t *testing.T) {
	c := newCompressor(t)
	for name, frame := range map[string][2]string{
		"question last":    {"Use only these documents.\n\n", "\nQuestion: Where does the thing number 17 lie?\nAnswer:"},
		"question first":   {"Question: Where does the thing number 17 lie?\n\nDocuments:\n", ""},
		"no label":         {"", "\n\nWhere does the thing number 17 lie?"},
		"last line":        {"", "Where does the thing number 17 lie?"},
		"request":          {"Here are documents:\n\n", "\n\nTell me where the thing number 17 lies."},
		"heading":          {"# Documents\n\n", "\n## Question: Where does the thing number 17 lie?"},
		"with white space": {"", "\n\n\nQuestion:  Where does the thing number 17 lie?  \n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			prompt := frame[0] + library(40) + frame[1]
			r := c.Body(bodyOf(t, map[string]string{"role": "user", "content": prompt}), at(0.1))
			got := contents(t, r.Body)[0]
			require.Contains(t, got, "D-0112")
			require.Contains(t, got, "the thing number 17 lie")
			require.Less(t, len(got), len(prompt)/6)
			if name != "heading" {
				require.True(t, strings.HasPrefix(got, strings.TrimSuffix(frame[0], "Documents:\n")), got)
			}
			require.True(t, strings.HasSuffix(got, strings.TrimLeft(frame[1], "\n")), got)
			require.True(t, r.QueryMatch)
		})
	}
}

func TestPartsThatTheProviderCachesStay(t *testing.T) {
	c := newCompressor(t)
	body, err := json.Marshal(map[string]any{"messages": []any{
		map[string]any{"role": "user", "content": []any{
			map[string]any{"type": "text", "text": library(20)},
			map[string]any{"type": "text", "text": library(20), "cache_control": map[string]any{"type": "ephemeral"}},
			map[string]any{"type": "text", "text": "And these:\n\n" + library(20)},
		}},
		map[string]any{"role": "user", "content": "Where does the thing number 17 lie?"},
	}})
	require.NoError(t, err)
	r := c.Body(body, at(0.2))
	var parsed struct {
		Messages []struct{ Content any }
	}
	require.NoError(t, json.Unmarshal(r.Body, &parsed))
	parts := parsed.Messages[0].Content.([]any)
	require.Equal(t, library(20), parts[0].(map[string]any)["text"])
	require.Equal(t, library(20), parts[1].(map[string]any)["text"])
	require.Less(t, len(parts[2].(map[string]any)["text"].(string)), len(library(20))/3)
}

func TestPrefixIsSparedWhereTheCacheSavesMore(t *testing.T) {
	c := newCompressor(t)
	body := bodyOf(t, map[string]string{"role": "user", "content": library(40)}, map[string]string{"role": "user", "content": "Where does the thing number 17 lie?"})
	for _, tt := range []struct {
		hit, price, ratio float64
		compressed        bool
	}{{1, 0.1, 0.25, false}, {1, 0.1, 0.05, true}, {0.5, 0.1, 0.25, true}, {1, 0.5, 0.25, true}, {0, 0.1, 0.7, true}} {
		o := at(tt.ratio)
		o.Prefix = Prefix{Messages: 1, Hit: tt.hit, Price: tt.price}
		require.Equal(t, tt.compressed, c.Body(body, o).Changed, tt)
	}
}

func TestKeepAndIdentifiers(t *testing.T) {
	c := newCompressor(t)
	o := at(0.1)
	o.Keep = []string{"D-0035", "D-0049"}
	r := c.Text(library(40), "Where does the thing number 17 lie?", o)
	require.Contains(t, r.Text, "D-0035")
	require.Contains(t, r.Text, "D-0049")
	r = c.Text(library(40), "Which room has the drawer `D-0231`?", at(0.1))
	require.Contains(t, r.Text, "Room 34")
	require.Contains(t, r.Text, "drawer D-0231")
}

func TestWithoutAQuestionFactsDecide(t *testing.T) {
	c := newCompressor(t)
	filler := strings.Repeat("It is as it was and will be so for some time to come. ", 30)
	text := filler + "The contract with Acme ends on 2027-03-31 and is not renewed. " + filler
	r := c.Text(text, "", at(0.3))
	require.False(t, r.QueryMatch)
	require.Contains(t, r.Text, "2027-03-31")
	require.Equal(t, 1.0, r.Preservation)
}

func TestNothingIsCutInside(t *testing.T) {
	c := newCompressor(t)
	exact := []string{"https://example.org/a.b/c?d=e.f&g=1,5", "192.168.0.1:8080", "v1.22.333-rc.4", "/usr/local/lib/x.so.1", "3.5 kg", "Dr. A. B. Smith", "user.name@example.org", "U.S. dollars", "f(x, y).z[0]"}
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, "Sentence %d speaks of %s at length. ", i, exact[i%len(exact)])
	}
	r := c.Text(b.String(), "What is said of dollars and kg by Smith?", at(0.3))
	for s := range strings.SplitSeq(strings.ReplaceAll(r.Text, "… ", "\n"), " at length.") {
		if i := strings.Index(s, " speaks of "); i >= 0 {
			require.Contains(t, exact, s[i+len(" speaks of "):])
		}
	}
}

func TestHostileExtractionIsBounded(t *testing.T) {
	c := newCompressor(t)
	c.count = cheap
	for name, text := range hostile {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			r := c.Text(text, "what is a lorem INFO column?", Options{Techniques: []string{Structural, Semantic}, TargetRatio: new(0.2)})
			require.LessOrEqual(t, r.Sent, r.Original)
			require.Less(t, time.Since(start), 2*time.Minute)
		})
	}
}

func FuzzSemantic(f *testing.F) {
	for _, q := range []string{"what is a?", "", "人口", "`x_y` 12"} {
		f.Add(library(3), q, 0.3)
		f.Add(ordinary, q, 0.5)
		f.Add("A: b\nB: c\nA: d\nB: e\nA: f\nB: g\nA: h\n{\"a\":1,\n\"b\":2,\"c\":3,\n\"d\":4}\n", q, 0.5)
		f.Add("```go\na\n\nb\n```\n| a |\n|-|\n| b |\n[3]{x}:\n1\n2\n", q, 0.1)
	}
	c := newCompressor(f)
	f.Fuzz(func(t *testing.T, text, query string, ratio float64) {
		if !(ratio > 0 && ratio <= 1) {
			return
		}
		once := c.Text(text, query, at(ratio))
		require.LessOrEqual(t, once.Sent, once.Original)
		require.Equal(t, once.Text, c.Text(once.Text, query, at(ratio)).Text)
		both := Options{TargetRatio: &ratio, QualityThreshold: new(0.0), Techniques: []string{Structural, Semantic}}
		twice := c.Text(text, query, both)
		require.LessOrEqual(t, twice.Sent, twice.Original)
		require.Equal(t, twice.Text, c.Text(twice.Text, query, both).Text)
		if query == "" && !strings.Contains(text, noticeMark) {
			start, end, _ := splitPrompt(text)
			if end > start {
				require.True(t, strings.HasPrefix(once.Text, text[:start]), "the head stays")
				require.True(t, strings.HasSuffix(once.Text, text[end:]), "the tail stays")
			}
		}
		for s := range strings.FieldsSeq(strings.NewReplacer("…", " ", ",", " ").Replace(strings.ReplaceAll(once.Text, noticeMark, " "))) {
			require.Contains(t, text, s, "every word is one of the text")
		}
	})
}
