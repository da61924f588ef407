package notation

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
)

// judgeEnvelope verifies one envelope. The error is for a question that could
// not be answered.
func (v *Verifier) judgeEnvelope(ctx context.Context, s verify.Subject, mediaType string, body []byte) (x examined, err error) {
	defer func() {
		// A crash on a hostile envelope must not stop the process: it is one
		// more that does not count.
		if p := recover(); p != nil {
			x, err = reject(verify.Malformed, "it crashes the parser", fmt.Errorf("panic: %v", p)), nil
		}
	}()
	chain, err := chainOf(mediaType, body)
	if err != nil {
		return reject(verify.Malformed, "it is malformed: "+err.Error(), err), nil
	}
	notes := &notes{}
	outcome, err := v.judge.Verify(context.WithValue(ctx, notesKey{}, notes),
		ocispec.Descriptor{MediaType: s.MediaType, Digest: s.Digest, Size: s.Size}, body,
		notation.VerifierVerifyOptions{ArtifactReference: s.Name() + "@" + s.Digest.String(), SignatureMediaType: mediaType})
	if ctx.Err() != nil {
		return examined{}, ctx.Err()
	}
	if err != nil {
		x, err = v.failed(outcome, chain, notes, err)
	} else {
		x, err = v.passed(outcome, s, notes)
	}
	x.Signer = clip(chain[0].Subject.String())
	x.Details = map[string]string{"issuer": clip(chain[0].Issuer.String()), "certificate ends": chain[0].NotAfter.UTC().Format(time.RFC3339)}
	return x, err
}

func reject(reason verify.Reason, message string, err error) examined {
	return examined{Finding: verify.Finding{Reason: reason, Message: message}, err: err}
}

// failed maps what the library refused to a reason.
func (v *Verifier) failed(outcome *notation.VerificationOutcome, chain []*x509.Certificate, notes *notes, cause error) (examined, error) {
	if outcome == nil {
		return examined{}, cause
	}
	for _, r := range outcome.VerificationResults {
		if r.Error == nil || r.Action != trustpolicy.ActionEnforce {
			continue
		}
		switch r.Type {
		case trustpolicy.TypeIntegrity:
			return v.broken(chain, r.Error), nil
		case trustpolicy.TypeAuthenticity:
			return v.stranger(outcome, r.Error), nil
		case trustpolicy.TypeExpiry:
			return reject(verify.Expired, "it has expired", r.Error), nil
		case trustpolicy.TypeAuthenticTimestamp:
			return v.untimely(outcome, notes, r.Error)
		case trustpolicy.TypeRevocation:
			return revoked(notes, r.Error)
		}
	}
	if outcome.EnvelopeContent != nil && needsMore(outcome.EnvelopeContent) {
		return reject(verify.Malformed, "it has a critical attribute or demands a plugin that is not known here", cause), nil
	}
	if outcome.EnvelopeContent != nil && payloadOf(outcome.EnvelopeContent) != nil {
		return reject(verify.DigestMismatch, "what was signed is another manifest: digest, size or media type differ", cause), nil
	}
	return reject(verify.Malformed, "its payload is malformed", cause), nil
}

// broken tells a trusted signer's broken signature from garbage that anybody
// could have pushed.
func (v *Verifier) broken(chain []*x509.Certificate, err error) examined {
	if !errors.As(err, new(*signature.SignatureIntegrityError)) {
		return reject(verify.Malformed, "it is not a valid envelope", err)
	}
	if v.store.anchor(chain, "") == nil {
		return reject(verify.UntrustedSigner, "it does not verify, and its certificates do not lead to the trust store", err)
	}
	return reject(verify.BadSignature, "the signature does not verify", err)
}

func (v *Verifier) stranger(outcome *notation.VerificationOutcome, err error) examined {
	info := outcome.EnvelopeContent.SignerInfo
	if v.store.anchor(info.CertificateChain, info.SignedAttributes.SigningScheme) == nil {
		return reject(verify.UntrustedSigner, "its certificates do not lead to the trust store", err)
	}
	return reject(verify.UntrustedSigner, "its signer is not a trusted identity", err)
}

// untimely: either the certificates are not valid now, or the timestamp does
// not prove that they were valid then.
func (v *Verifier) untimely(outcome *notation.VerificationOutcome, notes *notes, err error) (examined, error) {
	unknown, gone := notes.timestamping()
	switch {
	case gone:
		return reject(verify.Revoked, "a certificate of its timestamp authority is revoked", err), nil
	case unknown != nil:
		return examined{}, fmt.Errorf("the revocation of the timestamp authority: %w", unknown)
	}
	now := time.Now()
	for _, cert := range outcome.EnvelopeContent.SignerInfo.CertificateChain {
		switch {
		case now.Before(cert.NotBefore):
			return reject(verify.Expired, "a certificate is not valid yet", err), nil
		case now.After(cert.NotAfter):
			return reject(verify.Expired, "a certificate has expired, and no trusted timestamp shows that it had not when it signed", err), nil
		}
	}
	if outcome.EnvelopeContent.SignerInfo.SignedAttributes.SigningScheme == signature.SigningSchemeX509SigningAuthority {
		return reject(verify.Expired, "a certificate was not valid when it signed", err), nil
	}
	return reject(verify.UntrustedSigner, "no trusted timestamp authority vouches for when it was signed", err), nil
}

