package evaluate

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

const (
	// DefaultClusters bounds the clusters that are kept for intervals and tests.
	DefaultClusters = 20_000
	maxLabels       = 30 // groups of one kind; the rest is one
	maxCodes        = 50 // codes of errors
	maxExamples     = 10 // on each side
	maxShown        = 2000
	timesKept       = 10_000 // of a stage, for percentiles
	otherLabel      = "(others)"
)

// Options of a Builder. The zero value is right but for the seed.
type Options struct {
	Seed     uint64
	Clusters int // that are kept, default DefaultClusters
}

// Builder makes a report of pairs, in memory that does not grow with their
// number. It is for one goroutine.
type Builder struct {
	opts     Options
	sample   *sample
	pairs    int
	totals   []total
	groups   []*group
	byLabel  map[[2]string]int // numbers of groups, by kind and label
	labels   map[string]int    // groups by kind
	stages   map[string]*[2]*reservoir
	failures map[string]*Failure
	feedback Feedback
	examples [][2][]Example // by metric of quality: the better, the worse
	buckets  [][]int        // of each metric of quality
	whole    map[int]Result // tests over all pairs, before they are adjusted
}

type total struct {
	pairs               int
	baseline, candidate float64
	gained, lost        int
}

type group struct {
	by, name string
	pairs    int
	totals   []total
}

// histogramBuckets are the buckets of differences from -1 to 1.
const histogramBuckets = 21

// NewBuilder makes an empty one.
func NewBuilder(opts Options) *Builder {
	if opts.Clusters == 0 {
		opts.Clusters = DefaultClusters
	}
	b := &Builder{
		opts: opts, sample: newSample(opts.Clusters), totals: make([]total, len(metrics)),
		byLabel: map[[2]string]int{}, labels: map[string]int{}, stages: map[string]*[2]*reservoir{},
		failures: map[string]*Failure{}, examples: make([][2][]Example, len(metrics)), buckets: make([][]int, len(metrics)), whole: map[int]Result{},
	}
	for i := range b.buckets {
		b.buckets[i] = make([]int, histogramBuckets)
	}
	return b
}

// Add takes a pair into account.
func (b *Builder) Add(p Pair) {
	b.pairs++
	in := [...]int{
		b.group("tenant", p.Tenant), b.group("model", p.Model), b.group("route", cmp.Or(p.Route, "(none)")), b.group("length", length(p.Tokens)),
	}
	c := b.sample.of(p.cluster(b.opts.Seed))
	if c != nil && c.groups == nil {
		c.groups = slices.Clone(in[:])
	}
	for i := range metrics {
		base, cand, ok := metrics[i].of(&p)
		if !ok {
			continue
		}
		b.totals[i].add(base, cand)
		for _, g := range in {
			b.groups[g].totals[i].add(base, cand)
		}
		if c != nil {
			c.sums[i].difference += cand - base
			c.sums[i].pairs++
		}
		if metrics[i].quality {
			b.show(i, &p, cand-base)
		}
	}
	for _, g := range in {
		b.groups[g].pairs++
	}
	b.times(p.ID, 0, p.Baseline.Stages)
	b.times(p.ID, 1, p.Candidate.Stages)
	b.fail(p.Baseline.Error, func(f *Failure) { f.Baseline++ })
	b.fail(p.Candidate.Error, func(f *Failure) { f.Candidate++ })
	b.rate(&p)
}

func (t *total) add(baseline, candidate float64) {
	t.pairs++
	t.baseline += baseline
	t.candidate += candidate
	switch {
	case candidate > baseline:
		t.gained++
	case candidate < baseline:
		t.lost++
	}
}

func (b *Builder) group(by, name string) int {
	key := [2]string{by, clip(name, 200)}
	if g, ok := b.byLabel[key]; ok {
		return g
	}
	if b.labels[by] >= maxLabels {
		key[1] = otherLabel
		if g, ok := b.byLabel[key]; ok {
			return g
		}
	}
	b.labels[by]++
	b.groups = append(b.groups, &group{by: by, name: key[1], totals: make([]total, len(metrics))})
	b.byLabel[key] = len(b.groups) - 1
	return len(b.groups) - 1
}

// length names the class of a prompt's length.
func length(tokens int) string {
	for _, class := range []struct {
		below int
		name  string
	}{{128, "below 128 tokens"}, {1024, "128 to 1,023 tokens"}, {8192, "1,024 to 8,191 tokens"}} {
		if tokens < class.below {
			return class.name
		}
	}
	return "8,192 tokens or more"
}

