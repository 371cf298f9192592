package streams

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adpa/processor/schemas"
	"github.com/adpa/processor/stages"
)

// Metrics are the figures of the runners of one process. They hold no tenant,
// id or prompt. It is safe for concurrent use.
type Metrics struct {
	requests     *prometheus.CounterVec
	duration     *prometheus.HistogramVec
	queueAge     *prometheus.HistogramVec
	backlog      *prometheus.GaugeVec
	redeliveries *prometheus.CounterVec
	deadLetters  *prometheus.CounterVec
	publishes    *prometheus.CounterVec
	batchSize    prometheus.Histogram
	rescued      prometheus.Counter

	byOutcome map[string]map[stages.Action]prometheus.Counter
	byStage   map[string]prometheus.Observer
	byClass   map[string]map[schemas.Class]prometheus.Observer
}

// NewMetrics makes the figures; register them with Register.
func NewMetrics() *Metrics {
	seconds := prometheus.ExponentialBuckets(0.0001, 4, 12) // 0.1 ms to 7 min
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_stage_requests_total", Help: "Requests that a stage decided, by outcome.",
		}, []string{"stage", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "processor_stage_duration_seconds", Help: "How long a stage worked on a request.", Buckets: seconds,
		}, []string{"stage"}),
		queueAge: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "processor_stage_queue_age_seconds", Help: "How long requests had waited when a stage took them.", Buckets: seconds,
		}, []string{"stage", "class"}),
		backlog: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "processor_stage_backlog", Help: "Messages that wait for a stage and that nobody has taken.",
		}, []string{"stage", "class"}),
		redeliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_redeliveries_total", Help: "Messages that came again.",
		}, []string{"stage"}),
		deadLetters: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_dead_letters_total", Help: "Requests that were given up.",
		}, []string{"stage", "reason"}),
		publishes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "processor_publish_failures_total", Help: "Publishes that the server did not take and that are tried again.",
		}, []string{"stage"}),
		rescued: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "processor_requests_rescued_total", Help: "Requests without an answer after trouble with a server that were worked again from the archive.",
		}),
		batchSize: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "processor_batch_size", Help: "Requests that go on together: in a message to generate, or in a call for embeddings.", Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		byOutcome: map[string]map[stages.Action]prometheus.Counter{},
		byStage:   map[string]prometheus.Observer{},
		byClass:   map[string]map[schemas.Class]prometheus.Observer{},
	}
	m.prepare()
	return m
}

// prepare looks up every combination once, so that counting costs no look-up
// and every series is there from the start.
func (m *Metrics) prepare() {
	for _, stage := range stages.Names {
		m.byOutcome[stage] = map[stages.Action]prometheus.Counter{}
		for a := stages.ActionContinue; a <= stages.ActionDone; a++ {
			m.byOutcome[stage][a] = m.requests.WithLabelValues(stage, a.String())
		}
		m.byStage[stage] = m.duration.WithLabelValues(stage)
		m.byClass[stage] = map[schemas.Class]prometheus.Observer{}
		for _, class := range schemas.Classes {
			m.byClass[stage][class] = m.queueAge.WithLabelValues(stage, string(class))
		}
		m.redeliveries.WithLabelValues(stage)
	}
}

// Register adds the figures to a registry.
func (m *Metrics) Register(to prometheus.Registerer) {
	to.MustRegister(m.requests, m.duration, m.queueAge, m.backlog, m.redeliveries, m.deadLetters, m.publishes, m.batchSize, m.rescued)
}

func (m *Metrics) decided(stage string, class schemas.Class, action stages.Action, queued, ran time.Duration) {
	m.byOutcome[stage][action].Inc()
	m.byStage[stage].Observe(ran.Seconds())
	if observer := m.byClass[stage][class]; observer != nil {
		observer.Observe(queued.Seconds())
	}
}

func (m *Metrics) delivered(stage string, times int) {
	if times > 1 {
		m.redeliveries.WithLabelValues(stage).Inc()
	}
}

// Together notes how many requests go on together: in a message to generate, or
// in a call for embeddings.
func (m *Metrics) Together(requests int) { m.batchSize.Observe(float64(requests)) }

func (m *Metrics) deadLetter(stage string, reason schemas.Code) {
	m.deadLetters.WithLabelValues(stage, string(reason)).Inc()
}

func (m *Metrics) rescuedAgain(requests int) { m.rescued.Add(float64(requests)) }

func (m *Metrics) publishFailed(stage string) {
	m.publishes.WithLabelValues(stage).Inc()
}
