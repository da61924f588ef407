// Package proxy is the registry API in front of upstream registries. Read
// ServeHTTP and manifest first: they are the flow of one pull.
//
//	route     a request is parsed once, strictly (route.go, pure)
//	policy    the first rule that matches applies; none: refused, nobody is asked
//	content   tag to digest, bytes from the store or the upstream, hashed before anyone sees one (content.go, tags.go)
//	policy    a remembered decision, else all verifiers of the rule at once (package policy)
//	proxy     what the admitted manifest refers to is remembered (admitted.go), then headers, then bytes
//
// Nothing is served that was not admitted: manifests by the gate or as children
// of an admitted index, blobs because an admitted manifest of the same
// repository refers to them, signature material because its subject is admitted
// (material.go). Errors become answers in one place (error.go).
//
// The package follows the OCI distribution-spec v1.1.1 for pulls, and its main
// branch for `ns` and OCI-Namespace. It does not accept writes, does not read
// configuration files, and trusts neither upstreams, nor clients, nor the
// content store: only the verifiers, the state directory and the clock.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"go.uber.org/zap"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/verify"
)

// Config is what a Proxy is made of.
type Config struct {
	Upstreams *Upstreams
	Store     *cache.Store
	State     *cache.State
	// Policy holds the rules; the zero value refuses everything.
	Policy policy.Policy
	// Gate returns the gate, given how its verifiers read signatures.
	Gate func(verify.Source) (*policy.Gate, error)
	// TagTTL is how long a tag's digest is served without asking the upstream,
	// MaxStale how long the last admitted one is while the upstream is down.
	TagTTL, MaxStale time.Duration
	// Records gets one record a request; nil writes none.
	Records *zap.Logger
	Metrics *Metrics
}

// Proxy serves the registry API.
type Proxy struct {
	registries Registries
	policy     policy.Policy
	gate       *policy.Gate
	content    *content
	tags       *tags
	admitted   *admitted
	records    *zap.Logger
	metrics    *Metrics
}

// New returns a proxy that is ready to serve.
func New(c Config) (*Proxy, error) {
	content, err := newContent(c.Upstreams, c.Store)
	if err != nil {
		return nil, err
	}
	gate, err := c.Gate(content)
	if err != nil {
		return nil, err
	}
	p := &Proxy{registries: c.Upstreams, policy: c.Policy, gate: gate, content: content, records: c.Records, metrics: c.Metrics}
	if p.records == nil {
		p.records = zap.NewNop()
	}
	p.tags = newTags(content, c.State, c.TagTTL, c.MaxStale)
	if p.admitted, err = newAdmitted(c.Policy, gate, c.State); err != nil {
		return nil, err
	}
	content.recorded = p.admitted.knows
	return p, nil
}

// ServeHTTP answers one request and writes one decision record.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ev := newEvent(r)
	cw := &countingWriter{ResponseWriter: w}
	aborted := p.serve(cw, r, ev)
	ev.Status, ev.Bytes = cw.status, cw.bytes
	if aborted && ev.Status < http.StatusBadRequest {
		// The headers said 200 before the content failed its digest.
		ev.Outcome = "aborted"
	} else {
		ev.Outcome = outcome(ev.Status)
	}
	p.records.Info("request", ev.fields()...)
	p.metrics.request(ev)
	if aborted {
		panic(http.ErrAbortHandler)
	}
}

// serve answers the request. aborted is set if the answer broke off after its
// headers, so that the connection must be cut: a client must not take what it
// has for the whole.
func (p *Proxy) serve(w *countingWriter, r *http.Request, ev *event) (aborted bool) {
	var rt route
	err := func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				p.metrics.panicked()
				err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
		}()
		if rt, err = parseRoute(r.Method, r.URL, p.registries); err != nil {
			return err
		}
		ev.setRoute(rt)
		if rt.namespaced {
			w.Header().Set("OCI-Namespace", rt.registry)
		}
		return p.dispatch(w, r, rt, ev)
	}()
	if err == nil {
		return false
	}
	ev.Err = err
	a := wire(rt.kind, err, ev)
	ev.Reason = a.reason
	if w.status != 0 {
		return true
	}
	a.write(w)
	return false
}

