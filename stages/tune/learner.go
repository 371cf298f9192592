package tune

import (
	"cmp"
	"math"
	"math/bits"
	"slices"

	"github.com/go-json-experiment/json"
)

// How settings are told apart. Successive halving is Karnin, Koren and Somekh,
// "Almost Optimal Exploration in Multi-Armed Bandits" (ICML 2013); top-two
// Thompson sampling is Russo, "Simple Bayesian Algorithms for Best Arm
// Identification" (COLT 2016). The figures are set; bench tune measures them.
const (
	minTrials = 30   // of each setting before any is dropped or preferred
	surely    = 0.95 // the probability of being the best at which the search ends
	spared    = 0.02 // a setting of the worse half that beats the leader with this probability stays
	alike     = 0.05 // of a standard deviation: settings that differ by less are as good as equal

	driftBlock = 200 // answers with the frozen setting that are compared with those before it was frozen
	driftZ     = 4   // standard errors that count as a change: one block in 16,000 by chance
	maxArms    = 63
)

// Moments are the sums of observations.
type Moments struct {
	N   float64 `json:"n"`
	Sum float64 `json:"sum"`
	Sqr float64 `json:"sqr"`
}

func (m *Moments) add(x float64) { m.N, m.Sum, m.Sqr = m.N+1, m.Sum+x, m.Sqr+x*x }

func (m *Moments) merge(o Moments) { m.N, m.Sum, m.Sqr = m.N+o.N, m.Sum+o.Sum, m.Sqr+o.Sqr }

func (m *Moments) mean() float64 {
	if m.N == 0 {
		return 0
	}
	return m.Sum / m.N
}

// Learner is what is known of the settings of one model on one route. The zero
// value knows nothing. It is a sum of observations and what follows from them,
// so that learners of several processes can be merged. It is not safe for
// concurrent use.
type Learner struct {
	Epoch   uint32    `json:"epoch"` // counts the searches
	Arms    []Moments `json:"arms"`
	Dropped uint64    `json:"dropped,omitzero"` // a bit for each setting
	Rung    int       `json:"rung,omitzero"`    // halvings so far

	Frozen    bool    `json:"frozen,omitzero"`
	Best      int     `json:"best,omitzero"`      // the setting that was found, once frozen
	Reference Moments `json:"reference,omitzero"` // of it until then
	Recent    Moments `json:"recent,omitzero"`    // of it since

	// Delta marks observations on their way to others: nothing follows from them alone.
	Delta bool `json:"-"`
}

// Observe takes in how well a setting did: in use, what is known here, and in
// own, what the others are to be told. A greater reward is better.
func Observe(use, own *Learner, arms, arm int, reward float64) {
	if arm < 0 || arm >= arms || arms > maxArms || math.IsNaN(reward) || math.IsInf(reward, 0) {
		return
	}
	if use.Frozen && arm != use.Best {
		return
	}
	if own.Epoch != use.Epoch {
		*own = Learner{Epoch: use.Epoch}
	}
	own.Delta = true
	for _, l := range []*Learner{use, own} {
		l.grow(arms)
		if use.Frozen {
			l.Recent.add(reward)
		} else {
			l.Arms[arm].add(reward)
		}
	}
	if use.Frozen || int(use.trials())%8 == 0 {
		use.advance()
	}
}

func (l *Learner) grow(arms int) {
	for len(l.Arms) < arms {
		l.Arms = append(l.Arms, Moments{})
	}
}

// Merge takes in what was observed elsewhere. Of another search the later one counts.
func (l *Learner) Merge(o *Learner) {
	if o.Epoch < l.Epoch {
		return
	}
	if o.Epoch > l.Epoch || len(l.Arms) == 0 {
		delta := l.Delta
		*l = *o
		l.Arms, l.Delta = slices.Clone(o.Arms), delta
	} else {
		l.grow(len(o.Arms))
		for i := range o.Arms {
			l.Arms[i].merge(o.Arms[i])
		}
		l.Recent.merge(o.Recent)
	}
	if !l.Delta {
		l.advance()
	}
}

// MarshalBinary writes what is shared.
func (l *Learner) MarshalBinary() ([]byte, error) { return json.Marshal((*shape)(l)) }

// UnmarshalBinary reads what MarshalBinary writes.
func (l *Learner) UnmarshalBinary(data []byte) error { return json.Unmarshal(data, (*shape)(l)) }

type shape Learner // without the methods, which JSON would call

func (l *Learner) trials() float64 {
	n := 0.0
	for i := range l.Arms {
		n += l.Arms[i].N
	}
	return n
}

func (l *Learner) alive(arm int) bool { return l.Dropped&(1<<arm) == 0 }

// spread is the standard deviation of rewards within a setting.
func (l *Learner) spread() float64 {
	squares, free := 0.0, 0.0
	for i := range l.Arms {
		if m := &l.Arms[i]; m.N > 1 {
			squares += max(m.Sqr-m.Sum*m.Sum/m.N, 0)
			free += m.N - 1
		}
	}
	if free == 0 {
		return 0
	}
	return math.Sqrt(squares / free)
}

// Choose gives the setting to try next, of so many. dice gives numbers in [0, 1).
func (l *Learner) Choose(arms int, dice func() float64) int {
	if l.Frozen {
		return l.Best
	}
	if few := l.few(arms); len(few) > 0 { // any of them: many requests may choose before the first is observed
		return few[int(dice()*float64(len(few)))]
	}
	spread := l.spread()
	top := l.draw(spread, dice)
	if dice() < 0.5 {
		return top
	}
	for range 20 {
		if other := l.draw(spread, dice); other != top {
			return other
		}
	}
	return top
}

