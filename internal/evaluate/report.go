package evaluate

// Report is what a replay found. Every number but the milliseconds of work is
// the same for every run over the same requests with the same seed.
type Report struct {
	Version   int       `json:"version" jsonschema:"of this format: 1"`
	Replay    Replay    `json:"replay" jsonschema:"what was compared"`
	Verdict   Verdict   `json:"verdict" jsonschema:"what came of it"`
	Metrics   []Result  `json:"metrics" jsonschema:"paired comparison of each metric over all pairs"`
	Groups    []Group   `json:"groups" jsonschema:"the same by tenant, model, route and length of the prompt"`
	Stages    []Stage   `json:"stages" jsonschema:"milliseconds of work by stage"`
	Failures  []Failure `json:"failures" jsonschema:"errors by code"`
	Feedback  *Feedback `json:"feedback,omitzero" jsonschema:"what became of the answers that people rated"`
	Spending  Spending  `json:"spending" jsonschema:"what the replay itself cost"`
	Better    []Example `json:"better" jsonschema:"the requests that got better most"`
	Worse     []Example `json:"worse" jsonschema:"the requests that got worse most"`
	Histogram []Bucket  `json:"histogram" jsonschema:"differences of the metric that the verdict on quality rests on"`
}

// Replay says what was compared.
type Replay struct {
	Candidate string `json:"candidate" jsonschema:"the candidate's configuration, by its file"`
	Baseline  string `json:"baseline" jsonschema:"recorded, or the baseline's configuration by its file"`
	From      string `json:"from,omitzero" jsonschema:"when the first request was published, RFC 3339"`
	To        string `json:"to,omitzero" jsonschema:"when the last request was published"`
	Filter    string `json:"filter,omitzero" jsonschema:"which requests were wanted"`
	Seed      uint64 `json:"seed"`
	Requests  int    `json:"requests" jsonschema:"that were replayed"`
	Pairs     int    `json:"pairs" jsonschema:"of these, those with an outcome under both configurations"`
	Unpaired  int    `json:"unpaired" jsonschema:"without a recorded response to compare with"`
	Distinct  int    `json:"distinct" jsonschema:"distinct requests among the pairs; equal ones are no independent evidence"`
	Speed     string `json:"speed" jsonschema:"max, original, or a factor such as 10x"`
	Cassette  bool   `json:"cassette" jsonschema:"whether recorded answers were used where the same would be asked"`
	Digest    string `json:"digest,omitzero" jsonschema:"of the requests and both configurations; equal digests are the same replay"`
}

// Spending is what the replay asked of providers, and what it was spared.
type Spending struct {
	Forecast  *Amount `json:"forecast,omitzero" jsonschema:"what was told beforehand"`
	Paid      Amount  `json:"paid" jsonschema:"what was asked and billed"`
	Cassette  int     `json:"cassette" jsonschema:"calls that recorded answers stood for"`
	Simulated int     `json:"simulated" jsonschema:"calls that a simulated provider answered, which cost nothing"`
	Judge     int     `json:"judge" jsonschema:"of the paid and simulated calls, those of the judge"`
}

// Amount is a number of calls and what they are billed.
type Amount struct {
	Calls            int     `json:"calls"`
	PromptTokens     int     `json:"prompt_tokens"`
	CompletionTokens int     `json:"completion_tokens"`
	CostUSD          float64 `json:"cost_usd"`
}

// Add sums up.
func (a Amount) Add(b Amount) Amount {
	return Amount{a.Calls + b.Calls, a.PromptTokens + b.PromptTokens, a.CompletionTokens + b.CompletionTokens, a.CostUSD + b.CostUSD}
}

// What a test found.
const (
	IsBetter   = "better"
	IsWorse    = "worse"
	CannotTell = "cannot tell"
	IsHigher   = "higher" // of a metric that is neither better nor worse high
	IsLower    = "lower"
	IsEqual    = "equal" // no pair differs
)

// Verdict is the outcome in a few words.
type Verdict struct {
	Quality string  `json:"quality" jsonschema:"better, worse, equal or cannot tell"`
	RestsOn string  `json:"rests_on" jsonschema:"the metric that the verdict on quality rests on: correct (references), judge, or score (of the score stage, which finds failures and no taste)"`
	Cost    string  `json:"cost" jsonschema:"better, worse, equal or cannot tell"`
	Text    string  `json:"text" jsonschema:"the verdict in sentences"`
	Level   float64 `json:"level" jsonschema:"the probability of any wrong verdict among the metrics is at most this (Holm)"`
}

