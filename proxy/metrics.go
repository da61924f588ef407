package proxy

import (
	"context"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/proxy/upstream"
)

// Metrics are named and labelled by Prometheus' conventions. Every label has
// values of a fixed set or from the configuration: no client and no upstream
// can multiply them. The nil *Metrics counts nothing.
type Metrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	sent      *prometheus.CounterVec
	decisions *prometheus.CounterVec
	verifying *prometheus.HistogramVec
	upstream  *prometheus.CounterVec
	received  *prometheus.CounterVec
	remaining *prometheus.GaugeVec
	stale     prometheus.Counter
	panics    prometheus.Counter
}

// NewMetrics registers the proxy's metrics.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		requests: counter("countersign_requests_total", "Requests by kind, outcome and, if refused, reason word.", "kind", "outcome", "reason"),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "countersign_request_duration_seconds",
			Help: "Time to answer a request.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10)}, []string{"kind"}),
		sent:      counter("countersign_sent_bytes_total", "Bytes of bodies sent to clients.", "kind"),
		decisions: counter("countersign_decisions_total", "Decisions by outcome, reason word and whether they were remembered.", "outcome", "reason", "remembered"),
		verifying: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "countersign_verification_duration_seconds",
			Help: "Time that verifiers took, signatures fetched included.", Buckets: prometheus.ExponentialBuckets(0.001, 4, 9)}, []string{"outcome"}),
		upstream: counter("countersign_upstream_requests_total", "Requests sent to upstreams by kind and status; status 0 is no answer.", "upstream", "kind", "status"),
		received: counter("countersign_upstream_bytes_total", "Bytes of bodies received from upstreams.", "upstream", "kind"),
		remaining: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "countersign_upstream_ratelimit_remaining",
			Help: "Pulls left as the upstream last said."}, []string{"upstream"}),
		stale: prometheus.NewCounter(prometheus.CounterOpts{Name: "countersign_stale_tags_total",
			Help: "Tags answered with the last admitted digest because the upstream failed."}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "countersign_panics_total", Help: "Requests that ended in a panic; each was answered 503."}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.durations, m.sent, m.decisions, m.verifying, m.upstream, m.received, m.remaining, m.stale, m.panics} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// RegisterStore adds the store's size, read when it is asked for.
func RegisterStore(reg prometheus.Registerer, store *cache.Store) error {
	gauge := func(name, help string, value func() float64) error {
		return reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	if err := gauge("countersign_store_bytes", "Bytes of content kept.", func() float64 {
		bytes, _ := store.Size(context.Background())
		return float64(bytes)
	}); err != nil {
		return err
	}
	return gauge("countersign_store_blobs", "Blobs and manifests kept.", func() float64 {
		_, blobs := store.Size(context.Background())
		return float64(blobs)
	})
}

func (m *Metrics) request(ev *event) {
	if m == nil {
		return
	}
	kind := ev.Kind.String()
	m.requests.WithLabelValues(kind, ev.Outcome, string(ev.Reason)).Inc()
	m.durations.WithLabelValues(kind).Observe(time.Since(ev.Start).Seconds())
	m.sent.WithLabelValues(kind).Add(float64(ev.Bytes))
	if ev.Stale {
		m.stale.Inc()
	}
	if d := ev.decision; d.Rule != "" {
		m.decisions.WithLabelValues(d.Outcome.String(), string(d.Reason), strconv.FormatBool(d.Remembered)).Inc()
	}
}

// Decided observes what verifiers took; it is policy.GateConfig.Observe.
func (m *Metrics) Decided(d policy.Decision, took time.Duration) {
	if m != nil {
		m.verifying.WithLabelValues(d.Outcome.String()).Observe(took.Seconds())
	}
}

// Upstream observes a request to an upstream; it is upstream.Config.Observe
// for the configured name, which may be a wildcard.
func (m *Metrics) Upstream(name string, e upstream.Event) {
	if m == nil {
		return
	}
	m.upstream.WithLabelValues(name, e.Kind, strconv.Itoa(e.Status)).Inc()
	m.received.WithLabelValues(name, e.Kind).Add(float64(e.Bytes))
	if e.RateLimitRemaining >= 0 {
		m.remaining.WithLabelValues(name).Set(float64(e.RateLimitRemaining))
	}
}

func (m *Metrics) panicked() {
	if m != nil {
		m.panics.Inc()
	}
}
