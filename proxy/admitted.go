package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/verify"
)

// maxDepth bounds how many parents a blob can have above it: layer, manifest,
// index, index of indexes.
const maxDepth = 4

// maxNotes bounds what is known to be written: beyond it some is written again.
const maxNotes = 100_000

// maxParents bounds how many admitted manifests are asked about one blob. A
// base layer may be shared by thousands; one that is admitted is enough.
const maxParents = 1000

// admitted remembers which manifests were admitted in which repository and what
// they refer to, in durable state, so that blobs and children are served after
// a restart too. An entry is no decision: it says what to ask the gate about.
// Whenever what the admission rested on has changed, the gate decides again.
type admitted struct {
	policy policy.Policy
	gate   *policy.Gate
	roots  *cache.Table
	refs   *cache.Table
	// noted holds what need not be written again.
	noted *cache.Memo[note, struct{}]
}

// note is something that has been written: an admission of a subject, or what
// a manifest below a parent refers to.
type note struct {
	subject verify.Subject
	basis   policy.Basis
	parent  digest.Digest
}

// root is an admission of a manifest by the gate.
type root struct {
	Subject verify.Subject `json:"subject"`
	// Basis is policy.Gate.Basis at the time.
	Basis   policy.Basis `json:"basis"`
	Expires time.Time    `json:"expires,omitzero"`
	// Warnings are the decision's.
	Warnings []string `json:"warnings,omitempty"`
}

// relation is what a parent says about something it refers to.
type relation struct {
	Size     int64 `json:"size"`
	Manifest bool  `json:"manifest,omitempty"`
}

func newAdmitted(p policy.Policy, g *policy.Gate, state *cache.State) (*admitted, error) {
	noted, err := cache.NewMemo[note, struct{}](maxNotes)
	if err != nil {
		return nil, err
	}
	return &admitted{policy: p, gate: g, roots: state.Table("admitted"), refs: state.Table("references"), noted: noted}, nil
}

func rootKey(name string, d digest.Digest) string { return name + "\x00" + d.String() }

func refKey(name string, child, parent digest.Digest) string {
	return name + "\x00" + child.String() + "\x00" + parent.String()
}

// add notes that the gate admitted s, whose manifest is o. The tag is left
// out: once a digest is vouched for, what it refers to is asked for by digest.
func (a *admitted) add(s verify.Subject, d policy.Decision, o *object) error {
	s.Tag = ""
	n := note{subject: s, basis: d.Basis}
	if _, ok := a.noted.Get(n); ok && d.Remembered {
		return nil
	}
	entries := map[string][]byte{}
	if err := references(entries, s.Name(), o); err != nil {
		return err
	}
	if err := a.refs.Put(entries); err != nil {
		return fmt.Errorf("noting what %s refers to: %w", s, err)
	}
	if err := a.putRoot(root{Subject: s, Basis: d.Basis, Expires: d.Expires, Warnings: d.Warnings}); err != nil {
		return err
	}
	a.noted.Add(n, struct{}{}, d.Expires)
	return nil
}

func (a *admitted) putRoot(r root) error {
	value, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := a.roots.Put(map[string][]byte{rootKey(r.Subject.Name(), r.Subject.Digest): value}); err != nil {
		return fmt.Errorf("noting that %s is admitted: %w", r.Subject, err)
	}
	return nil
}

// addBelow notes what a manifest refers to that is admitted because something
// else is: a child with its index, signature material with its subject.
func (a *admitted) addBelow(name string, o *object, parent digest.Digest) error {
	n := note{subject: verify.Subject{Repository: name, Digest: o.digest}, parent: parent}
	if _, ok := a.noted.Get(n); ok {
		return nil
	}
	entries := map[string][]byte{}
	if err := references(entries, name, o); err != nil {
		return err
	}
	value, err := json.Marshal(relation{Size: int64(len(o.body)), Manifest: true})
	if err != nil {
		return err
	}
	entries[refKey(name, o.digest, parent)] = value
	if err := a.refs.Put(entries); err != nil {
		return fmt.Errorf("noting what %s@%s refers to: %w", name, o.digest, err)
	}
	a.noted.Add(n, struct{}{}, time.Time{})
	return nil
}

func references(entries map[string][]byte, name string, o *object) error {
	for _, d := range o.References() {
		value, err := json.Marshal(relation{Size: d.Size, Manifest: o.IsIndex()})
		if err != nil {
			return err
		}
		entries[refKey(name, d.Digest, o.digest)] = value
	}
	return nil
}

