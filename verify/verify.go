// Package verify holds the words that every signature scheme and everything
// above it share: what is asked about (Subject), who answers (Verifier), and
// the three answers.
//
// A Verifier is one scheme with one trust root. Asked about a Subject it
// returns Evidence (the trust root vouches for it), a *Refusal (the subject
// was examined and is not vouched for), or any other error (the question could
// not be answered). There is no fourth answer and no boolean: "could not
// check" is neither "yes" nor "unsigned".
//
// The schemes live in packages below this one: digests, sigstore, notary.
// Each has the same four things: a package comment that is its specification,
// Config, New and Verify. A scheme reads signatures through a Source, which
// hashes and bounds everything it returns.
//
// The package decides nothing about rules (that is policy) and knows nothing
// of HTTP servers. It trusts the trust roots it is configured with and, for
// expiry, the clock. It does not trust registries, trust servers or the network.
package verify

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Subject is what a client asks for: one manifest or index of one repository.
// It is comparable.
type Subject struct {
	// Registry is the origin's name ("docker.io", "registry.internal:5000"),
	// never the name of a mirror.
	Registry string
	// Repository is the name within the registry ("library/alpine").
	Repository string
	// Tag is the tag that was asked for; empty for a pull by digest.
	Tag string
	// MediaType is that of the manifest's body, not what a header claimed.
	MediaType string
	// Digest and Size are computed from the bytes that would be served.
	Digest digest.Digest
	Size   int64
}

// Name returns the full repository name, "docker.io/library/alpine". It is
// the form that patterns match, Source takes and Notary calls GUN.
func (s Subject) Name() string { return s.Registry + "/" + s.Repository }

// String returns the reference as a person writes it,
// "docker.io/library/alpine:3.22@sha256:…".
func (s Subject) String() string {
	name := s.Name()
	if s.Tag != "" {
		name += ":" + s.Tag
	}
	if s.Digest != "" {
		name += "@" + s.Digest.String()
	}
	return name
}

// A Verifier is one scheme with one trust root. Implementations are safe for
// concurrent use.
type Verifier interface {
	// Verify returns the evidence that the trust root vouches for s. If s was
	// examined and is not vouched for, the error is a *Refusal. Any other
	// error means the question could not be answered: never a reason to serve s.
	Verify(ctx context.Context, s Subject) (Evidence, error)
}

// Scoped is implemented by a Verifier whose verdict rests on more than the
// subject's digest and the verifier's configuration. A verdict is remembered
// only for as long as its Scope stays the same.
type Scoped interface {
	// Scope is asked before every use of a remembered verdict: it must be
	// cheap and must not block.
	Scope(s Subject) Scope
}

// Scope says what a verdict rests on besides the digest.
type Scope struct {
	// Tag is set if the verdict depends on the subject's tag.
	Tag bool
	// Generation names the state of the trust metadata that applies to the
	// subject. It changes when a verdict could change, and only then; it is
	// empty while no metadata has been loaded.
	Generation string
}

// Resolver is implemented by a Verifier whose trust metadata says itself what a
// tag means.
type Resolver interface {
	// Resolve returns the digest and size that the tag of the repository,
	// named in full, means. Errors are those of Verify.
	Resolve(ctx context.Context, repository, tag string) (ocispec.Descriptor, error)
}

// MetadataSource is implemented by a Verifier that can pass its verified trust
// metadata on, to clients that verify it again.
type MetadataSource interface {
	// Raw returns a file of a repository's metadata by the name that its own
	// protocol gives it. An absent one is an error that wraps fs.ErrNotExist.
	Raw(ctx context.Context, repository, name string) ([]byte, error)
}

// Evidence says who vouches for a subject. The zero value vouches for nothing
// and is never returned with a nil error.
type Evidence struct {
	// Signers are the distinct authorities that vouch; at least one.
	Signers []Signer
	// Expires is when the evidence has to be looked at again; zero if it does
	// not expire by itself.
	Expires time.Time
	// Generation is the Scope.Generation that the evidence rests on.
	Generation string
	// Found lists everything that was examined, for people.
	Found []Finding
	// Warnings are put into every decision record that rests on the evidence.
	Warnings []string
}

