package score

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// samples are a few plain sentences a language, written for this test.
var samples = map[tongue]string{
	english:      "The harbour is quiet in the morning, and the first boats leave before it is light. When they come back, the fish is sold on the quay to anyone who has been waiting.",
	french:       "Le port est calme le matin et les premiers bateaux partent avant le jour. Quand ils reviennent, le poisson est vendu sur le quai à ceux qui ont attendu.",
	german:       "Der Hafen ist am Morgen ruhig, und die ersten Boote fahren aus, bevor es hell wird. Wenn sie zurückkommen, wird der Fisch auf dem Kai an alle verkauft, die gewartet haben.",
	spanish:      "El puerto está tranquilo por la mañana y los primeros barcos salen antes de que haya luz. Cuando vuelven, el pescado se vende en el muelle a los que han esperado.",
	portuguese:   "O porto está calmo de manhã e os primeiros barcos saem antes de haver luz. Quando eles voltam, o peixe é vendido no cais para quem não foi embora.",
	italian:      "Il porto è tranquillo di mattina e le prime barche partono prima che ci sia luce. Quando tornano, il pesce è venduto sul molo a chi non è andato via.",
	dutch:        "De haven is rustig in de ochtend en de eerste boten gaan weg voor het licht is. Als ze terug zijn wordt de vis op de kade verkocht aan wie er nog is.",
	russian:      "Утром в гавани тихо, и первые лодки уходят до рассвета. Когда они возвращаются, рыбу продают прямо на причале.",
	greekTongue:  "Το πρωί το λιμάνι είναι ήσυχο και οι πρώτες βάρκες φεύγουν πριν ξημερώσει.",
	arabicTongue: "الميناء هادئ في الصباح وتغادر القوارب الأولى قبل أن يطلع النهار.",
	hebrewTongue: "הנמל שקט בבוקר והסירות הראשונות יוצאות לפני שמאיר היום.",
	hindi:        "सुबह बंदरगाह शांत रहता है और पहली नावें उजाला होने से पहले निकल जाती हैं।",
	thaiTongue:   "ตอนเช้าท่าเรือเงียบสงบ และเรือลำแรกออกไปก่อนฟ้าสาง",
	chinese:      "早上港口很安静，第一批船在天亮之前就出发了。回来的时候，鱼在码头上卖。",
	japanese:     "朝の港は静かで、最初の船は夜が明ける前に出ていきます。戻ってくると魚は岸壁で売られます。",
	korean:       "아침 항구는 조용하고 첫 배들은 날이 밝기 전에 떠난다. 돌아오면 생선은 부두에서 팔린다.",
}

func TestTongue(t *testing.T) {
	for want, text := range samples {
		var l wordList
		l.read([]byte(text))
		require.Equal(t, want, l.tongue(minFrequent, frequentLead), text)
	}
}

func TestWrongLanguage(t *testing.T) {
	s := New(DefaultConfig())
	for _, c := range []struct {
		name, system, prompt string
		answer               tongue
		wrong                bool
	}{
		{"asked for and given", "", "Describe a harbour. Answer in French.", french, false},
		{"asked for and not given", "", "Describe a harbour. Answer in French.", english, true},
		{"translated", "", "Translate this into German: the harbour is quiet.", german, false},
		{"not translated", "", "Translate this into German: the harbour is quiet.", english, true},
		{"by the instructions", "Always reply in Spanish.", "Describe a harbour to me, and what is done there in the morning before it is light.", spanish, false},
		{"against the instructions", "Always reply in Spanish.", "Describe a harbour to me, and what is done there in the morning before it is light.", english, true},
		{"the question goes before", "Always reply in Spanish.", "Write in Italian about a harbour.", italian, false},
		{"that of the question", "", "Describe a harbour to me, and what is done there in the morning before it is light.", english, false},
		{"another than the question", "", "Describe a harbour to me, and what is done there in the morning before it is light.", chinese, true},
		{"another Latin one than the question", "", samples[german], french, true},
		{"another script than the question", "", samples[russian], english, true},
		{"kana is not Chinese", "", samples[chinese], japanese, true},
		{"a language is spoken of", "", "What did the French eat in the harbours of the coast, and why was it so, when they had all of that?", french, false},
		{"not an order", "", "Write about how tea is served in English homes, in the morning, when the family is up and all of it is there.", german, false},
		{"a name by which nothing is known", "", "Translate to Swedish: quiet", english, true},
		{"two are named", "", "Write in French and then in German.", english, false},
		{"an order in Latin script", "", "Recommend harbours worth visiting", russian, true},
		{"an order in one knows not what", "", "Recommend harbours worth visiting", french, false},
		{"a short question", "", "What is the best way to the harbour?", french, true},
		{"too short a question", "", "Harbour?", french, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := s.Score(askWith(c.system, c.prompt), reply(samples[c.answer], "stop"), Options{})
			require.NoError(t, err)
			require.Equal(t, c.wrong, r.Has(Language))
		})
	}
}

func TestCodeIsInNoLanguage(t *testing.T) {
	s := New(DefaultConfig())
	for _, answer := range []string{
		"```go\nfor i := range 10 { fmt.Println(i) } // the loop is over in a moment and that is all there is to it\n```",
		`{"the": "value", "of": "this", "is": "that it is in the same language as the rest of it"}`,
	} {
		r, err := s.Score(ask(samples[russian]), reply(answer, "stop"), Options{})
		require.NoError(t, err)
		require.False(t, r.Has(Language), answer)
	}
}
