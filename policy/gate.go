package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/verify"
)

const (
	// verifyTimeout bounds one verification. It is longer than any pull waits
	// for a healthy registry and shorter than clients' own patience (60 s).
	verifyTimeout = 30 * time.Second
	// DefaultDecisions is how many admissions are remembered in memory: one
	// entry takes about 250 bytes.
	DefaultDecisions = 1_000_000
	// DefaultRefusals is how long a refusal is remembered, so that a flood of
	// refused pulls does not become a flood upstream.
	DefaultRefusals = 30 * time.Second
	// maxRefusals bounds remembered refusals; beyond it the oldest are forgotten.
	maxRefusals = 10_000
	// rulesVersion is part of every key: raise it when a verifier's meaning
	// changes, and every remembered decision is made again.
	rulesVersion = 1
)

// GateConfig is what a Gate is made of.
type GateConfig struct {
	// Verifiers by the name that requirements use.
	Verifiers map[string]verify.Verifier
	// Decisions is how many admissions are kept in memory; 0 is DefaultDecisions.
	Decisions int64
	// Refusals is how long a refusal is kept; 0 is DefaultRefusals.
	Refusals time.Duration
	// Observe, if set, is told of every question that verifiers were asked.
	Observe func(Decision, time.Duration)
}

// Gate asks verifiers and remembers decisions. Admissions are kept until their
// evidence expires or what they rest on changes, refusals for a short fixed
// time, undecided never. It is safe for concurrent use.
type Gate struct {
	verifiers map[string]verify.Verifier
	admitted  *cache.Memo[key, *Decision]
	refused   *cache.Brief[key, *Decision]
	flights   singleflight.Group
	observe   func(Decision, time.Duration)
}

// key is what a decision is bound to: the digest and what else the verdicts
// rest on, never a tag alone.
type key struct {
	subject verify.Subject
	basis   Basis
}

// NewGate returns a gate that has decided nothing yet.
func NewGate(c GateConfig) (*Gate, error) {
	if c.Decisions == 0 {
		c.Decisions = DefaultDecisions
	}
	if c.Refusals == 0 {
		c.Refusals = DefaultRefusals
	}
	memo, err := cache.NewMemo[key, *Decision](c.Decisions)
	if err != nil {
		return nil, fmt.Errorf("starting the decision cache: %w", err)
	}
	return &Gate{verifiers: c.Verifiers, admitted: memo, observe: c.Observe,
		refused: cache.NewBrief[key, *Decision](maxRefusals, c.Refusals)}, nil
}

// Admit decides whether s may be served under r. The error is that of
// Decision.Err: nil if and only if the decision admits.
func (g *Gate) Admit(ctx context.Context, r *Rule, s verify.Subject) (Decision, error) {
	if r.Exempt != nil {
		d := r.Decide(time.Now(), nil)
		d.Basis = g.Basis(r, s)
		return d, d.Err()
	}
	k := g.key(r, s)
	if d, ok := g.remembered(k); ok {
		return d, d.Err()
	}
	d, err := g.decideOnce(ctx, r, s, k)
	if err != nil {
		return Decision{Outcome: Undecided, Rule: r.Name}, err
	}
	return d, d.Err()
}

// Remembers reports whether Admit would admit s from memory.
func (g *Gate) Remembers(r *Rule, s verify.Subject) bool {
	_, ok := g.admitted.Get(g.key(r, s))
	return ok
}

// Basis is what a decision rests on besides the digest and the evidence's end:
// the rule with its verifiers, and the state of their trust metadata. It is
// comparable.
type Basis struct {
	Fingerprint string `json:"fingerprint"`
	Generation  string `json:"generation,omitempty"`
	Version     int    `json:"version"`
}

// Basis returns what a decision about s under r rests on now. A decision made
// on another basis has to be made again.
func (g *Gate) Basis(r *Rule, s verify.Subject) Basis { return g.key(r, s).basis }

// Resolve returns the digest that the trust metadata of the rule's verifiers
// gives the tag. It admits nothing: Admit has to be asked about what is found.
// If several say, the first in the rule's order is taken, and Admit sees to it
// that the others agree where the rule demands it.
func (g *Gate) Resolve(ctx context.Context, r *Rule, repository, tag string) (digest.Digest, error) {
	err := error(verify.Refuse(verify.Unsigned, "no trust metadata says what %s:%s means", repository, tag))
	for _, name := range r.names {
		resolver, ok := g.verifiers[name].(verify.Resolver)
		if !ok {
			continue
		}
		d, resolveErr := resolver.Resolve(ctx, repository, tag)
		if resolveErr == nil {
			return d.Digest, nil
		}
		if err = resolveErr; !errors.As(err, new(*verify.Refusal)) {
			return "", &UndecidedError{Rule: r.Name, Causes: []error{fmt.Errorf("verifier %s: %w", name, err)}}
		}
	}
	return "", err
}