func (b *Builder) fail(code string, count func(*Failure)) {
	if code == "" {
		return
	}
	if b.failures[code] == nil {
		if len(b.failures) >= maxCodes {
			code = otherLabel
		}
		if b.failures[code] == nil {
			b.failures[code] = &Failure{Code: code}
		}
	}
	count(b.failures[code])
}

func (b *Builder) rate(p *Pair) {
	if p.Rating == nil {
		return
	}
	b.feedback.Rated++
	kept := p.Candidate.Error == "" && p.Candidate.Text == p.Baseline.Text
	switch good := *p.Rating >= 0.5; {
	case good && kept:
		b.feedback.GoodKept++
	case good:
		b.feedback.GoodChanged++
	case kept:
		b.feedback.BadKept++
	default:
		b.feedback.BadChanged++
	}
}

// leastShown is the difference from which a request is worth to be shown.
const leastShown = 0.1

// show keeps a pair among the examples if it is one of the most changed, and
// counts its difference.
func (b *Builder) show(metric int, p *Pair, difference float64) {
	at := int(math.Round((max(-1, min(1, difference)) + 1) / 2 * (histogramBuckets - 1)))
	b.buckets[metric][at]++
	if math.Abs(difference) < leastShown {
		return
	}
	side := &b.examples[metric][0]
	if difference < 0 {
		side = &b.examples[metric][1]
	}
	before := func(e *Example) bool { // a total order, so that the same are kept whatever comes first
		if d := math.Abs(e.Difference) - math.Abs(difference); d != 0 {
			return d > 0
		}
		return hash(b.opts.Seed, e.Tenant, e.ID) < hash(b.opts.Seed, p.Tenant, p.ID)
	}
	i := len(*side)
	for i > 0 && !before(&(*side)[i-1]) {
		i--
	}
	if i >= maxExamples {
		return
	}
	*side = slices.Insert(*side, i, Example{
		ID: p.ID, Tenant: p.Tenant, Metric: metrics[metric].name, Difference: difference, Prompt: clip(p.Prompt, maxShown),
		Baseline: sideOf(&p.Baseline), Candidate: sideOf(&p.Candidate),
	})
	*side = (*side)[:min(len(*side), maxExamples)]
}

func sideOf(o *Outcome) Side {
	return Side{Model: o.Model, Text: clip(o.Text, maxShown), Error: o.Error, Score: o.Score, Correct: o.Correct, CostUSD: o.CostUSD}
}

func (b *Builder) times(id string, side int, stages map[string]float64) {
	for stage, ms := range stages {
		if b.stages[stage] == nil {
			b.stages[stage] = &[2]*reservoir{{}, {}}
		}
		b.stages[stage][side].add(hash(b.opts.Seed, id), ms)
	}
}

// reservoir keeps the numbers with the lowest keys, which are as good as random.
type reservoir struct {
	seen   int
	values []keyed
}

type keyed struct {
	key   uint64
	value float64
}

func (r *reservoir) add(key uint64, value float64) {
	r.seen++
	r.values = append(r.values, keyed{key, value})
	if len(r.values) >= 2*timesKept {
		r.cut()
	}
}

func (r *reservoir) cut() {
	slices.SortFunc(r.values, func(a, b keyed) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.value, b.value)) })
	r.values = r.values[:min(len(r.values), timesKept)]
}

func (r *reservoir) times() *Times {
	if r.seen == 0 {
		return nil
	}
	r.cut()
	sorted := make([]float64, len(r.values))
	for i, v := range r.values {
		sorted[i] = v.value
	}
	slices.Sort(sorted)
	return &Times{r.seen, round(percentile(sorted, 0.5)), round(percentile(sorted, 0.95)), round(percentile(sorted, 0.99))}
}