func (p *Proxy) dispatch(w http.ResponseWriter, r *http.Request, rt route, ev *event) error {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	if rt.kind == kindPing {
		return writeJSON(w, "application/json", []byte("{}"))
	}
	rule, err := p.policy.For(rt.name())
	if err != nil {
		return err
	}
	ev.Rule = rule.Name
	switch rt.kind {
	case kindManifest:
		return p.manifest(w, r, rt, rule, ev)
	case kindBlob:
		return p.blob(w, r, rt, ev)
	case kindReferrers:
		return p.referrers(w, r, rt, rule, ev)
	case kindTags:
		return p.tagList(w, r, rt)
	case kindTrust:
		return p.trust(w, r, rt, rule)
	}
	return errNoEndpoint
}

// manifest is the heart: bytes in hand first, then the decision about exactly
// those bytes, then a note of what they refer to, then the answer. HEAD takes
// the same way, because an image already on a node must not be confirmed if it
// is not admitted.
func (p *Proxy) manifest(w http.ResponseWriter, r *http.Request, rt route, rule *policy.Rule, ev *event) error {
	ctx := r.Context()
	if subject, ok := materialTag(rt.tag); ok {
		return p.material(w, r, rt, rule, subject, ev)
	}
	o, err := p.lookUp(ctx, rt, rule, ev)
	if err != nil {
		return err
	}
	s := o.subject(rt)
	ev.Digest = s.Digest
	below, err := p.below(ctx, rt, rule, o, ev)
	if err != nil {
		return err
	}
	if below {
		return writeManifest(w, r, o)
	}
	ev.decision, err = p.gate.Admit(ctx, rule, s)
	if err != nil {
		return err
	}
	if err := p.admitted.add(s, ev.decision, o); err != nil {
		return err
	}
	if rt.tag != "" {
		if err := p.tags.admitted(rt.name(), rt.tag, o.digest); err != nil {
			return err
		}
	}
	return writeManifest(w, r, o)
}

// lookUp returns the manifest that the request names: what a tag means is said
// by the upstream or, if the rule says so, by the trust metadata.
func (p *Proxy) lookUp(ctx context.Context, rt route, rule *policy.Rule, ev *event) (*object, error) {
	var o *object
	var err error
	d := rt.digest
	if rt.tag != "" && rule.Resolve {
		if d, err = p.gate.Resolve(ctx, rule, rt.name(), rt.tag); err != nil {
			return nil, err
		}
	}
	if d == "" {
		o, ev.Stale, err = p.tags.resolve(ctx, rt.name(), rt.tag)
	} else {
		o, err = p.content.byDigest(ctx, rt.name(), d)
	}
	if err != nil {
		return nil, err
	}
	ev.CacheHit = !o.fetched
	return o, nil
}

// below reports whether a manifest asked for by digest is admitted with
// something else: a child with its index, signature material with its subject.
// It comes before the gate: children are rarely signed themselves, and asking
// would cost the upstream a search for each platform.
func (p *Proxy) below(ctx context.Context, rt route, rule *policy.Rule, o *object, ev *event) (bool, error) {
	if rt.digest == "" || p.gate.Remembers(rule, o.subject(rt)) {
		return false, nil
	}
	g, err := p.admitted.child(ctx, rt.name(), rt.digest)
	if errors.As(err, new(*verify.Refusal)) && o.Subject != nil && isMaterial(o.Manifest) {
		g.parent = o.Subject.Digest
		g.decision, err = p.admissible(ctx, rt, rule, g.parent)
	}
	switch {
	case errors.As(err, new(*verify.Refusal)):
		return false, nil
	case err != nil:
		return false, err
	}
	ev.decision = g.decision
	return true, p.admitted.addBelow(rt.name(), o, g.parent)
}

// blob serves what something admitted in this repository refers to.
func (p *Proxy) blob(w http.ResponseWriter, r *http.Request, rt route, ev *event) error {
	g, err := p.admitted.blob(r.Context(), rt.name(), rt.digest)
	if err != nil {
		return err
	}
	ev.decision = g.decision
	if rt.head {
		ev.CacheHit, err = p.content.hasBlob(r.Context(), rt.name(), rt.digest)
		if err != nil {
			return err
		}
		setBlobHeaders(w, rt.digest, g.size)
		w.WriteHeader(http.StatusOK)
		return nil
	}
	c, err := p.content.blob(r.Context(), rt.name(), rt.digest, g.size)
	if err != nil {
		return err
	}
	defer c.Close()
	ev.CacheHit = c.FromStore()
	return writeBlob(w, r, rt.digest, c)
}
