package proxy

import (
	"context"
	"fmt"

	"github.com/distribution/reference"

	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/verify"
)

// Explanation is the decision about one reference, with every step to it.
type Explanation struct {
	// Subject is filled in as far as the steps came.
	Subject verify.Subject
	// Rule is nil if none matches.
	Rule *policy.Rule
	// Decision is the zero value if the verifiers were not asked.
	Decision policy.Decision
	// Err is nil if the reference is admitted, a *verify.Refusal if it is
	// refused; anything else is undecided.
	Err error
}

// Explain makes the decision that ServeHTTP would make about a reference, such
// as "docker.io/library/alpine:3.22", and serves nothing. It differs in one
// thing: a digest that is admitted only because an index was admitted before
// it is judged by itself.
func (p *Proxy) Explain(ctx context.Context, ref string) Explanation {
	rt, err := p.parseReference(ref)
	x := Explanation{Subject: verify.Subject{Registry: rt.registry, Repository: rt.repository, Tag: rt.tag, Digest: rt.digest}, Err: err}
	if err != nil {
		return x
	}
	if x.Rule, x.Err = p.policy.For(rt.name()); x.Err != nil {
		return x
	}
	o, err := p.lookUp(ctx, rt, x.Rule, &event{})
	if err != nil {
		x.Err = fmt.Errorf("looking up %s: %w", x.Subject, err)
		return x
	}
	x.Subject = o.subject(rt)
	x.Decision, x.Err = p.gate.Admit(ctx, x.Rule, x.Subject)
	return x
}

// parseReference reads a reference as clients do: no registry is docker.io, no
// tag is latest, a digest wins over a tag.
func (p *Proxy) parseReference(ref string) (route, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return route{}, fmt.Errorf("reading the reference %q: %w: write registry/repository:tag or …@sha256:…", ref, err)
	}
	rt := route{kind: kindManifest, repository: reference.Path(named), n: -1}
	var ok bool
	if rt.registry, ok = p.registries.Canonical(reference.Domain(named)); !ok {
		rt.registry = reference.Domain(named)
		return rt, verify.Refuse(verify.UnknownUpstream, "%s is not configured as an upstream", rt.registry)
	}
	rt.full = rt.registry + "/" + rt.repository
	switch r := reference.TagNameOnly(named).(type) {
	case reference.Digested:
		rt.digest = r.Digest()
		if err := verify.CheckDigest(rt.digest); err != nil {
			return rt, fmt.Errorf("reading the reference %q: %w", ref, err)
		}
	case reference.Tagged:
		rt.tag = r.Tag()
	}
	return rt, nil
}