// Report makes the report. What was compared and what it cost is the caller's
// to say; the numbers of pairs are filled in.
func (b *Builder) Report(replay Replay, spending Spending) Report {
	clusters, all := b.sample.end()
	replay.Pairs, replay.Distinct, replay.Seed = b.pairs, int(math.Round(all)), b.opts.Seed
	shrink := 1.0
	if len(clusters) > 0 {
		shrink = math.Sqrt(float64(len(clusters)) / all)
	}
	r := Report{
		Version: 1, Replay: replay, Spending: spending, Metrics: []Result{}, Groups: []Group{}, Stages: []Stage{},
		Failures: []Failure{}, Better: []Example{}, Worse: []Example{}, Histogram: []Bucket{},
	}
	r.Metrics = b.compare(b.totals, clusters, -1, shrink, nil)
	for n, g := range b.groups {
		of := n
		if g.pairs == b.pairs { // that is all: nobody else is to be left out
			of = -1
		}
		r.Groups = append(r.Groups, Group{By: g.by, Name: g.name, Pairs: g.pairs, Metrics: b.compare(g.totals, clusters, of, shrink, headline)})
	}
	adjustGroups(r.Groups)
	order := []string{"tenant", "model", "route", "length"}
	slices.SortStableFunc(r.Groups, func(x, y Group) int {
		return cmp.Or(cmp.Compare(slices.Index(order, x.By), slices.Index(order, y.By)), cmp.Compare(y.Pairs, x.Pairs), cmp.Compare(x.Name, y.Name))
	})
	for _, stage := range stageOrder(b.stages) {
		r.Stages = append(r.Stages, Stage{stage, b.stages[stage][0].times(), b.stages[stage][1].times()})
	}
	for _, code := range slices.Sorted(maps.Keys(b.failures)) {
		r.Failures = append(r.Failures, *b.failures[code])
	}
	if b.feedback.Rated > 0 {
		r.Feedback = &b.feedback
	}
	b.decide(&r)
	return r
}

// headline are the metrics by which groups are compared.
func headline(m *metric) bool { return m.quality || m.name == Failed || m.name == Cost }

func stageOrder(stages map[string]*[2]*reservoir) []string {
	order := []string{"compress", "cache", "batch", "generate", "score"}
	names := slices.Sorted(maps.Keys(stages))
	slices.SortStableFunc(names, func(x, y string) int {
		return cmp.Compare(uint(slices.Index(order, x)), uint(slices.Index(order, y))) // unknown ones last
	})
	return names
}

// compare tests each metric that has pairs; those of one group, or of all (-1).
func (b *Builder) compare(totals []total, clusters []*cluster, group int, shrink float64, wanted func(*metric) bool) []Result {
	results := []Result{}
	var p []float64
	for i := range metrics {
		m, t := &metrics[i], totals[i]
		if t.pairs == 0 || wanted != nil && !wanted(m) {
			continue
		}
		parts, single := partsOf(clusters, i, group)
		if len(parts) == 0 { // all of the group fell out of the sample
			continue
		}
		r, known := b.whole[i]
		if group >= 0 || !known {
			r = b.result(m, t, parts, single, shrink)
		}
		if group < 0 {
			b.whole[i] = r
		}
		results = append(results, r)
		p = append(p, results[len(results)-1].P)
	}
	for i, adjusted := range holm(p) {
		results[i].Adjusted = tidy(adjusted)
	}
	for i := range results {
		results[i].conclude(len(results))
	}
	return results
}

func partsOf(clusters []*cluster, metric, group int) (parts []part, single bool) {
	single = true
	for _, c := range clusters {
		if c.sums[metric].pairs == 0 || group >= 0 && !slices.Contains(c.groups, group) {
			continue
		}
		single = single && c.sums[metric].pairs == 1
		parts = append(parts, c.sums[metric])
	}
	return parts, single
}

func (b *Builder) result(m *metric, t total, parts []part, single bool, shrink float64) Result {
	n := float64(t.pairs)
	r := Result{
		Name: m.name, Unit: m.unit, Better: m.better, Pairs: t.pairs, Gained: t.gained, Lost: t.lost,
		Baseline: t.baseline / n, Candidate: t.candidate / n, Difference: (t.candidate - t.baseline) / n,
	}
	seed := hash(b.opts.Seed, m.name)
	r.Low, r.High = interval(parts, r.Difference, shrink, seed)
	if m.boolean && single && shrink == 1 {
		r.P, r.Test = mcNemar(t.gained, t.lost), "McNemar, exact"
	} else {
		r.P, r.Test = signFlip(parts, r.Difference, shrink, seed)
	}
	r.Detectable = spread(parts, shrink)
	if r.Baseline != 0 {
		relative := round(r.Difference / r.Baseline)
		r.Relative = &relative
	}
	for _, f := range []*float64{&r.Baseline, &r.Candidate, &r.Difference, &r.Low, &r.High, &r.P} {
		*f = tidy(*f)
	}
	return r
}

// conclude says what a test found, once its p value is adjusted. Detectable
// holds the standard error until then.
func (m *Result) conclude(tests int) {
	stderr := m.Detectable
	m.Detectable = tidy(stderr * reach(tests))
	switch {
	case m.Gained == 0 && m.Lost == 0:
		m.Verdict = IsEqual
	case m.Adjusted >= Level:
		m.Verdict = CannotTell
		if m.Difference != 0 && stderr > 0 {
			times := math.Pow(stderr*reach(tests)/math.Abs(m.Difference), 2)
			if more := math.Ceil(float64(m.Pairs) * (times - 1)); more < 1e9 {
				n := int(max(more, 1))
				m.More = &n
			}
		}
	default:
		m.Verdict = verdictOf(m.Better, m.Difference)
	}
}

