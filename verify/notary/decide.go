package notary

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
)

// reader answers questions from one view at one time.
type reader struct {
	conf   *Config
	view   *view
	repo   *repository
	now    time.Time
	frozen bool
}

func (v *Verifier) reader(w *view) *reader {
	now := v.clock()
	return &reader{conf: &v.conf, view: w, repo: w.repo, now: now, frozen: v.frozen(now)}
}

// Resolve returns the digest and size that the tag means, if as many vouch for
// it as Verify would demand. The media type is empty: Notary does not know it.
func (v *Verifier) Resolve(ctx context.Context, name, tag string) (ocispec.Descriptor, error) {
	var d ocispec.Descriptor
	err := v.ask(ctx, name, func(r *reader) error {
		if err := r.usable(); err != nil {
			return err
		}
		f, err := r.find(tag)
		if err != nil {
			return err
		}
		if _, err := r.evidence(f); err != nil {
			return err
		}
		d = ocispec.Descriptor{Digest: digest.NewDigestFromBytes(digest.SHA256, f.meta.sha256), Size: f.meta.length}
		return nil
	})
	return d, err
}

// found is a tag with the role that has it.
type found struct {
	tag  string
	role *loadedRole
	meta fileMeta
}

func (r *reader) verify(s verify.Subject) (verify.Evidence, error) {
	if err := r.usable(); err != nil {
		return verify.Evidence{}, err
	}
	if err := verify.CheckDigest(s.Digest); err != nil {
		return verify.Evidence{}, &verify.Refusal{Reason: verify.Malformed, Message: "the subject's digest is malformed", Err: err}
	}
	if s.Tag == "" {
		return r.verifyDigest(s)
	}
	f, err := r.find(s.Tag)
	if err != nil {
		return verify.Evidence{}, err
	}
	if !f.meta.means(s) {
		return verify.Evidence{}, &verify.Refusal{Reason: verify.DigestMismatch,
			Message: fmt.Sprintf("%s:%s is signed in %s as %s, not as %s", s.Name(), s.Tag, f.role.role, f.meta, fileOf(s)),
			Found:   []verify.Finding{f.finding(false)}}
	}
	return r.evidence(f)
}

// tagPattern is the OCI grammar. Targets of other names are no tags.
var tagPattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// verifyDigest looks for any tag that means the subject.
func (r *reader) verifyDigest(s verify.Subject) (verify.Evidence, error) {
	refusal := error(verify.Refuse(verify.Unsigned, "no tag of %s that is signed in %s means %s", s.Name(), r.roleNames(), fileOf(s)))
	for _, name := range r.conf.Roles {
		role, err := r.role(name)
		if err != nil {
			refusal = err
		}
		if role == nil {
			continue
		}
		for _, tag := range slices.Sorted(maps.Keys(role.targets)) {
			f := found{tag: tag, role: role, meta: role.targets[tag]}
			if !tagPattern.MatchString(tag) || !permits(role.by.paths, tag) || !f.meta.means(s) {
				continue
			}
			evidence, err := r.evidence(f)
			if err == nil {
				return evidence, nil
			}
			refusal = err
		}
	}
	return verify.Evidence{}, refusal
}

// usable says whether the metadata may be used at all: nothing has overtaken
// it, and the chain down to targets has not expired.
func (r *reader) usable() error {
	var refusal *verify.Refusal
	rollback := errors.As(r.view.err, &refusal) && refusal.Reason == verify.Rollback
	switch {
	case r.repo == nil:
		return r.view.err
	case r.view.overtaken() && (!r.frozen || rollback):
		return r.view.err
	case !r.repo.root.started(r.now):
		return verify.Refuse(verify.Expired, "the root certificate of %s is not valid yet", r.repo.gun)
	}
	return r.current(r.repo.roles[roleTargets])
}

// current says whether a role and everything above it is still valid. If the
// server could not be asked for newer metadata, the question is open.
func (r *reader) current(role *loadedRole) error {
	until, what := r.until(role)
	if r.now.Before(until) || r.frozen {
		return nil
	}
	if r.view.err != nil {
		return fmt.Errorf("the metadata of %s (%s) expired at %s, and newer could not be read: %w",
			r.repo.gun, what, until.Format(time.RFC3339), r.view.err)
	}
	if !r.conf.FrozenUntil.IsZero() {
		return verify.Refuse(verify.Expired, "the metadata of %s (%s) expired at %s, and it was frozen until %s only",
			r.repo.gun, what, until.Format(time.RFC3339), r.conf.FrozenUntil.Format(time.RFC3339))
	}
	return verify.Refuse(verify.Expired, "the metadata of %s (%s) expired at %s", r.repo.gun, what, until.Format(time.RFC3339))
}

