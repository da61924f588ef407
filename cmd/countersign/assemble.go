package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/proxy/upstream"
	"github.com/countersign/countersign/verify"
)

// maxDriverThreads bounds concurrent file operations of the storage driver: it
// is distribution's own default.
const maxDriverThreads = 100

// assembly is a proxy with everything it stands on.
type assembly struct {
	proxy    *proxy.Proxy
	log      *zap.Logger
	registry *prometheus.Registry
	ready    atomic.Bool

	store     *cache.Store
	state     *cache.State
	gate      *policy.Gate
	records   *recordLog
	verifiers map[string]verify.Verifier
	trust     *trustWatch
}

// assemble builds the proxy that a configuration describes; messages and
// records go to log. It contacts nobody.
func assemble(c *Config, log io.Writer) (a *assembly, err error) {
	a = &assembly{registry: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.records, err = openRecordLog(log, c.Decisions.Log, c.Decisions.Keep); err != nil {
		return nil, err
	}
	a.log = a.records.log
	if err := a.openStorage(c); err != nil {
		return nil, err
	}
	metrics, err := a.registerMetrics()
	if err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	ups, err := proxy.NewUpstreams(upstreamConfigs(c, metrics))
	if err != nil {
		return nil, err
	}
	a.proxy, err = proxy.New(proxy.Config{
		Upstreams: ups, Store: a.store, State: a.state, Policy: c.Policy,
		TagTTL: c.Cache.Tags, MaxStale: c.Cache.MaxStale, Records: a.records.requests, Metrics: metrics,
		Gate: func(src verify.Source) (*policy.Gate, error) {
			var err error
			if a.verifiers, err = c.verifiers(src, a.state); err != nil {
				return nil, err
			}
			if a.trust, err = watchTrust(a.registry, a.verifiers); err != nil {
				return nil, err
			}
			a.gate, err = policy.NewGate(policy.GateConfig{Verifiers: a.verifiers, Decisions: c.Cache.Decisions,
				Refusals: c.Cache.Refusals, Observe: metrics.Decided})
			return a.gate, err
		},
	})
	return a, err
}

// openStorage opens the state, which is trusted, and the content store, which
// is not.
func (a *assembly) openStorage(c *Config) error {
	var err error
	if a.state, err = cache.OpenState(c.State); err != nil {
		return err
	}
	store := cache.StoreConfig{State: a.state, Spool: filepath.Join(c.State, "spool"), Limit: c.Storage.Limit,
		Failed: func(d digest.Digest, err error) {
			a.log.Error("keeping content", zap.String("digest", string(d)), zap.Error(err))
		}}
	if store.Driver, err = newDriver(c.Storage); err != nil {
		return err
	}
	if c.Storage.Driver == "filesystem" {
		// The spool lies in the same file system, so that a commit is a rename.
		store.Root, store.Spool = c.Storage.RootDirectory, ""
	}
	a.store, err = cache.OpenStore(context.Background(), store)
	return err
}

func newDriver(s Storage) (storagedriver.StorageDriver, error) {
	switch s.Driver {
	case "filesystem":
		return filesystem.New(filesystem.DriverParameters{RootDirectory: s.RootDirectory, MaxThreads: maxDriverThreads}), nil
	case "inmemory":
		return inmemory.New(), nil
	}
	return nil, fmt.Errorf("opening the content store: this build has no storage driver %q: use filesystem", s.Driver)
}

func (a *assembly) registerMetrics() (*proxy.Metrics, error) {
	metrics, err := proxy.NewMetrics(a.registry)
	return metrics, errors.Join(err, proxy.RegisterStore(a.registry, a.store),
		a.registry.Register(collectors.NewGoCollector()),
		a.registry.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
}

func upstreamConfigs(c *Config, metrics *proxy.Metrics) []proxy.UpstreamConfig {
	var ups []proxy.UpstreamConfig
	for _, u := range c.Upstreams {
		config := u.Config
		config.UserAgent = "countersign/" + version()
		config.Observe = func(e upstream.Event) { metrics.Upstream(u.Name, e) }
		ups = append(ups, proxy.UpstreamConfig{Default: u.Default, Config: config})
	}
	return ups
}

// checkReady reports what keeps the proxy from serving pulls. An upstream that
// is down does not: admitted content is served without it.
func (a *assembly) checkReady() error {
	if !a.ready.Load() {
		return errors.New("starting or stopping")
	}
	return a.state.Table("health").Put(map[string][]byte{"ready": nil})
}

// close lets go of everything in the order opposite to opening it.
func (a *assembly) close() {
	if a.trust != nil {
		a.trust.close()
	}
	if a.gate != nil {
		a.gate.Close()
	}
	if a.store != nil {
		if err := a.store.Close(); err != nil {
			a.log.Error("closing the content store", zap.Error(err))
		}
	}
	if a.state != nil {
		if err := a.state.Close(); err != nil {
			a.log.Error("closing the state", zap.Error(err))
		}
	}
	if a.records != nil {
		a.records.close()
	}
}
