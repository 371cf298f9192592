package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/adpa/processor/kv/budget"
	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
	"github.com/adpa/processor/streams"
)

// frame is what top shows: rates and times between two samples, and the state
// at the later one. Latencies and the hit rate are those since the replicas
// began where nothing happened between the samples.
type frame struct {
	At           time.Time         `json:"at"`
	Seconds      float64           `json:"seconds"` // that rates are means of
	Accepted     float64           `json:"accepted_per_second"`
	Answered     float64           `json:"answered_per_second"` // responses stored, answers and errors
	Calls        float64           `json:"calls_per_second"`    // to providers
	FailedCalls  float64           `json:"failed_calls_per_second"`
	HitRate      *float64          `json:"hit_rate"` // null while nothing was looked up
	Prompt       float64           `json:"prompt_tokens_per_second"`
	Completion   float64           `json:"completion_tokens_per_second"`
	Saved        float64           `json:"saved_tokens_per_second"`
	CostUSD      float64           `json:"cost_usd_per_hour"`
	Denied       float64           `json:"budget_denials_per_second"`
	Redelivered  float64           `json:"redeliveries_per_second"`
	Delayed      uint64            `json:"delayed"` // requests that wait until a time
	DeadLetters  uint64            `json:"dead_letters"`
	Stages       []stageRow        `json:"stages"`
	Streams      []streams.Holding `json:"streams"`
	Models       []healthRow       `json:"models"`
	Budgets      []budget.Status   `json:"budgets"`
	Replicas     []replicaRow      `json:"replicas"`
	WorkedByNone []string          `json:"stages_without_replica"`
}

// stageRow is a stage.
type stageRow struct {
	Stage       string  `json:"stage"`
	Rate        float64 `json:"requests_per_second"`
	Failed      float64 `json:"failures_per_second"` // tries, errors and dead letters
	Interactive int64   `json:"backlog_interactive"`
	Batch       int64   `json:"backlog_batch"`
	InWork      int64   `json:"in_work"`
	Oldest      float64 `json:"oldest_seconds"` // age of what has waited or been worked on longest
	WaitedP50   float64 `json:"waited_p50_ms"`
	WaitedP95   float64 `json:"waited_p95_ms"`
	WorkedP50   float64 `json:"worked_p50_ms"`
	WorkedP95   float64 `json:"worked_p95_ms"`
}

// healthRow is a model: its state over all replicas, and what was learnt of it.
type healthRow struct {
	modelState
	Quality *float64 `json:"quality"`
	P50     float64  `json:"latency_p50_ms"`
	P95     float64  `json:"latency_p95_ms"`
	Success float64  `json:"success_rate"`
	CostUSD float64  `json:"cost_usd"`
}

// replicaRow is a process.
type replicaRow struct {
	Process string    `json:"process"`
	Groups  string    `json:"groups"`
	Rate    float64   `json:"requests_per_second"` // decided by any of its stages
	Memory  float64   `json:"memory"`
	Began   time.Time `json:"began"`
}

// newFrame compares two samples.
func newFrame(was, is *sample) *frame {
	f := &frame{At: is.at.UTC(), Seconds: is.at.Sub(was.at).Seconds(), Budgets: is.budgets, Streams: is.holdings}
	d := difference(was, is)
	per := func(n float64) float64 { return max(n, 0) / max(f.Seconds, 0.001) }
	f.Prompt, f.Completion, f.Saved = per(d.Tokens["prompt"]), per(d.Tokens["completion"]), per(d.Tokens["saved"])
	f.CostUSD, f.Denied, f.Redelivered = per(d.CostUSD)*3600, per(d.Denied), per(d.Redelivered)
	for code, n := range d.Calls {
		f.Calls += per(n)
		if code != "200" {
			f.FailedCalls += per(n)
		}
	}
	life := difference(&sample{}, is)
	if f.HitRate = hitRate(d.Cache); f.HitRate == nil {
		f.HitRate = hitRate(life.Cache)
	}
	f.count(was, is)
	for _, stage := range stages.Names {
		f.Stages = append(f.Stages, newStageRow(stage, is, &d, &life, per))
		if len(is.replicas) > 0 && !slices.ContainsFunc(is.replicas, func(r replicaFigures) bool { return strings.Contains(r.Groups, stage) }) {
			f.WorkedByNone = append(f.WorkedByNone, stage)
		}
	}
	f.Models = healthRows(is)
	for _, r := range is.replicas {
		before := was.process(r.Process)
		f.Replicas = append(f.Replicas, replicaRow{r.Process, r.Groups, per(total(r.Decided) - total(before.Decided)), r.Memory, r.Began})
	}
	return f
}

// count reads what the streams tell: sequences grow by one a message.
func (f *frame) count(was, is *sample) {
	before := map[string]uint64{}
	for _, h := range was.holdings {
		before[h.Stream] = h.Last
	}
	for _, h := range is.holdings {
		rate := 0.0
		if last, known := before[h.Stream]; known && h.Last > last {
			rate = float64(h.Last-last) / max(f.Seconds, 0.001)
		}
		switch {
		case strings.HasSuffix(h.Stream, "_REQUESTS"):
			f.Accepted = rate
		case strings.HasSuffix(h.Stream, "_RESPONSES"):
			f.Answered = rate
		case strings.HasSuffix(h.Stream, "_LATER"):
			f.Delayed = h.Messages
		case strings.HasSuffix(h.Stream, "_DEAD"):
			f.DeadLetters = h.Messages
		}
	}
}