// knows reports whether the manifest was admitted in the repository before, by
// itself or below another. It says nothing about whether it still is.
func (a *admitted) knows(name string, d digest.Digest) bool {
	if _, err := a.roots.Load(rootKey(name, d)); err == nil {
		return true
	}
	parents, err := a.parents(name, d, true)
	return err == nil && len(parents) > 0
}

// grant is the answer that something is referred to by what is admitted now.
type grant struct {
	// parent is the manifest that refers to it, size what that says.
	parent digest.Digest
	size   int64
	// decision is the gate's about the root above.
	decision policy.Decision
}

// blob returns the grant of a blob, or a *verify.Refusal, or an error if an
// admission could not be made again.
func (a *admitted) blob(ctx context.Context, name string, d digest.Digest) (grant, error) {
	return a.below(ctx, name, d, false, 0)
}

// child returns the grant of a manifest that something admitted refers to.
func (a *admitted) child(ctx context.Context, name string, d digest.Digest) (grant, error) {
	return a.below(ctx, name, d, true, 0)
}

// below looks for an admitted manifest that refers to d. One is enough. If none
// is and one could not be checked, the answer is open.
func (a *admitted) below(ctx context.Context, name string, d digest.Digest, manifest bool, depth int) (grant, error) {
	refusal := verify.Refuse(verify.NotReferenced, "nothing that was admitted in %s refers to %s", name, d)
	if depth == maxDepth {
		return grant{}, refusal
	}
	parents, err := a.parents(name, d, manifest)
	if err != nil {
		return grant{}, err
	}
	var open error
	for parent, ref := range parents {
		decision, err := a.stands(ctx, name, parent, depth)
		switch {
		case err == nil:
			return grant{parent: parent, size: ref.Size, decision: decision}, nil
		case !errors.As(err, new(*verify.Refusal)):
			open = err
		}
	}
	if open != nil {
		return grant{}, open
	}
	return grant{}, refusal
}

func (a *admitted) parents(name string, d digest.Digest, manifest bool) (map[digest.Digest]relation, error) {
	parents := map[digest.Digest]relation{}
	prefix := name + "\x00" + d.String() + "\x00"
	err := a.refs.Scan(prefix, func(key string, value []byte) error {
		var ref relation
		if err := json.Unmarshal(value, &ref); err != nil {
			return fmt.Errorf("reading admissions: %w", err)
		}
		if ref.Manifest == manifest {
			parents[digest.Digest(key[len(prefix):])] = ref
		}
		if len(parents) == maxParents {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return parents, err
}

var errEnough = errors.New("enough")

// stands reports, by a nil error, that the manifest is admitted now: as a root
// whose admission still holds or is made again, or below one.
func (a *admitted) stands(ctx context.Context, name string, d digest.Digest, depth int) (policy.Decision, error) {
	decision, err := a.rootStands(ctx, name, d)
	if err == nil {
		return decision, nil
	}
	g, belowErr := a.below(ctx, name, d, true, depth+1)
	if belowErr == nil {
		return g.decision, nil
	}
	if errors.As(err, new(*verify.Refusal)) {
		err = belowErr
	}
	return policy.Decision{}, err
}

func (a *admitted) rootStands(ctx context.Context, name string, d digest.Digest) (policy.Decision, error) {
	value, err := a.roots.Load(rootKey(name, d))
	if err != nil {
		return policy.Decision{}, verify.Refuse(verify.NotReferenced, "%s@%s was not admitted by itself", name, d)
	}
	var r root
	if err := json.Unmarshal(value, &r); err != nil || r.Subject.Name() != name || r.Subject.Digest != d {
		return policy.Decision{}, fmt.Errorf("reading the admission of %s@%s: the entry is malformed", name, d)
	}
	rule, err := a.policy.For(name)
	if err != nil {
		return policy.Decision{}, err
	}
	if r.Basis == a.gate.Basis(rule, r.Subject) && (r.Expires.IsZero() || time.Now().Before(r.Expires)) {
		return policy.Decision{Outcome: policy.Admitted, Rule: rule.Name, Expires: r.Expires, Exempt: rule.Exempt,
			Warnings: r.Warnings, Remembered: true}, nil
	}
	decision, err := a.gate.Admit(ctx, rule, r.Subject)
	if err != nil {
		return decision, err
	}
	return decision, a.putRoot(root{Subject: r.Subject, Basis: decision.Basis, Expires: decision.Expires, Warnings: decision.Warnings})
}