// Metadata returns a file of the trust metadata that the rule's verifiers hold
// about a repository, or an error that wraps fs.ErrNotExist.
func (g *Gate) Metadata(ctx context.Context, r *Rule, repository, file string) ([]byte, error) {
	for _, name := range r.names {
		source, ok := g.verifiers[name].(verify.MetadataSource)
		if !ok {
			continue
		}
		body, err := source.Raw(ctx, repository, file)
		if !errors.Is(err, fs.ErrNotExist) {
			return body, err
		}
	}
	return nil, fmt.Errorf("trust metadata %s of %s: %w", file, repository, fs.ErrNotExist)
}

// Close forgets everything.
func (g *Gate) Close() { g.admitted.Close() }

func (g *Gate) remembered(k key) (Decision, bool) {
	d, ok := g.admitted.Get(k)
	if !ok {
		d, ok = g.refused.Get(k)
	}
	if !ok {
		return Decision{}, false
	}
	found := *d
	found.Remembered = true
	return found, true
}

// decideOnce asks the verifiers once for any number of callers. The question
// outlives a caller that goes away, because others may be waiting for it.
func (g *Gate) decideOnce(ctx context.Context, r *Rule, s verify.Subject, k key) (Decision, error) {
	flight := fmt.Sprintf("%s|%s|%s|%s", k.subject, s.MediaType, k.basis.Fingerprint, k.basis.Generation)
	ch := g.flights.DoChan(flight, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verifyTimeout)
		defer cancel()
		start := time.Now()
		d := r.Decide(time.Now(), g.ask(ctx, r, s))
		g.remember(r, s, &d)
		if g.observe != nil {
			g.observe(d, time.Since(start))
		}
		return d, nil
	})
	select {
	case res := <-ch:
		return res.Val.(Decision), nil
	case <-ctx.Done():
		return Decision{}, &UndecidedError{Rule: r.Name, Causes: []error{ctx.Err()}}
	}
}

// remember keeps a decision under the key as it is after the verification:
// trust metadata may have been loaded on the way. If it changed again since,
// the decision rests on what is no longer so, and is not kept.
func (g *Gate) remember(r *Rule, s verify.Subject, d *Decision) {
	k := g.key(r, s)
	for _, v := range d.Verdicts {
		scoped, ok := g.verifiers[v.Verifier].(verify.Scoped)
		if ok && v.Outcome == Admitted && scoped.Scope(s).Generation != v.Evidence.Generation {
			return
		}
	}
	d.Basis = k.basis
	kept := *d
	switch d.Outcome {
	case Admitted:
		g.admitted.Add(k, &kept, d.Expires)
	case Refused:
		g.refused.Set(k, &kept)
	}
}

// ask puts the question to all verifiers of the rule at once.
func (g *Gate) ask(ctx context.Context, r *Rule, s verify.Subject) []Verdict {
	names := r.names
	verdicts := make([]Verdict, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { verdicts[i] = g.askOne(ctx, name, s) })
	}
	wg.Wait()
	return verdicts
}

// askOne turns a panic into "could not check": a verifier that crashes on
// hostile input must neither admit nor stop the process.
func (g *Gate) askOne(ctx context.Context, name string, s verify.Subject) (v Verdict) {
	defer func() {
		if p := recover(); p != nil {
			v = verdict(name, verify.Evidence{}, fmt.Errorf("the verifier panicked: %v\n%s", p, debug.Stack()))
		}
	}()
	verifier, ok := g.verifiers[name]
	if !ok {
		return verdict(name, verify.Evidence{}, fmt.Errorf("no verifier is named %q", name))
	}
	e, err := verifier.Verify(ctx, s)
	return verdict(name, e, err)
}

// key leaves the tag out if no verdict depends on it, so that a pull by tag
// and the pull by digest that follows share one decision.
func (g *Gate) key(r *Rule, s verify.Subject) key {
	k := key{subject: s, basis: Basis{Fingerprint: r.Fingerprint, Version: rulesVersion}}
	tagBound := false
	var generations []string
	for _, name := range r.names {
		scoped, ok := g.verifiers[name].(verify.Scoped)
		if !ok {
			continue
		}
		scope := scoped.Scope(s)
		tagBound = tagBound || scope.Tag
		if scope.Generation != "" {
			generations = append(generations, name+"="+scope.Generation)
		}
	}
	if !tagBound {
		k.subject.Tag = ""
	}
	k.basis.Generation = strings.Join(generations, ",")
	return k
}