// Signer is one authority: a key, an identity, a role.
type Signer struct {
	// ID is the same for the same authority in every verifier and is never
	// chosen by the signer: "key:sha256:…" (of the SubjectPublicKeyInfo),
	// "identity:<issuer>#<subject>". A threshold counts each ID once.
	ID string
	// Name is what the configuration calls it, or how it calls itself.
	Name string
	// SignedAt is when it signed, by a clock that the trust root vouches for;
	// zero if unknown.
	SignedAt time.Time
}

// Finding is one signature, attestation or trusted target that was examined.
type Finding struct {
	// Format names what was found: "cosign signature", "sigstore bundle v0.3".
	Format string `json:"format"`
	// Digest is that of the manifest or blob it was read from.
	Digest digest.Digest `json:"digest,omitempty"`
	// Signer is who signed, or claims to have signed, in words.
	Signer string `json:"signer,omitempty"`
	// Counts is set if it was accepted as evidence.
	Counts bool `json:"counts"`
	// Reason and Message say why it does not count.
	Reason  Reason `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Details are further facts for inspect, by name ("issuer", "log index").
	Details map[string]string `json:"details,omitempty"`
}

// Source is how a scheme reads signatures: through the same hashed, bounded
// content store that clients are served from. Repositories are named in full
// (Subject.Name). An absent thing is an error that wraps fs.ErrNotExist.
type Source interface {
	// Resolve asks the upstream what the tag means now, without any tag cache:
	// a stale answer would hide a new signature.
	Resolve(ctx context.Context, repository, tag string) (ocispec.Descriptor, error)
	// Read returns the bytes of a manifest (if the descriptor's media type is
	// one) or blob. They have the descriptor's digest and size. The caller
	// bounds the size by looking at the descriptor first.
	Read(ctx context.Context, repository string, d ocispec.Descriptor) ([]byte, error)
	// Referrers returns the manifests that may hold signatures or attestations
	// of the subject: the union of the referrers API, the fallback tag
	// sha256-<hex> and the tags sha256-<hex>.sig and .att, without duplicates
	// and bounded in number. Nothing in it is trusted, neither artifact type
	// nor annotations: read each manifest and check its subject. If a part
	// could not be read, the descriptors that could are returned with an error.
	Referrers(ctx context.Context, repository string, subject digest.Digest) ([]ocispec.Descriptor, error)
}

// Refusal is the error for a subject that was examined and is not vouched for.
type Refusal struct {
	// Reason is the stable word: metric label and documentation anchor.
	Reason Reason
	// Message is one sentence for the client. It holds no secrets and no text
	// of an attacker's choice beyond names that passed the OCI grammar.
	Message string
	// Found lists what was examined, for people.
	Found []Finding
	// Err is the cause, for the log only.
	Err error
}

// Refuse returns a *Refusal with a formatted message.
func Refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Error returns the reason word and the message.
func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Message }

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }

// Reason is a stable word for why something is not served. docs/reasons.md has
// a paragraph of advice for each.
type Reason string

// The reason words, from the mildest to the most telling: where several
// verifiers refuse for different reasons, the last in this list is reported.
const (
	NoRule          Reason = "no-rule"          // no rule matches the repository
	UnknownUpstream Reason = "unknown-upstream" // the registry is not configured
	NotReferenced   Reason = "not-referenced"   // no admitted manifest of the repository refers to the blob
	Unsigned        Reason = "unsigned"         // no signature was found
	UntrustedSigner Reason = "untrusted-signer" // signatures, but by nobody who is trusted
	BelowThreshold  Reason = "below-threshold"  // too few distinct authorities vouch
	ConditionFailed Reason = "condition-failed" // an attestation does not meet its condition
	Expired         Reason = "expired"          // the evidence or trust metadata has expired, or is not valid yet
	Revoked         Reason = "revoked"          // a certificate or signer has been revoked
	Disagreement    Reason = "disagreement"     // schemes that must agree name different digests
	DigestMismatch  Reason = "digest-mismatch"  // bytes or a signature speak of another digest
	BadSignature    Reason = "bad-signature"    // a trusted key's signature does not verify
	Rollback        Reason = "rollback"         // older trust metadata or an older image than seen before
	Malformed       Reason = "malformed"        // a document is not what its format demands
)

// Reasons returns all reason words, from the mildest to the most telling.
func Reasons() []Reason {
	return []Reason{NoRule, UnknownUpstream, NotReferenced, Unsigned, UntrustedSigner, BelowThreshold, ConditionFailed,
		Expired, Revoked, Disagreement, DigestMismatch, BadSignature, Rollback, Malformed}
}
