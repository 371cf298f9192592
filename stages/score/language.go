package score

import "bytes"

// What is needed before a language is called known or an answer's language wrong.
const (
	minLetters    = 20  // letters of a text
	minScript     = 0.7 // share of them in one script
	minKana       = 0.1 // share of kana in a text that is Japanese rather than Chinese
	minFrequent   = 6   // frequent words of a language in Latin script that an answer must have
	frequentLead  = 1.4 // ... and how many times those of the next language
	minAsked      = 3   // the same of a question, which is shorter
	askedLead     = 2
	languageWords = 300 // words that are looked at
	maxQuestion   = 80  // words of a question; a longer one may hold a text in another language
	verbDistance  = 8   // words between "answer" and "in French"
	orderWords    = 40  // words at the beginning and at the end that may say what to do
)

// tongue is a set of languages, mostly of one. Those that have a script of their own stand
// for all that share it.
type tongue uint32

const (
	english tongue = 1 << iota
	french
	german
	spanish
	portuguese
	italian
	dutch
	otherLatin // known by name only
	russian
	greekTongue
	arabicTongue
	hebrewTongue
	hindi
	thaiTongue
	chinese
	japanese
	korean
	unknown tongue = 0

	anyLatin = otherLatin<<1 - 1 // one of those in Latin script
)

var tongueOfScript = [scripts]tongue{
	cyrillic: russian, greek: greekTongue, arabic: arabicTongue, hebrew: hebrewTongue,
	devanagari: hindi, thai: thaiTongue, han: chinese, kana: japanese, hangul: korean,
}

// frequentWords are the most frequent words of the languages in Latin script.
var frequentWords = newClassTable(map[tongue]string{
	english: `the and of to in is that it for was with as his on be at by this have from or one had but not
		what all were when we there can an your which their said if do will each about how up out them then she many
		some so these would other into has more two like him see could no make than been its who now people my made
		over did down only are you they i`,
	french: `le la les de des du un une et est que qui dans pour pas sur au aux avec ce cette il elle nous vous
		je ne se sont par plus mais ou où être avoir fait comme tout leur son sa ses cest nest quil on y même très
		aussi peut entre sans`,
	german: `der die das und ist nicht ein eine einen einem einer den dem des zu mit auf für von im sich auch es
		an werden wird aus er hat dass sie nach bei um am sind noch wie über so zum war haben nur oder aber vor zur bis
		mehr durch man kann ich wir ihr wenn als`,
	spanish: `el la los las de del un una y es que en por para con no se su al lo como más pero sus le ya o este
		sí porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante ser son fue
		está puede`,
	portuguese: `o a os as de do da dos das um uma e é que em por para com não se seu sua ao como mais mas foi ele
		ela tem são nos na no pelo pela até isso entre depois sem mesmo também já quando muito você está pode ser`,
	italian: `il lo la i gli le di del della dei delle un una uno e è che in per con non si su da dal come più ma
		al anche sono ha alla nel nella questo questa quando dove essere molto tutti suo sua loro ci cui può se`,
	dutch: `de het een en van is dat die in te zijn op met voor niet aan er om ook als dan maar bij nog uit naar
		door over ze wel geen kan je ik hij zij was wordt worden deze dit heeft hebben tot meer of`,
})

// tongueNames are the names of languages in English and, for some, their own.
var tongueNames = newClassTable(map[tongue]string{
	english: "english inglés anglais englisch inglese", french: "french français francés französisch",
	german: "german deutsch allemand alemán", spanish: "spanish español castellano espagnol spanisch",
	portuguese: "portuguese português", italian: "italian italiano", dutch: "dutch nederlands",
	otherLatin: "polish swedish danish norwegian finnish czech turkish vietnamese indonesian romanian hungarian swahili latin",
	russian:    "russian ukrainian bulgarian serbian русском русски", greekTongue: "greek",
	arabicTongue: "arabic persian farsi urdu", hebrewTongue: "hebrew", hindi: "hindi marathi nepali",
	thaiTongue: "thai", chinese: "chinese mandarin cantonese", japanese: "japanese", korean: "korean",
})