// generation names what verdicts rest on now. A remembered one may rest on an
// earlier timestamp that ended later, or was made before the metadata expired
// and came to stand only because it is frozen: neither holds any more then.
func (r *reader) generation() string {
	until, _ := r.until(r.repo.roles[roleTargets])
	switch {
	case r.now.Before(until):
		return r.view.generation()
	case r.frozen:
		return "frozen-" + r.view.generation()
	}
	return "" // Verify has to be asked
}

// until returns the earliest expiry of a role and everything above it, and
// which it is.
func (r *reader) until(role *loadedRole) (time.Time, string) {
	until, what := role.until, role.role
	for _, c := range []struct {
		at   time.Time
		what string
	}{{r.repo.root.until(), roleRoot}, {r.repo.timestamp.expires, roleTimestamp}, {r.repo.snapshot.expires, roleSnapshot}} {
		if !until.Before(c.at) {
			until, what = c.at, c.what
		}
	}
	return until, what
}

// role returns an accepted role; nil if the repository has none by that name.
// A role that is delegated but does not verify, or has expired, is an error: to
// pass over it would let its absence decide.
func (r *reader) role(name string) (*loadedRole, error) {
	for parent := name; parent != roleTargets; parent = parentRole(parent) {
		if broken, ok := r.repo.broken[parent]; ok {
			return nil, broken.err
		}
	}
	role, ok := r.repo.roles[name]
	if !ok {
		return nil, nil
	}
	return role, r.current(role)
}

// find returns the first accepted role that has the tag.
func (r *reader) find(tag string) (found, error) {
	for _, name := range r.conf.Roles {
		role, err := r.role(name)
		if err != nil {
			return found{}, err
		}
		if role == nil || !permits(role.by.paths, tag) {
			continue
		}
		meta, ok := role.targets[tag]
		if !ok {
			if below := r.below(name, tag); below != "" {
				return found{}, verify.Refuse(verify.Unsigned, "%s:%s is signed in %s, which is not one of %s", r.repo.gun, tag, below, r.roleNames())
			}
			continue
		}
		if meta.sha256 == nil {
			return found{}, verify.Refuse(verify.Malformed, "%s:%s is listed in %s without a sha256 digest", r.repo.gun, tag, name)
		}
		return found{tag: tag, role: role, meta: meta}, nil
	}
	return found{}, verify.Refuse(verify.Unsigned, "%s:%s is not signed in %s", r.repo.gun, tag, r.roleNames())
}

// below returns a role below an accepted one that has the tag. It does not
// answer, but nor does a role that is asked later: docker refuses what it finds
// in this order anywhere but in the accepted roles themselves.
func (r *reader) below(accepted, tag string) string {
	for _, name := range r.repo.order {
		role, ok := r.repo.roles[name]
		if !ok || !strings.HasPrefix(name, accepted+"/") || !permits(role.by.paths, tag) || r.current(role) != nil {
			continue
		}
		asked := false
		for n := name; n != accepted; n = parentRole(n) {
			asked = asked || slices.Contains(r.conf.Roles, n)
		}
		if _, ok := role.targets[tag]; ok && !asked {
			return name
		}
	}
	return ""
}

func (r *reader) roleNames() string { return strings.Join(r.conf.Roles, " or ") }

// evidence says who vouches for a tag and for how long.
func (r *reader) evidence(f found) (verify.Evidence, error) {
	voices, err := r.voices(f)
	if err != nil {
		return verify.Evidence{}, err
	}
	e := verify.Evidence{Generation: r.generation(), Found: []verify.Finding{f.finding(true)}}
	e.Expires, _ = r.until(f.role)
	for _, voice := range voices {
		if until, _ := r.until(voice.role); until.Before(e.Expires) {
			e.Expires = until
		}
	}
	e.Signers = r.signers(append(voices, f))
	if r.frozen {
		e.Warnings = r.warnings(e.Expires)
		if !r.now.Before(e.Expires) {
			e.Expires = r.conf.FrozenUntil
		}
	}
	return e, nil
}