// Result compares one metric.
type Result struct {
	Name       string   `json:"name"`
	Unit       string   `json:"unit"`
	Better     string   `json:"better,omitzero" jsonschema:"higher or lower; empty where neither is better"`
	Pairs      int      `json:"pairs"`
	Baseline   float64  `json:"baseline" jsonschema:"mean"`
	Candidate  float64  `json:"candidate" jsonschema:"mean"`
	Difference float64  `json:"difference" jsonschema:"mean of the paired differences"`
	Relative   *float64 `json:"relative,omitzero" jsonschema:"the difference as a share of the baseline's mean"`
	Low        float64  `json:"low" jsonschema:"of the 95 % bootstrap interval of the difference"`
	High       float64  `json:"high"`
	Gained     int      `json:"gained" jsonschema:"pairs in which the candidate's number is higher"`
	Lost       int      `json:"lost" jsonschema:"pairs in which it is lower"`
	Test       string   `json:"test"`
	P          float64  `json:"p"`
	Adjusted   float64  `json:"p_adjusted" jsonschema:"Holm, over the tests of this table"`
	Verdict    string   `json:"verdict"`
	More       *int     `json:"more,omitzero" jsonschema:"how many more pairs would tell, were the difference what it seems, with a probability of 0.8"`
	Detectable float64  `json:"detectable" jsonschema:"the smallest difference that so many pairs tell with a probability of 0.8"`
}

// Group compares the pairs that have something in common.
type Group struct {
	By      string   `json:"by" jsonschema:"tenant, model, route or length"`
	Name    string   `json:"name"`
	Pairs   int      `json:"pairs"`
	Metrics []Result `json:"metrics"`
}

// Stage is how long a stage worked on requests.
type Stage struct {
	Stage     string `json:"stage"`
	Baseline  *Times `json:"baseline,omitzero"`
	Candidate *Times `json:"candidate,omitzero" jsonschema:"left out where a replay does not measure what a deployment would"`
}

// Times are percentiles in milliseconds.
type Times struct {
	Requests int     `json:"requests"`
	P50      float64 `json:"p50"`
	P95      float64 `json:"p95"`
	P99      float64 `json:"p99"`
}

// Failure counts the errors of one code.
type Failure struct {
	Code      string `json:"code"`
	Baseline  int    `json:"baseline"`
	Candidate int    `json:"candidate"`
}

// Feedback says what became of rated answers. A rating is of the answer that
// was given, so it says something of the candidate only where that is the same.
type Feedback struct {
	Rated       int `json:"rated"`
	GoodKept    int `json:"good_kept" jsonschema:"rated 0.5 or better, and the candidate answers the same"`
	GoodChanged int `json:"good_changed"`
	BadKept     int `json:"bad_kept"`
	BadChanged  int `json:"bad_changed"`
}

// Example is one request, side by side.
type Example struct {
	ID         string  `json:"id"`
	Tenant     string  `json:"tenant"`
	Metric     string  `json:"metric"`
	Difference float64 `json:"difference"`
	Prompt     string  `json:"prompt"`
	Baseline   Side    `json:"baseline"`
	Candidate  Side    `json:"candidate"`
}

// Side is one of the two.
type Side struct {
	Model   string   `json:"model,omitzero"`
	Text    string   `json:"text,omitzero"`
	Error   string   `json:"error,omitzero"`
	Score   *float64 `json:"score,omitzero"`
	Correct *bool    `json:"correct,omitzero"`
	CostUSD float64  `json:"cost_usd"`
}

// Bucket counts the pairs whose difference is within From and To.
type Bucket struct {
	From  float64 `json:"from"`
	To    float64 `json:"to"`
	Pairs int     `json:"pairs"`
}

// Metric finds the comparison of a metric over all pairs.
func (r *Report) Metric(name string) (Result, bool) {
	for _, m := range r.Metrics {
		if m.Name == name {
			return m, true
		}
	}
	return Result{}, false
}

// MoreCount is More, 0 where that is not known.
func (m Result) MoreCount() int {
	if m.More == nil {
		return 0
	}
	return *m.More
}

// CorrectIs is Correct, false where that is not known.
func (s Side) CorrectIs() bool { return s.Correct != nil && *s.Correct }
