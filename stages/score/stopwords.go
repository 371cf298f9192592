package score

// stopWords are frequent English words that say nothing about a topic, apostrophes left out.
var stopWords = newWordSet(`
a about above after again all also am an and any are arent as at be because been before being below
between both but by can cant cannot could couldnt did didnt do does doesnt doing dont down during each
either else ever few for from further get got had hadnt has hasnt have havent having he her here hers
him his how i id if ill im in into is isnt it its ive just let lets like may me might mine more most
much must my no nor not now of off on once one only or other our ours out over own per please same she
should shouldnt so some such than that thats the their theirs them then there theres these they theyre
this those through to too under until up upon us very was wasnt we were werent what whats when where
which while who whom whose why will with within without wont would wouldnt yes yet you youd youll your
youre yours
`)
