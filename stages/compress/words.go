package compress

import "strings"

// stopStems are the stems of words that say nothing about what a text is about.
var stopStems = func() map[string]bool {
	words := `a about above after again against all also although am among an and any are as at be because been before
	being below between both but by can could did do does doing done down during each else ever few for from further get
	gets give given go goes got had has have having he her here hers herself him himself his how however i if in into is it
	its itself just kind let like made make makes many may me might more most much must my myself name need no nor not now
	of off often on once one only or other our ours ourselves out over own per please put rather same say says she should
	since so some something such take tell than that the their theirs them themselves then there these they thing things
	this those through thus to too under until up upon us use used uses using very via was we were what when where whether
	which while who whom whose why will with within without would yes yet you your yours yourself yourselves
	answer question based following given provided context document documents passage explain describe
	don doesn didn isn aren wasn weren won't ll ve re`
	stops := map[string]bool{}
	r := termReader{text: words}
	for {
		term, _, ok := r.next()
		if !ok {
			return stops
		}
		stops[string(term)] = true
	}
}()

// formsOf gives to the stem of a word the stems of its irregular forms.
var formsOf = func() map[string][]string {
	groups := `win won|sing sang sung song|write wrote written writer|begin began begun|buy bought|build built|bring brought|catch caught
	choose chose chosen choice|come came|die died death dead|draw drew drawn|drive drove driven|eat ate eaten|fall fell fallen|feel felt
	fight fought|find found|fly flew flown flight|forget forgot|freeze froze frozen|grow grew grown growth|hear heard|hide hid hidden|hold held
	keep kept|know knew known|lead led leader|leave left|lose lost loss|marry married marriage|mean meant|meet met meeting|pay paid payment|rise rose risen
	run ran|see saw seen|sell sold sale|send sent|shoot shot|speak spoke spoken speech|spend spent|stand stood|steal stole stolen|strike struck
	swim swam swum|teach taught teacher|tell told|think thought|throw threw thrown|wear wore worn|live life lives|born birth
	man men|woman women|child children|person people|foot feet|tooth teeth|mouse mice|high height|long length|wide width|deep depth|strong strength
	film movie|tv television|usa america american|uk britain british|invent invention inventor|discover discovery|act actor actress|star stars starring
	sign signature signed|locate location|found founder founded|elect election|appear appearance|perform performance performer|produce production producer
	create creation creator|compose composer composition|release releases|play player|capital capitals|big large largest biggest|first 1st|second 2nd|third 3rd
	two 2|three 3|four 4|five 5|six 6|seven 7|eight 8|nine 9|ten 10|population inhabitants|author written|kill murder|start begin began|end finish
	small smallest|old oldest age|fast fastest speed|originate origin|belong belongs|mean meaning|king monarch|war wars|speak language`
	forms := map[string][]string{}
	for line := range strings.SplitSeq(groups, "\n") {
		for g := range strings.SplitSeq(line, "|") {
			var stems []string
			for w := range strings.FieldsSeq(g) {
				stems = append(stems, string(stem([]byte(w))))
			}
			for i, s := range stems {
				forms[s] = append(append(forms[s], stems[:i]...), stems[i+1:]...)
			}
		}
	}
	return forms
}()
