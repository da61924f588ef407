package notation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"

	"github.com/countersign/countersign/verify"
)

// verifyTimeout bounds the examination of one subject with all its signatures
// and revocation checks.
const verifyTimeout = time.Minute

// Config is a trust root with the conditions of trust.
type Config struct {
	TrustStore TrustStore
	// Identities are the trusted subjects, "x509.subject: C=US, ST=WA,
	// O=Acme": each part has to be in the certificate's subject. C, ST and O
	// are needed. "*: WHY" trusts whatever the trust store's authorities issue,
	// and says why in every record.
	Identities []string
	// Level is strict, permissive or audit; empty is strict.
	Level      string
	Revocation Revocation
}

// TrustStore holds PEM files' bytes. A certificate that is not an authority's is
// refused: an anchor that can sign images itself cannot be revoked.
type TrustStore struct {
	CA               [][]byte // for the signing scheme notary.x509
	SigningAuthority [][]byte // for notary.x509.signingAuthority
	TSA              [][]byte // for timestamps
}

// Revocation says how the revocation of certificates is checked.
type Revocation struct {
	// Mode is strict (an unknown status leaves the question open), soft (it is
	// a warning) or skip (nothing is checked); empty is strict.
	Mode string
	// CRLs are certificate revocation lists, PEM or DER.
	CRLs [][]byte
	// CRLDir is a directory of such files (*.crl, *.pem, *.der), which is read
	// again every minute.
	CRLDir string
}

// The levels and revocation modes.
const (
	levelStrict     = "strict"
	levelPermissive = "permissive"
	levelAudit      = "audit"

	modeStrict = "strict"
	modeSoft   = "soft"
	modeSkip   = "skip"
)

// Verifier vouches for images signed under one Config.
type Verifier struct {
	source     verify.Source
	store      *trustStore
	revocation *revocation
	judge      notation.Verifier
	level      string
	identities []string
	anyone     string // why any identity is trusted; empty if only the listed are
}

// New reads trust store, identities and revocation lists, and finds all
// mistakes in them. src may be nil to find mistakes only.
func New(c Config, src verify.Source) (*Verifier, error) {
	store, storeErr := newTrustStore(c.TrustStore)
	identities, anyone, identityErr := parseIdentities(c.Identities)
	level := cmp.Or(c.Level, levelStrict)
	var levelErr error
	if !slices.Contains([]string{levelStrict, levelPermissive, levelAudit}, level) {
		levelErr = fmt.Errorf("level: %q is not one: write strict, permissive or audit", c.Level)
	}
	rev, revErr := newRevocation(c.Revocation, store)
	if err := errors.Join(storeErr, identityErr, levelErr, revErr); err != nil {
		return nil, err
	}
	v := &Verifier{source: src, store: store, revocation: rev, level: level, identities: identities, anyone: anyone}
	policy := &trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{
		Name: "rule", RegistryScopes: []string{"*"}, TrustStores: store.names(), TrustedIdentities: identities,
		SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: level, Override: rev.override()},
	}}}
	var err error
	v.judge, err = verifier.NewWithOptions(policy, store, nil, verifier.VerifierOptions{
		RevocationCodeSigningValidator: rev.codeSigning(), RevocationTimestampingValidator: rev.timestamping()})
	if err != nil {
		return nil, fmt.Errorf("notation: %w", err)
	}
	return v, nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(ctx context.Context, s verify.Subject) (verify.Evidence, error) {
	if err := verify.CheckDigest(s.Digest); err != nil {
		return verify.Evidence{}, &verify.Refusal{Reason: verify.Malformed, Message: "the digest is malformed", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	v.revocation.refresh()
	generation := v.revocation.generation()
	found, missed := v.collect(ctx, s)
	if err := ctx.Err(); err != nil {
		return verify.Evidence{}, fmt.Errorf("looking for signatures of %s: %w", s.Digest, err)
	}
	counted := best(found)
	switch {
	case len(counted) > 0:
		return v.evidence(found, counted, generation), nil
	case missed != nil:
		return verify.Evidence{}, fmt.Errorf("reading the signatures of %s: %w", s.Digest, missed)
	}
	return verify.Evidence{}, v.refusal(s, found)
}

// Scope implements verify.Scoped: verdicts rest on the revocation lists too.
func (v *Verifier) Scope(verify.Subject) verify.Scope {
	return verify.Scope{Generation: v.revocation.generation()}
}

// best returns one signature for each signer: if any is without warnings, only
// such, and of these the one in force longest.
func best(found []examined) []examined {
	clean := slices.ContainsFunc(found, func(x examined) bool { return x.Counts && len(x.warnings) == 0 })
	var out []examined
	for _, x := range found {
		if !x.Counts || clean && len(x.warnings) > 0 {
			continue
		}
		i := slices.IndexFunc(out, func(o examined) bool { return o.signer.ID == x.signer.ID })
		switch {
		case i < 0:
			out = append(out, x)
		case earlier(out[i].expires, x.expires).Equal(out[i].expires) && !out[i].expires.IsZero():
			out[i] = x
		}
	}
	slices.SortFunc(out, func(a, b examined) int { return strings.Compare(a.signer.ID, b.signer.ID) })
	return out
}

func (v *Verifier) evidence(found, counted []examined, generation string) verify.Evidence {
	e := verify.Evidence{Generation: generation}
	for _, x := range found {
		e.Found = append(e.Found, x.Finding)
	}
	for _, x := range counted {
		e.Signers = append(e.Signers, x.signer)
		e.Expires = earlier(e.Expires, x.expires)
		for _, w := range x.warnings {
			if !slices.Contains(e.Warnings, w) {
				e.Warnings = append(e.Warnings, w)
			}
		}
	}
	if v.anyone != "" {
		e.Warnings = append(e.Warnings, "any identity is trusted: "+v.anyone)
	}
	if until := v.revocation.recheck(); !until.IsZero() {
		e.Expires = earlier(e.Expires, until)
	}
	return e
}

// refusal says what was found and what was wanted.
func (v *Verifier) refusal(s verify.Subject, found []examined) *verify.Refusal {
	wanted := "wanted one by " + v.wanted()
	if len(found) == 0 {
		return verify.Refuse(verify.Unsigned, "%s has no Notary Project signature; %s", s, wanted)
	}
	worst := slices.MaxFunc(found, func(a, b examined) int { return cmp.Compare(rank(a), rank(b)) })
	r := &verify.Refusal{Reason: worst.Reason, Err: worst.err}
	count := "1 Notary Project signature"
	if len(found) > 1 {
		count = fmt.Sprintf("%d Notary Project signatures, none of which counts", len(found))
	}
	r.Message = fmt.Sprintf("%s has %s: %s; %s", s, count, worst.Message, wanted)
	for _, x := range found {
		r.Found = append(r.Found, x.Finding)
	}
	return r
}

// rank orders findings by how much they tell. Garbage says least: anybody who
// can push can add some.
func rank(x examined) int {
	if x.Reason == verify.Malformed {
		return -1
	}
	return slices.Index(verify.Reasons(), x.Reason)
}

// maxNamed bounds how many identities a message names.
const maxNamed = 3

func (v *Verifier) wanted() string {
	if v.anyone != "" {
		return "anybody whom the trust store's authorities certify"
	}
	names := slices.Clone(v.identities[:min(len(v.identities), maxNamed)])
	if n := len(v.identities) - maxNamed; n > 0 {
		names = append(names, fmt.Sprintf("%d more", n))
	}
	return strings.Join(names, " or ")
}

// earlier returns the earlier of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