// few gives the settings that have too few trials to be judged.
func (l *Learner) few(arms int) (list []int) {
	for i := range arms {
		if i >= len(l.Arms) || l.Arms[i].N < minTrials {
			list = append(list, i)
		}
	}
	return list
}

// draw gives the best setting by a draw from what is believed of each.
func (l *Learner) draw(spread float64, dice func() float64) int {
	best, top := 0, math.Inf(-1)
	for i := range l.Arms {
		if !l.alive(i) {
			continue
		}
		m := &l.Arms[i]
		if x := m.mean() + spread/math.Sqrt(m.N)*normal(dice); x > top {
			best, top = i, x
		}
	}
	return best
}

// normal gives a normally distributed number (Box and Muller 1958).
func normal(dice func() float64) float64 {
	return math.Sqrt(-2*math.Log(1-dice())) * math.Cos(2*math.Pi*dice())
}

// advance draws the conclusions from what was observed.
func (l *Learner) advance() {
	switch {
	case l.Frozen:
		l.watch()
	case len(l.Arms) > 0 && len(l.few(len(l.Arms))) == 0:
		l.halve()
		l.stop()
	}
}

// leader gives the best setting so far.
func (l *Learner) leader() int {
	best := -1
	for i := range l.Arms {
		if l.alive(i) && (best < 0 || l.Arms[i].mean() > l.Arms[best].mean()) {
			best = i
		}
	}
	return best
}

// halve drops the worse half of the settings each time that the trials have
// doubled, but for those that may well be the best.
func (l *Learner) halve() {
	for l.trials() >= float64(len(l.Arms))*minTrials*math.Exp2(float64(l.Rung)) {
		l.Rung++
		var list []int
		for i := range l.Arms {
			if l.alive(i) {
				list = append(list, i)
			}
		}
		slices.SortStableFunc(list, func(a, b int) int {
			return cmp.Compare(l.Arms[b].mean(), l.Arms[a].mean())
		})
		for _, i := range list[(len(list)+1)/2:] {
			if l.exceeds(i, list[0], 0) < spared {
				l.Dropped |= 1 << i
			}
		}
	}
}

// exceeds is the probability that one setting is better than another by more than a margin.
func (l *Learner) exceeds(arm, than int, margin float64) float64 {
	spread := l.spread()
	if spread == 0 {
		if l.Arms[arm].mean() > l.Arms[than].mean()+margin {
			return 1
		}
		return 0
	}
	deviation := spread * math.Sqrt(1/l.Arms[arm].N+1/l.Arms[than].N)
	return below((l.Arms[arm].mean() - l.Arms[than].mean() - margin) / deviation)
}

// below is the normal distribution function.
func below(z float64) float64 { return 0.5 * math.Erfc(-z/math.Sqrt2) }

// stop ends the search where a setting is surely the best, or where the others
// that are left are about as good and surely not better by more than that.
func (l *Learner) stop() {
	best := l.leader()
	if l.certainty(best) < surely && !l.equals(best) {
		return
	}
	l.Frozen, l.Best, l.Reference, l.Recent = true, best, l.Arms[best], Moments{}
}

func (l *Learner) equals(best int) bool {
	margin, doubt := alike*l.spread(), 0.0
	for i := range l.Arms {
		if i == best || !l.alive(i) {
			continue
		}
		if l.Arms[best].mean()-l.Arms[i].mean() > margin {
			return false
		}
		doubt += l.exceeds(i, best, margin)
	}
	return doubt < 1-surely
}

// Certainty is the probability that the leading setting is the best.
func (l *Learner) Certainty() float64 {
	if len(l.Arms) == 0 || len(l.few(len(l.Arms))) > 0 {
		return 0
	}
	if l.Frozen {
		return l.certainty(l.Best)
	}
	return l.certainty(l.leader())
}

// certainty integrates over what the setting may be worth, with the trapezoidal
// rule over six standard errors to both sides.
func (l *Learner) certainty(best int) float64 {
	spread := l.spread()
	if spread == 0 {
		return 1
	}
	const steps = 48
	own := spread / math.Sqrt(l.Arms[best].N)
	sum, weights := 0.0, 0.0
	for k := range steps + 1 {
		z := 12*float64(k)/steps - 6
		weight := math.Exp(-z * z / 2)
		weights += weight
		for i := range l.Arms {
			if i != best && l.alive(i) && weight > 0 {
				m := &l.Arms[i]
				weight *= below((l.Arms[best].mean() + z*own - m.mean()) * math.Sqrt(m.N) / spread)
			}
		}
		sum += weight
	}
	return sum / weights
}

// watch compares the frozen setting with what it was when it was found, a block
// of answers at a time, and begins the search anew when that has changed.
func (l *Learner) watch() {
	if l.Recent.N < driftBlock {
		return
	}
	spread := l.spread()
	deviation := spread * math.Sqrt(1/l.Recent.N+1/l.Reference.N)
	if math.Abs(l.Recent.mean()-l.Reference.mean()) > driftZ*deviation {
		*l = Learner{Epoch: l.Epoch + 1, Arms: make([]Moments, len(l.Arms)), Delta: l.Delta}
		return
	}
	l.Recent = Moments{}
}

// Left is the number of settings that are still in question.
func (l *Learner) Left() int { return len(l.Arms) - bits.OnesCount64(l.Dropped) }
