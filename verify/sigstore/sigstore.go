package sigstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/verify"
)

// Config is a trust root: keys, and how many must have signed.
type Config struct {
	Keys []Key
	// AtLeast is how many distinct keys must have signed; 0 is one.
	AtLeast int
	// TransparencyLog must be "optional": logs cannot be verified for keys yet,
	// and what cannot be verified is not required in silence.
	TransparencyLog string
}

// Verifier vouches for images signed by the keys of one Config.
type Verifier struct {
	keys    []*key
	atLeast int
	source  verify.Source
}

// New reads the keys. src may be nil to find mistakes only.
func New(c Config, src verify.Source) (*Verifier, error) {
	var errs []error
	switch c.TransparencyLog {
	case "optional":
	case "", "required":
		errs = append(errs, errors.New("transparency_log: required cannot be met yet for keys: write optional; a misused key is then not seen in any log"))
	default:
		errs = append(errs, fmt.Errorf("transparency_log: %q is neither required nor optional", c.TransparencyLog))
	}
	v := &Verifier{atLeast: max(c.AtLeast, 1), source: src}
	ids := map[string]string{}
	for _, k := range c.Keys {
		parsed, err := parseKey(k)
		if err != nil {
			errs = append(errs, fmt.Errorf("key %s: %w", k.Name, err))
			continue
		}
		if other, twice := ids[parsed.id]; twice {
			errs = append(errs, fmt.Errorf("key %s: it is the same key as %s: a key counts once, remove one", k.Name, other))
		}
		ids[parsed.id] = k.Name
		v.keys = append(v.keys, parsed)
	}
	switch {
	case len(c.Keys) == 0:
		errs = append(errs, errors.New("no key is trusted: list at least one"))
	case c.AtLeast < 0 || c.AtLeast > len(c.Keys):
		errs = append(errs, fmt.Errorf("at_least: %d of %d keys cannot be met", c.AtLeast, len(c.Keys)))
	}
	return v, errors.Join(errs...)
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(ctx context.Context, s verify.Subject) (verify.Evidence, error) {
	found, missed := v.collect(ctx, s)
	if err := ctx.Err(); err != nil {
		return verify.Evidence{}, fmt.Errorf("looking for signatures of %s: %w", s.Digest, err)
	}
	e := verify.Evidence{Found: findings(found)}
	signers := v.counted(found)
	if len(signers) >= v.atLeast {
		for _, k := range signers[:v.atLeast] {
			e.Expires = earlier(e.Expires, k.NotAfter)
		}
		for _, k := range signers {
			e.Signers = append(e.Signers, verify.Signer{ID: k.id, Name: k.Name})
		}
		return e, nil
	}
	if missed != nil {
		return verify.Evidence{}, fmt.Errorf("reading the signatures of %s: %w", s.Digest, missed)
	}
	return verify.Evidence{}, v.refusal(s, found, len(signers))
}

// counted returns the distinct keys whose signatures count, those that are
// valid longest first.
func (v *Verifier) counted(found []examined) []*key {
	var keys []*key
	for _, x := range found {
		if x.Counts && !slices.Contains(keys, x.key) {
			keys = append(keys, x.key)
		}
	}
	slices.SortStableFunc(keys, func(a, b *key) int {
		switch {
		case a.NotAfter.IsZero() || b.NotAfter.IsZero():
			return cmp.Compare(boolInt(b.NotAfter.IsZero()), boolInt(a.NotAfter.IsZero()))
		default:
			return b.NotAfter.Compare(a.NotAfter)
		}
	})
	return keys
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// refusal says what was found and what was wanted.
func (v *Verifier) refusal(s verify.Subject, found []examined, signers int) *verify.Refusal {
	r := &verify.Refusal{Found: findings(found)}
	wanted := "wanted " + v.wanted()
	if len(found) == 0 {
		r.Reason, r.Message = verify.Unsigned, fmt.Sprintf("%s has no signature; %s", s, wanted)
		return r
	}
	worst := mostTelling(found)
	r.Reason = worst.Reason
	if signers > 0 {
		r.Reason = verify.BelowThreshold
		r.Message = fmt.Sprintf("%s is signed by %d of the %d distinct keys required; %s", s, signers, v.atLeast, wanted)
		return r
	}
	r.Message = fmt.Sprintf("%s has %s: %s; %s", s, count(found), worst.Message, wanted)
	return r
}

// count says how many signatures and attestations there are.
func count(found []examined) string {
	attestations := 0
	for _, x := range found {
		if x.Reason == verify.Unsigned {
			attestations++
		}
	}
	var parts []string
	for noun, n := range map[string]int{"signature": len(found) - attestations, "attestation": attestations} {
		switch {
		case n == 1:
			parts = append(parts, "1 "+noun)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", n, noun))
		}
	}
	slices.Sort(parts)
	text := strings.Join(parts, " and ")
	if len(found) > 1 {
		text += ", none of which counts"
	}
	return text
}

// maxNamed bounds how many keys a message names.
const maxNamed = 3

func (v *Verifier) wanted() string {
	var names []string
	for _, k := range v.keys[:min(len(v.keys), maxNamed)] {
		names = append(names, k.String())
	}
	if n := len(v.keys) - maxNamed; n > 0 {
		names = append(names, fmt.Sprintf("%d more", n))
	}
	list := strings.Join(names, ", ")
	if v.atLeast > 1 {
		return fmt.Sprintf("%d of %s", v.atLeast, list)
	}
	return list
}

// mostTelling returns the finding whose reason says most. Garbage says least:
// anybody who can push can add some.
func mostTelling(found []examined) examined {
	order := verify.Reasons()
	rank := func(x examined) int {
		if x.Reason == verify.Malformed {
			return -1
		}
		return slices.Index(order, x.Reason)
	}
	return slices.MaxFunc(found, func(a, b examined) int { return cmp.Compare(rank(a), rank(b)) })
}

func findings(found []examined) []verify.Finding {
	fs := make([]verify.Finding, len(found))
	for i, x := range found {
		fs[i] = x.Finding
	}
	return fs
}

// earlier returns the earlier of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

var _ verify.Verifier = (*Verifier)(nil)
