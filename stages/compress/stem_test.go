package compress

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStem(t *testing.T) {
	for _, forms := range [][]string{
		{"city", "cities"}, {"invent", "invented", "inventing", "invents"}, {"national", "nationally"},
		{"hope", "hoping", "hoped", "hopes"}, {"plan", "planned", "planning"}, {"relate", "related", "relation"},
		{"decide", "decided", "decides"}, {"hospital", "hospitals"}, {"organize", "organized", "organization"},
	} {
		for _, f := range forms {
			require.Equal(t, string(stem([]byte(forms[0]))), string(stem([]byte(f))), forms)
		}
	}
	for _, w := range []string{"is", "2018", "größe", "bus", "by"} {
		require.Equal(t, w, string(stem([]byte(w))))
	}
	require.NotEqual(t, string(stem([]byte("university"))), string(stem([]byte("unique"))))
}

func TestTerms(t *testing.T) {
	var got []string
	r := termReader{text: "The Röntgen-tubes' user_name, 3.5 kg: 北京的人 É!"}
	for {
		term, _, ok := r.next()
		if !ok {
			break
		}
		got = append(got, string(term))
	}
	require.Equal(t, []string{"the", "rontgen", "tube", "user", "name", "3", "5", "kg", "北京", "京的", "的人", "e"}, got)
}

func TestSentences(t *testing.T) {
	for text, want := range map[string][]string{
		"One. Two? Three! four.":                            {"One. ", "Two? ", "Three! four."},
		"Dr. A. B. Smith paid 3.50 in St. Gallen. He left.": {"Dr. A. B. Smith paid 3.50 in St. Gallen. ", "He left."},
		"See www.example.org. It is e.g. This one.":         {"See www.example.org. ", "It is e.g. This one."},
		"“Yes.” She said (no.) And went.":                   {"“Yes.” She said (no.) ", "And went."},
		"第一句。第二句！第三句？":                                      {"第一句。", "第二句！", "第三句？"},
		"no end":                                            {"no end"},
	} {
		var got []string
		eachSentence(text, 0, len(text), func(start, end int) { got = append(got, text[start:end]) })
		require.Equal(t, want, got)
	}
}
