package cache

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/adpa/processor/schemas"
)

func TestTextsThatAskTheSame(t *testing.T) {
	for text, same := range map[string]string{
		"What is the capital of France?":                       "what is  capital of France",
		"Please tell me what the moon is made of.":             "tell me what moon is made of, please!",
		"Hello, how do I boil an egg? Thank you!":              "how do I boil egg",
		"Hi. Where are my socks, thanks in advance":            "where are my socks",
		"Which soups can I make out of potatoes today, thanks": "which soup can I make out of potatoes today",
		"What Is The Best Way To Learn The Guitar?":            "what is best way to learn guitar",
		"How do REST services work inside?":                    "how do rest services work inside",
		"HOW DOES REST WORK":                                   "how does rest work",
		"Don't the dogs' owners' friends mind":                 "don't dogs' owners' friends mind",
		"Where can I find the best hotels in the old Vienna?":  "where can i find best hotel in old VIENNA ?",
		"A dog barks at night, why?":                           "dog barks at night, why",
		"“Why” is the sky blue?":                               `"why" is the sky blue`,
		"¿Dónde está la biblioteca?":                           "dónde está la biblioteca",
		"WHO IS IT?":                                           "who is it",
		"What does the “Mona Lisa” show?":                      `What does "mona lisa" show`,
	} {
		a, ok := Normalize(text)
		require.True(t, ok, text)
		b, ok := Normalize(same)
		require.True(t, ok, same)
		require.Equal(t, a, b)
	}
}

func TestTextsThatDoNotAskTheSame(t *testing.T) {
	for text, other := range map[string]string{
		"What is C++ good for?":                                       "What is C good for?",
		"What does # mean":                                            "What does ## mean",
		"Can I take vitamin A in the morning":                         "Can I take vitamin in the morning",
		"What is the meaning of security":                             "What is the meaning of securities",
		"How do I do this maths problem?":                             "How do I do this math problem?",
		"How do I turn it on?":                                        "How do I turn it off?",
		"Who made the film of the series":                             "Who made the film of the serie",
		"How do I do it":                                              "How did I do it",
		"How do I say thanks to my boss":                              "How do I say to my boss",
		"Is the price 3.5?":                                           "Is the price 35?",
		"La casa":                                                     "Le casa",
		"What is the cloud?":                                          "What is a cloud?",
		`Who sings "the end" in this film`:                            `Who sings "end" in this film`,
		`When should I say "please" to a dog`:                         `When should I say "" to a dog`,
		"How do I live without US?":                                   "How do I live without us?",
		"What is IT?":                                                 "What is it?",
		"What is REST?":                                               "What is rest?",
		"Why do a few people like rain":                               "Why do few people like rain",
		"The number of which cats is falling":                         "A number of which cats is falling",
		"How many people watch The Office":                            "How many people watch an office",
		"How old is Hello Kitty in years":                             "How old is Kitty in years",
		"Hello Kitty, how old is she?":                                "Kitty, how old is she?",
		"How do I say in French thanks":                               "How do I say in French thank you",
		"Who sings 'the end' in this film":                            "Who sings 'end' in this film",
		"What do some economics books that everybody has to read say": "What do some economic books that everybody has to read say",
		`Who made all of the pictures that are called "Water lilies" in Paris`: `Who made all of the pictures that are called "Water lily" in Paris`,
	} {
		a, _ := Normalize(text)
		b, _ := Normalize(other)
		require.NotEqual(t, a, b)
	}
}

func TestCodeMathematicsAndTasksWithTextAreLeftAlone(t *testing.T) {
	for _, text := range []string{
		"What does `a` do?", "x = y", "is 2+2 four", "What is 7 * 6?", "what is 10 - 3", "Why does f(x) fail", "{}", "int a;", "if x:\n  return",
		"why is a < b", "snake_case", "2^8", "10/2 is?", "∑ of all", "", "  ", "please", "?!",
		`What does "?" mean`, "What does ' ' mean in a file", `Is "," or ";" right`,
		"Translate the cats into French", "Is this sentence right", "Correct this: he have a dog", "Who wrote this?\nShall I compare thee",
	} {
		_, ok := Normalize(text)
		require.False(t, ok, text)
	}
}

// These must never change by accident: what was stored under them would not be found.
func TestNormalizedFingerprintsNeverChange(t *testing.T) {
	body := func(messages string) string { return `{"model":"gpt-4o","messages":[` + messages + `]}` }
	const question = `{"role":"user","content":"What are the highest mountains of the Alps?"}`
	for _, v := range []struct{ body, options, key string }{
		{body(question), "", "n3-e4a6a6f9cd6959d8"},
		{body(`{"content":"what are highest mountains of Alps","role":"user"}`), "", "n3-e4a6a6f9cd6959d8"},
		{body(`{"role":"system","content":"Be brief."},` + question), "", "n3-7ca60184d80c7b16"},
		{body(question), `{"structure":{"format":"json"}}`, "n3-46620ea56ceae1d5"},
		{body(question), `{"cache":{"match":"normalized"},"priority":"batch"}`, "n3-e4a6a6f9cd6959d8"},
	} {
		require.Contains(t, NormalizedFingerprint([]byte(v.body), []byte(v.options)), v.key)
	}
}

func TestOnlyTheLastMessageIsNormalized(t *testing.T) {
	of := func(messages string) string {
		return NormalizedFingerprint([]byte(`{"messages":[`+messages+`]}`), nil)
	}
	const last = `{"role":"user","content":"And how large is the second?"}`
	first := of(`{"role":"user","content":"Which is the largest?"},{"role":"assistant","content":"A"},` + last)
	require.NotEmpty(t, first)
	require.Equal(t, first, of(`{"role":"user","content":"Which is the largest?"},{"role":"assistant","content":"A"},{"role":"user","content":"and how large is second"}`))
	require.NotEqual(t, first, of(`{"role":"user","content":"which is largest"},{"role":"assistant","content":"A"},`+last), "turns before it are exact")
	require.NotEqual(t, of(`{"role":"system","content":"Be brief"},`+last), of(`{"role":"system","content":"be brief"},`+last))
	for _, none := range []string{
		`{"role":"user","content":"a question"},{"role":"assistant","content":"an answer"}`,
		`{"role":"user","content":[{"type":"text","text":"a question"}]}`,
		`{"role":"user","content":"` + strings.Repeat("very ", 3000) + `"}`,
		`{"role":"user"}`, `{"content":"x"}`, ``,
	} {
		require.Empty(t, of(none), "%.80s", none)
	}
	require.Empty(t, NormalizedFingerprint([]byte(`{"input":"a question"}`), nil), "embeddings")
	require.NotEqual(t, schemas.CacheKey([]byte(`{"messages":[`+last+`]}`), nil), of(last), "never that of an exact one")
}

func FuzzNormalize(f *testing.F) {
	for _, seed := range []string{"What are the cats?", "A a A the", "hi hello thanks", "\xff\xfe", "thank you", "\u200b", "''''", "ies", "xes s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		normal, ok := Normalize(text)
		require.Equal(t, ok, normal != "")
		require.LessOrEqual(t, len(normal), 3*len(text)+3)
		indented, _ := Normalize(" \t" + text)
		require.Equal(t, normal, indented, "white space does not count")
	})
}

func BenchmarkNormalizedFingerprint(b *testing.B) {
	body := []byte(`{"model":"gpt-4o","messages":[{"role":"system","content":"Answer briefly."},{"role":"user","content":"` + strings.Repeat("What are the highest mountains of the Alps, please? ", 10) + `"}]}`)
	for b.Loop() {
		NormalizedFingerprint(body, nil)
	}
}
