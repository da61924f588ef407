package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary"
)

// trustSoon is how long before its end trust metadata shows in /readyz: time
// enough for people to renew it.
const trustSoon = 72 * time.Hour

// trustWatch keeps the verifiers that have trust metadata fresh, and tells how
// they fare.
type trustWatch struct {
	notaries map[string]*notary.Verifier
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// watchTrust starts the background refresh of every verifier that has one.
func watchTrust(reg prometheus.Registerer, verifiers map[string]verify.Verifier) (*trustWatch, error) {
	ctx, stop := context.WithCancel(context.Background())
	t := &trustWatch{notaries: map[string]*notary.Verifier{}, stop: stop}
	if err := reg.Register(t); err != nil {
		stop()
		return nil, fmt.Errorf("registering metrics of trust metadata: %w", err)
	}
	for name, v := range verifiers {
		if n, ok := v.(*notary.Verifier); ok {
			t.notaries[name] = n
			// Run returns nil when ctx ends, and no other error.
			t.running.Go(func() { _ = n.Run(ctx) })
		}
	}
	return t, nil
}

// close ends the refreshes and waits for them.
func (t *trustWatch) close() {
	t.stop()
	for _, n := range t.notaries {
		// It only waits.
		_ = n.Close()
	}
	t.running.Wait()
}

// The metrics have the verifier's name as their label, not the repository's:
// repositories are of clients' choice.
var (
	trustExpiry = prometheus.NewDesc("countersign_trust_expiry_timestamp_seconds",
		"When the first trust metadata in use expires, in Unix time.", []string{"verifier"}, nil)
	trustRepositories = prometheus.NewDesc("countersign_trust_repositories",
		"Repositories whose trust metadata is in use, by whether it is fresh, failed to refresh, or is frozen.", []string{"verifier", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (t *trustWatch) Describe(ch chan<- *prometheus.Desc) {
	ch <- trustExpiry
	ch <- trustRepositories
}

// Collect implements prometheus.Collector.
func (t *trustWatch) Collect(ch chan<- prometheus.Metric) {
	for name, n := range t.notaries {
		counts := map[string]int{"fresh": 0, "failed": 0, "frozen": 0}
		var first time.Time
		for _, s := range n.Status() {
			counts[stateOf(s)]++
			if !s.Expires.IsZero() && (first.IsZero() || s.Expires.Before(first)) {
				first = s.Expires
			}
		}
		if !first.IsZero() {
			ch <- prometheus.MustNewConstMetric(trustExpiry, prometheus.GaugeValue, float64(first.Unix()), name)
		}
		for state, count := range counts {
			ch <- prometheus.MustNewConstMetric(trustRepositories, prometheus.GaugeValue, float64(count), name, state)
		}
	}
}

func stateOf(s notary.Status) string {
	switch {
	case s.Frozen:
		return "frozen"
	case s.Err != nil:
		return "failed"
	}
	return "fresh"
}

// detail says what of the trust metadata needs attention, for /readyz. It keeps
// nothing from being served: other repositories are not concerned.
func (t *trustWatch) detail() string {
	var b strings.Builder
	for name, n := range t.notaries {
		for _, s := range n.Status() {
			switch {
			case s.Frozen:
				fmt.Fprintf(&b, "trust metadata of %s (verifier %s) expired %s and is frozen\n", s.GUN, name, s.Expires.Format(time.DateOnly))
			case s.Err != nil && !errors.As(s.Err, new(*verify.Refusal)):
				fmt.Fprintf(&b, "trust metadata of %s (verifier %s) could not be refreshed\n", s.GUN, name)
			case !s.Expires.IsZero() && time.Until(s.Expires) < trustSoon:
				fmt.Fprintf(&b, "trust metadata of %s (verifier %s) expires %s\n", s.GUN, name, s.Expires.Format(time.RFC3339))
			}
		}
	}
	return b.String()
}
