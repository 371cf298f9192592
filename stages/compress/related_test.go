package compress

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestThesaurusIsSound(t *testing.T) {
	n := thesaurusSize()
	require.Greater(t, n, 10_000)
	before := ""
	for i := range n {
		e := thesaurusAt(i)
		word := string(e.stem)
		require.Less(t, before, word, "sorted, so that words are found")
		before = word
		found, ok := lookUp(word)
		require.True(t, ok)
		require.Equal(t, e, found)
		require.True(t, e.frequency() > 3 && e.frequency() < 8, word)
		last := 1.0
		e.eachRelated(func(stem []byte, cosine float64) {
			require.NotEqual(t, word, string(stem))
			require.True(t, cosine >= 0.49 && cosine <= last, word)
			last = cosine
		})
	}
	for _, absent := range []string{"", "a", "zzzz", "人口", "the", strings.Repeat("x", 100)} {
		_, ok := lookUp(absent)
		require.False(t, ok, absent)
	}
}

func TestTheThesaurusIsOfTheStemsInUse(t *testing.T) {
	for _, word := range []string{"physician", "doctor", "surgery", "army", "gasoline", "immigration", "invasion"} {
		terms := Terms(word)
		require.Len(t, terms, 1)
		_, ok := lookUp(terms[0])
		require.True(t, ok, word)
	}
}

func TestRelatedWordsAnswer(t *testing.T) {
	c := newCompressor(t)
	filler := strings.Repeat("The garden has roses of many colours and a small pond in its middle. ", 30)
	text := filler + "The litre of petrol is three coins. " + filler + "The loaf of bread is two coins. " + filler
	r := c.Text(text, "How many coins does gasoline cost?", at(0.015))
	require.Contains(t, r.Text, "petrol")
	require.NotContains(t, r.Text, "bread")
}

func TestRareWordsSayMore(t *testing.T) {
	q := newQuery("Which people met the huguenot in 1598?")
	q.relate()
	require.Greater(t, q.prior[q.terms["huguenot"]], q.prior[q.terms["peopl"]])
	require.InDelta(t, 1.0, q.prior[q.terms["1598"]], 1e-9)
}

func TestOtherLanguagesDoWithoutTheThesaurus(t *testing.T) {
	for _, question := range []string{
		"Wo liegt die Hauptstadt von Frankreich und wie viele Menschen wohnen dort?",
		"Quelle est la capitale de la France et combien de personnes y habitent ?",
		"¿Cuál es la capital de Francia y cuántas personas viven allí?",
		"Какая столица Франции?", "フランスの首都はどこですか", "法国的首都是哪里", "ما هي عاصمة فرنسا", "",
	} {
		q := newQuery(question)
		q.relate()
		require.Empty(t, q.relations, question)
		for _, p := range q.prior {
			require.InDelta(t, 1.0, p, 1e-9, question)
		}
	}
	for _, question := range []string{"Who was Tanaghrisson's doctor?", "capital city Australia", "How many people live in the capital of France?", "doctor fees"} {
		q := newQuery(question)
		q.relate()
		require.NotEmpty(t, q.relations, question)
	}
}

func TestRelationsAreBounded(t *testing.T) {
	var words []string
	for i := 0; i < thesaurusSize(); i += 3 {
		words = append(words, string(thesaurusAt(i).stem))
	}
	q := newQuery(strings.Join(words, " "))
	q.relate()
	require.Equal(t, maxQueryTerms, q.size)
	require.LessOrEqual(t, len(q.relations), 8*maxQueryTerms)
	for _, r := range q.relations {
		require.LessOrEqual(t, len(r), maxRelations)
	}
}

func TestProseWithoutTitlesNeedsMore(t *testing.T) {
	paragraph := strings.Repeat("One sentence stands here. Another one follows it. And a third.", 3)
	for text, plain := range map[string]bool{
		strings.Repeat(paragraph+"\n\n", 5):                                                            true,
		"[1] " + paragraph + "\n[2] " + paragraph + "\n":                                               true,
		"Document [1](Title: Roses) " + paragraph + "\nDocument [2](Title: Ponds) " + paragraph + "\n": false,
		"# Roses\n\n" + paragraph + "\n":                                                               false,
		"| a | b |\n|---|---|\n" + strings.Repeat("| one | two |\n", 20):                               false,
		strings.Repeat("Ann: One sentence.\nBob: Another one.\n", 10):                                  false,
	} {
		o := &outline{}
		o.addText(text, 0, len(text))
		require.Equal(t, plain, o.plainProse(), text)
	}
}