func revoked(notes *notes, err error) (examined, error) {
	unknown, gone := notes.signing()
	if !gone {
		return examined{}, fmt.Errorf("the revocation of a signer's certificate: %w", errors.Join(unknown, err))
	}
	return reject(verify.Revoked, "a certificate of its signer is revoked", err), nil
}

// passed checks what the library does not, and says what it only logged.
func (v *Verifier) passed(outcome *notation.VerificationOutcome, s verify.Subject, notes *notes) (examined, error) {
	content := outcome.EnvelopeContent
	info := content.SignerInfo
	anchor := v.store.anchor(info.CertificateChain, info.SignedAttributes.SigningScheme)
	if anchor == nil {
		return v.stranger(outcome, errors.New("the level does not enforce authenticity")), nil
	}
	if needsMore(content) {
		return reject(verify.Malformed, "it has a critical attribute or demands a plugin that is not known here", nil), nil
	}
	target := payloadOf(content)
	if target == nil {
		return reject(verify.Malformed, "its payload is malformed", nil), nil
	}
	if target.Digest != s.Digest || target.Size != s.Size || target.MediaType != s.MediaType {
		return reject(verify.DigestMismatch, "what was signed is another manifest: digest, size or media type differ", nil), nil
	}
	x := examined{Finding: verify.Finding{Counts: true}, signer: signerOf(anchor, info.CertificateChain[0]), expires: v.until(&info)}
	x.signer.SignedAt = v.signedAt(&info)
	x.warnings = v.warnings(outcome, notes)
	return x, nil
}

// needsMore reports whether the signature demands what is not known: such a
// signature must not count (signature specification, "Extended attributes").
func needsMore(content *signature.EnvelopeContent) bool {
	for _, a := range content.SignerInfo.SignedAttributes.ExtendedAttributes {
		if a.Critical {
			return true
		}
	}
	return false
}

// target is what was signed.
type target struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

// payloadOf returns nil for a payload that is not exactly one target. Keys twice
// are refused as everywhere.
func payloadOf(content *signature.EnvelopeContent) *target {
	if verify.CheckJSON(content.Payload.Content) != nil {
		return nil
	}
	var payload struct {
		TargetArtifact *target `json:"targetArtifact"`
	}
	if json.Unmarshal(content.Payload.Content, &payload) != nil || payload.TargetArtifact == nil || verify.CheckDigest(payload.TargetArtifact.Digest) != nil {
		return nil
	}
	return payload.TargetArtifact
}

// until returns when the signature has to be looked at again: at its expiry,
// and where the time rests on now, when the first certificate ends. What has
// ended and is only warned of does not end again.
func (v *Verifier) until(info *signature.SignerInfo) time.Time {
	var until time.Time
	now := time.Now()
	bound := func(t time.Time) {
		if t.After(now) {
			until = earlier(until, t)
		}
	}
	bound(info.SignedAttributes.Expiry)
	if info.SignedAttributes.SigningScheme == signature.SigningSchemeX509 && !v.store.timestamps() {
		for _, cert := range info.CertificateChain {
			bound(cert.NotBefore)
			bound(cert.NotAfter)
		}
	}
	return until
}

// signedAt is known only from a signing authority: a trusted clock.
func (v *Verifier) signedAt(info *signature.SignerInfo) time.Time {
	if info.SignedAttributes.SigningScheme == signature.SigningSchemeX509SigningAuthority {
		return info.SignedAttributes.SigningTime
	}
	return time.Time{}
}

// warnings says what the level or the revocation mode lets pass.
func (v *Verifier) warnings(outcome *notation.VerificationOutcome, notes *notes) []string {
	var out []string
	for _, r := range outcome.VerificationResults {
		if r.Error == nil || r.Action != trustpolicy.ActionLog {
			continue
		}
		switch r.Type {
		case trustpolicy.TypeAuthenticity:
			out = append(out, "level "+v.level+": the signer is not a trusted identity")
		case trustpolicy.TypeExpiry:
			out = append(out, "level "+v.level+": the signature has expired")
		case trustpolicy.TypeAuthenticTimestamp:
			out = append(out, "level "+v.level+": the certificates are not shown to have been valid when they signed")
		case trustpolicy.TypeRevocation:
			if _, gone := notes.signing(); gone {
				out = append(out, "level "+v.level+": a certificate of the signer is revoked")
			} else {
				out = append(out, "level "+v.level+": the revocation status of the signer's certificates is unknown")
			}
		default:
			out = append(out, "level "+v.level+": "+string(r.Type)+" does not hold")
		}
	}
	return append(out, notes.passed()...)
}