func verdictOf(better string, difference float64) string {
	switch {
	case better == "" && difference > 0:
		return IsHigher
	case better == "":
		return IsLower
	case (better == "higher") == (difference > 0):
		return IsBetter
	}
	return IsWorse
}

// adjustGroups adjusts the tests of each metric over all groups of one kind.
func adjustGroups(groups []Group) {
	byTest := map[[2]string][]*Result{}
	for i := range groups {
		for j := range groups[i].Metrics {
			m := &groups[i].Metrics[j]
			key := [2]string{groups[i].By, m.Name}
			byTest[key] = append(byTest[key], m)
		}
	}
	for _, results := range byTest {
		var p []float64
		for _, r := range results {
			p = append(p, r.P)
		}
		for i, adjusted := range holm(p) {
			r := results[i]
			// Also no less than within the group: both tables are looked at.
			r.Adjusted = tidy(max(r.Adjusted, adjusted))
			if r.Adjusted >= Level && r.Verdict != IsEqual {
				r.Verdict = CannotTell
			}
		}
	}
}

// decide makes the verdict of the comparisons.
func (b *Builder) decide(r *Report) {
	r.Verdict = Verdict{Quality: CannotTell, Cost: CannotTell, Level: Level}
	for i := range metrics {
		if m, ok := r.Metric(metrics[i].name); ok && metrics[i].quality {
			r.Verdict.Quality, r.Verdict.RestsOn = m.Verdict, m.Name
			r.Better = append(r.Better, b.examples[i][0]...)
			r.Worse = append(r.Worse, b.examples[i][1]...)
			for n, pairs := range b.buckets[i] {
				const width = 2.0 / (histogramBuckets - 1)
				middle := float64(n)*width - 1
				r.Histogram = append(r.Histogram, Bucket{round(middle - width/2), round(middle + width/2), pairs})
			}
			break
		}
	}
	if m, ok := r.Metric(Cost); ok {
		r.Verdict.Cost = m.Verdict
	}
	r.Verdict.Text = sentences(r)
}

var basis = map[string]string{
	Correct: "correctness against references",
	Judge:   "the preference of the judge",
	Score:   "the score stage, which finds failures and judges no taste",
}

func sentences(r *Report) string {
	if r.Replay.Pairs == 0 {
		return "Nothing can be compared: no request has an outcome under both configurations."
	}
	var text strings.Builder
	if m, ok := r.Metric(r.Verdict.RestsOn); ok {
		fmt.Fprintf(&text, "Quality: %s. Over %s pairs it went from %s to %s (difference %s, 95 %% interval %s to %s). This rests on %s.",
			r.Verdict.Quality, thousands(m.Pairs), short(m.Baseline), short(m.Candidate), signed(m.Difference), signed(m.Low), signed(m.High), basis[m.Name])
		if m.Verdict == CannotTell {
			text.WriteString(" " + wouldTell(m))
		}
	} else {
		text.WriteString("Quality: cannot tell. No answer has a score, a reference or a judge's preference.")
	}
	if m, ok := r.Metric(Cost); ok {
		fmt.Fprintf(&text, " Cost: %s, from $%s to $%s a request%s.", m.Verdict, money(m.Baseline), money(m.Candidate), percentOf(m.Relative))
	}
	if m, ok := r.Metric(Failed); ok && (m.Baseline > 0 || m.Candidate > 0) {
		fmt.Fprintf(&text, " Failures: %s, from %s to %s.", m.Verdict, percent(m.Baseline), percent(m.Candidate))
	}
	return text.String()
}

func wouldTell(m Result) string {
	if m.More == nil {
		return fmt.Sprintf("So many pairs tell a difference of %s; a smaller one needs more.", short(m.Detectable))
	}
	return fmt.Sprintf("About %s more pairs would tell, were the difference what it seems; so many tell one of %s.", thousands(*m.More), short(m.Detectable))
}

// round and tidy keep numbers to what they are worth: thousandths, and eight digits.
func round(f float64) float64 { return math.Round(f*1e6) / 1e6 }

func tidy(f float64) float64 {
	if f == 0 || math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	scale := math.Pow(10, 8-math.Ceil(math.Log10(math.Abs(f))))
	if math.IsInf(scale, 0) || scale == 0 {
		return 0
	}
	return math.Round(f*scale) / scale
}
