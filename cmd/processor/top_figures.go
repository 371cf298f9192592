package main

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/adpa/processor/stages/generate/limit"
)

const (
	// figuresAge is how long figures are answered again before they are made anew,
	// so that many who look cost no more than one.
	figuresAge = 100 * time.Millisecond
	// mostModels bounds the models in the figures of a replica.
	mostModels = 64
)

// replicaFigures are those of one process since its start, as it answers them
// on the subject <prefix>.top. They hold no tenant, id or prompt.
type replicaFigures struct {
	Process     string                        `json:"process"` // host and process id
	Groups      string                        `json:"groups"`  // of stages, that it runs
	Began       time.Time                     `json:"began"`
	Memory      float64                       `json:"memory"`  // resident, bytes
	Decided     map[string]map[string]float64 `json:"decided"` // requests, by stage and outcome
	Worked      map[string]spread             `json:"worked"`  // seconds, by stage
	Waited      map[string]spread             `json:"waited"`  // seconds, by stage
	Cache       map[string]float64            `json:"cache"`   // requests, by result
	Tokens      map[string]float64            `json:"tokens"`  // by kind
	CostUSD     float64                       `json:"cost_usd"`
	Calls       map[string]float64            `json:"calls"` // to providers, by status
	Denied      float64                       `json:"denied"`
	Redelivered float64                       `json:"redelivered"`
	Dead        float64                       `json:"dead"`
	Models      []modelState                  `json:"models"`
}

// spread is a histogram: how many values were at most each bound, and all.
type spread struct {
	Bounds []float64 `json:"bounds"`
	Counts []float64 `json:"counts"`
	Count  float64   `json:"count"`
}

// modelState is how a provider's model does in a process.
type modelState struct {
	Provider string `json:"provider"`
	Model    string `json:"model"`
	Limit    int    `json:"limit"` // of calls in flight
	InFlight int    `json:"in_flight"`
	Waiting  int    `json:"waiting"`
	Breaker  string `json:"breaker"` // closed, half_open, open
}

// figuresServer answers with the figures of this process.
type figuresServer struct {
	registry *prometheus.Registry
	limits   *limit.Limiter
	named    func(model string) bool // by the configuration; all others are one
	fixed    replicaFigures          // what does not change

	mu   sync.Mutex
	at   time.Time
	text []byte
}