var (
	answerVerbs    = newWordSet("answer reply respond write rewrite translate speak output explain summarize summarise describe give use")
	intoWords      = newWordSet("in into to")
	translateWords = newWordSet("translate translation translations language languages bilingual alphabet script kanji hiragana katakana pinyin cyrillic traduire traduis übersetze traduce traducir")
)

// wrongLanguage tells whether the answer is in another language than was asked for: the
// one that the question names ("answer in French"), or else that of the question. A
// question that speaks of languages in another way leaves all open, as does one that is
// long. Languages are told apart by their script and, within the Latin script, by their
// most frequent words. Code and data are in no language.
func (x *scratch) wrongLanguage(c *choice) bool {
	text := bytes.TrimSpace(c.text.of(x.output))
	if len(text) == 0 || text[0] == '{' || text[0] == '[' || bytes.Contains(text, []byte("```")) {
		return false
	}
	said := x.answer.tongue(minFrequent, frequentLead)
	return said != unknown && x.wanted != unknown && said&x.wanted == unknown
}

// readWanted finds the language that the answer should be in, or unknown if it is open:
// what the question asks for goes before what the instructions ask for, and that before
// the language of the question itself.
func (x *scratch) readWanted() {
	var open bool
	if x.wanted, open = x.query.named(); open || x.wanted != unknown {
		return
	}
	for _, m := range x.asked.messages {
		if m.role != roleSystem {
			continue
		}
		x.spare.read(m.text.of(x.prompt))
		if x.wanted, open = x.spare.named(); open || x.wanted != unknown {
			return
		}
	}
	if len(x.query.words) <= maxQuestion {
		x.wanted = x.query.tongue(minAsked, askedLead)
	}
}

// named gives the language that a text asks for. Open means that it speaks of languages
// without asking for one, or asks for several.
func (l *wordList) named() (wanted tongue, open bool) {
	verb := -verbDistance - 1
	for i, w := range l.words {
		if answerVerbs.has(w.full) {
			verb = i
		}
		name := tongueNames.of(w.full)
		if name == unknown {
			open = open || translateWords.has(w.full)
			continue
		}
		if i >= orderWords && i < len(l.words)-orderWords {
			continue // in the middle of a long text it is not an order
		}
		asks := i > 0 && intoWords.has(l.words[i-1].full) && i-verb <= verbDistance && l.endsPhrase(i)
		if !asks || wanted != unknown && wanted != name {
			return unknown, true
		}
		wanted = name
	}
	return wanted, open && wanted == unknown
}

// endsPhrase tells whether what follows a word is not what the word describes.
func (l *wordList) endsPhrase(i int) bool {
	return i+1 == len(l.words) || l.words[i+1].marks&(startsSentence|isStop) != 0
}

// tongue gives the language of a text, if it is plain. In Latin script it takes so many
// frequent words, so many times those of the next language, and is else any of them.
func (l *wordList) tongue(frequent int, lead float64) tongue {
	total, best := 0, latin
	for s, n := range l.letters {
		total += n
		if n > l.letters[best] {
			best = script(s)
		}
	}
	if float64(l.letters[kana]) >= minKana*float64(total) && l.letters[kana] > 0 {
		best = kana
	}
	share := l.letters[best]
	if best == kana {
		share += l.letters[han]
	}
	if float64(share) < minScript*float64(total) {
		return unknown
	}
	if total < minLetters && best != han && best != kana || total < minLetters/4 {
		return unknown
	}
	if best == latin {
		return l.latinTongue(frequent, lead)
	}
	return tongueOfScript[best]
}

// latinTongue tells the languages in Latin script apart.
func (l *wordList) latinTongue(frequent int, lead float64) tongue {
	var counts [16]int
	for _, w := range l.words[:min(len(l.words), languageWords)] {
		for classes, i := frequentWords.of(w.full), 0; classes != 0; classes, i = classes>>1, i+1 {
			counts[i] += int(classes & 1)
		}
	}
	best, second := 0, -1
	for i := 1; i < len(counts); i++ {
		switch {
		case counts[i] > counts[best]:
			best, second = i, best
		case second < 0 || counts[i] > counts[second]:
			second = i
		}
	}
	if counts[best] < frequent || float64(counts[best]) < lead*float64(counts[second]) {
		return anyLatin
	}
	return 1 << best
}