// warnings says on what the evidence would not stand without FrozenUntil.
func (r *reader) warnings(until time.Time) []string {
	var out []string
	if !r.now.Before(until) {
		out = append(out, fmt.Sprintf("the trust metadata of %s expired at %s; it is frozen until %s",
			r.repo.gun, until.Format(time.RFC3339), r.conf.FrozenUntil.Format(time.RFC3339)))
	}
	var refusal *verify.Refusal
	if errors.As(r.view.err, &refusal) {
		out = append(out, fmt.Sprintf("the trust server's metadata of %s is refused (%s); what was archived is used", r.repo.gun, refusal.Reason))
	}
	return out
}

// signers names the keys behind roles once each. The first name wins: a
// signer's own role comes before targets/releases.
func (r *reader) signers(roles []found) []verify.Signer {
	var out []verify.Signer
	seen := map[string]bool{}
	for _, f := range roles {
		for _, k := range f.role.signers {
			if seen[k.spki] {
				continue
			}
			seen[k.spki] = true
			out = append(out, verify.Signer{ID: "key:sha256:" + k.spki, Name: r.nameOf(k, f)})
		}
	}
	return out
}

// nameOf finds the signer's own role for a key that signed targets/releases:
// docker trust signs both.
func (r *reader) nameOf(k *key, f found) string {
	for _, name := range r.repo.order {
		role, ok := r.repo.roles[name]
		if !ok || f.role.role != releasesRole || parentRole(name) != roleTargets || name == releasesRole {
			continue
		}
		if meta, ok := role.targets[f.tag]; !ok || !meta.same(f.meta) || !permits(role.by.paths, f.tag) {
			continue
		}
		if slices.ContainsFunc(role.signers, func(s *key) bool { return s.spki == k.spki }) {
			return name
		}
	}
	return f.role.role
}

// voices returns the configured signer roles that say the same as f. If they
// are too few, the refusal is of the kind that the missing ones would be.
func (r *reader) voices(f found) ([]found, error) {
	var out []found
	var why error
	for _, name := range r.conf.Signers.Of {
		role, err := r.role(name)
		if err != nil {
			why = err
		}
		if role == nil || err != nil || !permits(role.by.paths, f.tag) {
			continue
		}
		if meta, ok := role.targets[f.tag]; ok && meta.sha256 != nil && meta.same(f.meta) {
			out = append(out, found{tag: f.tag, role: role, meta: meta})
		}
	}
	if n := independent(out); n < r.conf.Signers.AtLeast {
		if why != nil {
			return nil, why
		}
		return nil, &verify.Refusal{Reason: verify.BelowThreshold, Found: []verify.Finding{f.finding(false)},
			Message: fmt.Sprintf("%s:%s as %s is signed by %d of %s with keys of their own; %d are demanded",
				r.repo.gun, f.tag, f.meta, n, strings.Join(r.conf.Signers.Of, ", "), r.conf.Signers.AtLeast)}
	}
	return out, nil
}

// independent counts roles such that each has a signing key of its own: two
// roles with one key are one voice. (A maximum matching of roles and keys.)
func independent(roles []found) int {
	owner := map[string]int{}
	var claim func(role int, tried map[string]bool) bool
	claim = func(role int, tried map[string]bool) bool {
		for _, k := range roles[role].role.signers {
			if tried[k.spki] {
				continue
			}
			tried[k.spki] = true
			if other, taken := owner[k.spki]; !taken || claim(other, tried) {
				owner[k.spki] = role
				return true
			}
		}
		return false
	}
	n := 0
	for i := range roles {
		if claim(i, map[string]bool{}) {
			n++
		}
	}
	return n
}

// means reports whether a target is the subject: digest and length.
func (f fileMeta) means(s verify.Subject) bool {
	hash := f.sha256
	if s.Digest.Algorithm() == digest.SHA512 {
		hash = f.sha512
	}
	return len(hash) > 0 && f.length == s.Size && s.Digest.Encoded() == hex.EncodeToString(hash)
}

// String shows a target as "sha256:… (526 bytes)".
func (f fileMeta) String() string { return fmt.Sprintf("sha256:%x (%d bytes)", f.sha256, f.length) }

func fileOf(s verify.Subject) string { return fmt.Sprintf("%s (%d bytes)", s.Digest, s.Size) }

func (f found) finding(counts bool) verify.Finding {
	return verify.Finding{Format: "notary target", Digest: digest.NewDigestFromBytes(digest.SHA256, f.meta.sha256),
		Signer: f.role.role, Counts: counts, Details: map[string]string{"tag": f.tag, "role": f.role.role,
			"version": fmt.Sprint(f.role.version), "expires": f.role.until.Format(time.RFC3339)}}
}
