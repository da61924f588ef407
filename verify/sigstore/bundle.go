package sigstore

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/countersign/countersign/verify"
)

// predicateSign is the predicate type of a signature of an image; every other
// is that of an attestation about it.
const predicateSign = "https://sigstore.dev/cosign/sign/v1"

// annotationPredicate is what cosign writes beside a bundle. It is not signed.
const annotationPredicate = "dev.sigstore.bundle.predicateType"

const payloadInToto = "application/vnd.in-toto+json"

// bundleLayer examines the bundle in a referrer's layer.
func (c *collector) bundleLayer(ctx context.Context, m *verify.Manifest, layer ocispec.Descriptor) {
	// A label that says "attestation" saves reading what may be large. A wrong
	// label can only keep a signature from counting.
	if p := m.Annotations[annotationPredicate]; p != "" && p != predicateSign {
		c.attestation("sigstore bundle", layer, p)
		return
	}
	body, ok := c.read(ctx, "sigstore bundle", layer, maxBundle)
	if !ok {
		return
	}
	x := examined{Finding: verify.Finding{Format: "sigstore bundle", Digest: layer.Digest}}
	b, err := parseBundle(body)
	if err != nil {
		x.Reason, x.Message = verify.Malformed, "it is not a valid bundle"
	} else {
		c.judgeBundle(&x, b)
	}
	c.add(x)
}

// parseBundle reads bundles v0.1 to v0.3, strictly.
func parseBundle(body []byte) (*bundle.Bundle, error) {
	if err := verify.CheckJSON(body); err != nil {
		return nil, err
	}
	var b bundle.Bundle
	if err := b.UnmarshalJSON(body); err != nil {
		return nil, err
	}
	if env := b.GetDsseEnvelope(); env != nil {
		if env.GetPayloadType() != payloadInToto {
			return nil, errors.New("its payload is not an in-toto statement")
		}
		return &b, verify.CheckJSON(env.GetPayload())
	}
	return &b, nil
}

func (c *collector) judgeBundle(x *examined, b *bundle.Bundle) {
	if v, err := b.Version(); err == nil {
		x.Format = "sigstore bundle " + v
	}
	content, err := b.VerificationContent()
	if err != nil {
		x.Reason, x.Message = verify.Malformed, "it has no verification material"
		return
	}
	hint := ""
	switch {
	case content.Certificate() != nil:
		x.Signer, x.Reason, x.Message = "a certificate", verify.UntrustedSigner, "it was made with a certificate; only keys are trusted"
		return
	case content.PublicKey() != nil:
		hint = content.PublicKey().Hint()
	}
	signature, err := b.SignatureContent()
	if err != nil {
		x.Reason, x.Message = verify.Malformed, "it has no signature"
		return
	}
	var named *key
	for _, k := range c.keys {
		if k.hint == hint {
			named = k
		}
		if k.made(signature, content, c.subject) {
			x.key = k
			break
		}
	}
	switch {
	case x.key != nil:
		x.Signer = x.key.String()
		c.judgeStatement(x, b)
	case named != nil:
		x.Signer, x.Reason, x.Message = named.String(), verify.BadSignature, "it claims to be "+named.String()+"'s, but its signature does not verify"
	default:
		x.Signer, x.Reason, x.Message = "an unknown key", verify.UntrustedSigner, "it was made by none of the trusted keys"
	}
}

// material is one key as sigstore-go's trusted material, whatever the hint: it
// is the signer's choice.
func (k *key) material() root.TrustedMaterial {
	return root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return k, nil })
}

// made reports whether the key made the signature, whatever the statement says.
// A message signature has no statement: it is over the digest itself.
func (k *key) made(s sgverify.SignatureContent, content sgverify.VerificationContent, subject verify.Subject) bool {
	if s.EnvelopeContent() != nil {
		return sgverify.VerifySignature(s, content, k.material()) == nil
	}
	sum, err := hex.DecodeString(subject.Digest.Encoded())
	if err != nil {
		return false
	}
	digests := []sgverify.ArtifactDigest{{Algorithm: subject.Digest.Algorithm().String(), Digest: sum}}
	return sgverify.VerifySignatureWithArtifactDigests(s, content, k.material(), digests) == nil
}

// judgeStatement lets sigstore-go verify the bundle whole, for this subject,
// and then demands that it is a signature.
func (c *collector) judgeStatement(x *examined, b *bundle.Bundle) {
	sum, err := hex.DecodeString(c.subject.Digest.Encoded())
	if err != nil {
		x.Reason, x.Message = verify.Malformed, "the subject's digest is malformed"
		return
	}
	verifier, err := sgverify.NewVerifier(x.key.material(), sgverify.WithNoObserverTimestamps())
	if err != nil {
		x.Reason, x.Message = verify.Malformed, "it cannot be verified"
		return
	}
	artifact := sgverify.WithArtifactDigest(c.subject.Digest.Algorithm().String(), sum)
	result, err := verifier.Verify(b, sgverify.NewPolicy(artifact, sgverify.WithKey()))
	switch {
	case err != nil:
		x.Reason, x.Message = verify.DigestMismatch, "it is "+x.Signer+"'s statement about something else"
	case result.Statement != nil && result.Statement.GetPredicateType() != predicateSign:
		x.Reason, x.Message = verify.Unsigned, "it is an attestation, not a signature"
		x.Details = map[string]string{"predicate type": clip(result.Statement.GetPredicateType())}
	default:
		x.countIfValid(time.Now())
	}
}