// serveFigures answers on <prefix>.top until stop.
func (d *deps) serveFigures(groups string, registry *prometheus.Registry) (stop func(), err error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	s := &figuresServer{registry: registry, limits: d.limits, named: d.models.named}
	s.fixed = replicaFigures{Process: fmt.Sprintf("%s-%d", host, os.Getpid()), Groups: groups, Began: time.Now().UTC()}
	sub, err := d.nc.Subscribe(d.layout.Names.Top(), func(m *nats.Msg) {
		if m.Reply == "" {
			return
		}
		if text, err := s.answer(); err == nil {
			_ = m.Respond(text) // who asks asks again
		}
	})
	if err != nil {
		return nil, fmt.Errorf("serving figures: %w", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

func (s *figuresServer) answer() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at) < figuresAge {
		return s.text, nil
	}
	figures, err := s.figures()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(&figures)
	if err != nil {
		return nil, fmt.Errorf("encoding figures: %w", err)
	}
	s.text, s.at = text, time.Now()
	return text, nil
}

// figures reads the registry, which holds what /metrics shows.
func (s *figuresServer) figures() (replicaFigures, error) {
	f := s.fixed
	f.Decided, f.Worked, f.Waited = map[string]map[string]float64{}, map[string]spread{}, map[string]spread{}
	f.Cache, f.Tokens, f.Calls = map[string]float64{}, map[string]float64{}, map[string]float64{}
	families, err := s.registry.Gather()
	if err != nil {
		return f, fmt.Errorf("gathering figures: %w", err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			label := map[string]string{}
			for _, pair := range m.GetLabel() {
				label[pair.GetName()] = pair.GetValue()
			}
			count := m.GetCounter().GetValue()
			var values spread
			if h := m.GetHistogram(); h != nil {
				values.Count = float64(h.GetSampleCount())
				for _, b := range h.GetBucket() {
					values.Bounds, values.Counts = append(values.Bounds, b.GetUpperBound()), append(values.Counts, float64(b.GetCumulativeCount()))
				}
			}
			f.take(family.GetName(), label, count+m.GetGauge().GetValue(), values)
		}
	}
	f.Models = s.models()
	return f, nil
}

// take adds one series to the figures that it belongs to.
func (f *replicaFigures) take(name string, label map[string]string, value float64, values spread) {
	switch name {
	case "processor_stage_requests_total":
		if f.Decided[label["stage"]] == nil {
			f.Decided[label["stage"]] = map[string]float64{}
		}
		f.Decided[label["stage"]][label["outcome"]] += value
	case "processor_stage_duration_seconds":
		f.Worked[label["stage"]] = f.Worked[label["stage"]].plus(values, 1)
	case "processor_stage_queue_age_seconds":
		f.Waited[label["stage"]] = f.Waited[label["stage"]].plus(values, 1)
	case "processor_cache_requests_total":
		f.Cache[label["result"]] += value
	case "processor_tokens_total":
		f.Tokens[label["kind"]] += value
	case "processor_cost_usd_total":
		f.CostUSD += value
	case "processor_provider_requests_total":
		f.Calls[label["code"]] += value
	case "processor_budget_denials_total":
		f.Denied += value
	case "processor_redeliveries_total":
		f.Redelivered += value
	case "processor_dead_letters_total":
		f.Dead += value
	case "process_resident_memory_bytes":
		f.Memory = value
	}
}

// models gives the state of the configured models, and of all others as one:
// applications may name any.
func (s *figuresServer) models() []modelState {
	var list []modelState
	for _, f := range s.limits.Figures() {
		m := modelState{f.Provider, f.Model, f.Limit, f.Running, f.Waiting, f.Breaker.String()}
		if !s.named(m.Model) {
			m.Model = otherModels
		}
		at := slices.IndexFunc(list, func(o modelState) bool { return o.Provider == m.Provider && o.Model == m.Model })
		switch {
		case at >= 0:
			list[at].add(m)
		case len(list) < mostModels:
			list = append(list, m)
		}
	}
	return list
}

// breakers are the states of circuit breakers, the worst last.
var breakers = []string{limit.Closed.String(), limit.HalfOpen.String(), limit.Open.String()}

// add makes the state of several one: sums, and the worst breaker.
func (m *modelState) add(o modelState) {
	m.Limit, m.InFlight, m.Waiting = m.Limit+o.Limit, m.InFlight+o.InFlight, m.Waiting+o.Waiting
	if slices.Index(breakers, o.Breaker) > slices.Index(breakers, m.Breaker) {
		m.Breaker = o.Breaker
	}
}

// plus adds another spread a number of times; -1 takes it away. Spreads of
// different bounds, as of different versions, are not added.
func (s spread) plus(o spread, times float64) spread {
	if len(s.Bounds) == 0 {
		s = spread{Bounds: o.Bounds, Counts: make([]float64, len(o.Counts))}
	}
	if !slices.Equal(s.Bounds, o.Bounds) || len(s.Counts) != len(o.Counts) {
		return s
	}
	sum := spread{s.Bounds, slices.Clone(s.Counts), s.Count + times*o.Count}
	for i := range sum.Counts {
		sum.Counts[i] += times * o.Counts[i]
	}
	return sum
}

// quantile gives the value that a share of all values is at most, estimated
// within its bucket, which are narrow at the bottom; 0 where there are none.
func (s spread) quantile(share float64) float64 {
	want, below, from := share*s.Count, 0.0, 0.0
	for i, bound := range s.Bounds {
		if s.Counts[i] >= want && s.Counts[i] > below {
			return from + (bound-from)*(want-below)/(s.Counts[i]-below)
		}
		below, from = s.Counts[i], bound
	}
	if s.Count <= 0 {
		return 0
	}
	return from // above the last bound
}