func newStageRow(stage string, is *sample, d, life *replicaFigures, per func(float64) float64) stageRow {
	row := stageRow{Stage: stage}
	for outcome, n := range d.Decided[stage] {
		row.Rate += per(n)
		switch outcome {
		case stages.ActionFail.String(), stages.ActionRetry.String(), stages.ActionReject.String():
			row.Failed += per(n)
		}
	}
	for _, l := range is.lags {
		if l.Stage != stage {
			continue
		}
		row.InWork += l.InWork
		if l.Class == schemas.Batch {
			row.Batch += l.Waiting
		} else {
			row.Interactive += l.Waiting
		}
	}
	stream := "_" + strings.ToUpper(stage)
	if stage == stages.Compress {
		stream = "_REQUESTS"
	}
	for _, h := range is.holdings {
		if strings.HasSuffix(h.Stream, stream) && !h.Oldest.IsZero() && row.Interactive+row.Batch+row.InWork > 0 { // else it waits for the archive alone
			row.Oldest = max(is.at.Sub(h.Oldest).Seconds(), 0)
		}
	}
	waited, worked := d.Waited[stage], d.Worked[stage]
	if worked.Count <= 0 {
		waited, worked = life.Waited[stage], life.Worked[stage]
	}
	row.WaitedP50, row.WaitedP95 = 1000*waited.quantile(0.5), 1000*waited.quantile(0.95)
	row.WorkedP50, row.WorkedP95 = 1000*worked.quantile(0.5), 1000*worked.quantile(0.95)
	return row
}

// difference adds up what the replicas of the later sample have done since the
// earlier one. One that is new counts from its beginning.
func difference(was, is *sample) replicaFigures {
	d := replicaFigures{Decided: map[string]map[string]float64{}, Worked: map[string]spread{}, Waited: map[string]spread{}, Cache: map[string]float64{}, Tokens: map[string]float64{}, Calls: map[string]float64{}}
	for i := range is.replicas {
		d.add(&is.replicas[i], 1)
		before := was.process(is.replicas[i].Process)
		d.add(&before, -1)
	}
	return d
}

func (f *replicaFigures) add(o *replicaFigures, times float64) {
	for stage, outcomes := range o.Decided {
		if f.Decided[stage] == nil {
			f.Decided[stage] = map[string]float64{}
		}
		addAll(f.Decided[stage], outcomes, times)
	}
	for stage, s := range o.Worked {
		f.Worked[stage] = f.Worked[stage].plus(s, times)
	}
	for stage, s := range o.Waited {
		f.Waited[stage] = f.Waited[stage].plus(s, times)
	}
	addAll(f.Cache, o.Cache, times)
	addAll(f.Tokens, o.Tokens, times)
	addAll(f.Calls, o.Calls, times)
	f.CostUSD += times * o.CostUSD
	f.Denied += times * o.Denied
	f.Redelivered += times * o.Redelivered
}

func addAll(to, from map[string]float64, times float64) {
	for key, n := range from {
		to[key] += times * n
	}
}

func (s *sample) process(name string) replicaFigures {
	for _, r := range s.replicas {
		if r.Process == name {
			return r
		}
	}
	return replicaFigures{}
}

func total(decided map[string]map[string]float64) (sum float64) {
	for _, outcomes := range decided {
		for _, n := range outcomes {
			sum += n
		}
	}
	return sum
}

// hitRate is the share of requests that may be answered from the cache and are.
func hitRate(cache map[string]float64) *float64 {
	looked, hits := 0.0, 0.0
	for result, n := range cache {
		switch result {
		case "off":
			continue
		case "miss":
		default: // hit, normalized, shared
			hits += n
		}
		looked += n
	}
	if looked <= 0 {
		return nil
	}
	rate := hits / looked
	return &rate
}

// healthRows joins the state of models in all replicas with what was learnt.
func healthRows(is *sample) []healthRow {
	rows := []healthRow{}
	for _, r := range is.replicas {
		for _, m := range r.Models {
			at := slices.IndexFunc(rows, func(h healthRow) bool { return h.Provider == m.Provider && h.Model == m.Model })
			if at < 0 {
				rows = append(rows, healthRow{modelState: m})
			} else {
				rows[at].add(m)
			}
		}
	}
	for _, l := range is.learnt {
		named := false
		for i := range rows {
			if rows[i].Model == l.Model {
				rows[i].learnt(l)
				named = true
			}
		}
		if !named {
			row := healthRow{modelState: modelState{Model: l.Model}}
			row.learnt(l)
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(x, y healthRow) int {
		return cmp.Or(cmp.Compare(y.InFlight, x.InFlight), cmp.Compare(x.Model, y.Model), cmp.Compare(x.Provider, y.Provider))
	})
	return rows
}

func (h *healthRow) learnt(l modelRow) {
	h.Quality, h.P50, h.P95, h.Success, h.CostUSD = l.Quality, l.P50, l.P95, l.Success, l.CostUSD
}
