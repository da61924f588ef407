package sigstore

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
)

// Annotations of a legacy signature's layer (cosign SIGNATURE_SPEC.md).
const (
	annotationSignature   = "dev.cosignproject.cosign/signature"
	annotationCertificate = "dev.sigstore.cosign/certificate"
)

// simpleSigningType is the only type of payload that is a signature of an image.
const simpleSigningType = "cosign container image signature"

// legacy examines one layer of a legacy signature manifest.
func (c *collector) legacy(ctx context.Context, layer ocispec.Descriptor) {
	const format = "cosign signature"
	payload, ok := c.read(ctx, format, layer, maxPayload)
	if !ok {
		return
	}
	x := examined{Finding: verify.Finding{Format: format, Digest: layer.Digest}}
	sig, err := base64.StdEncoding.DecodeString(layer.Annotations[annotationSignature])
	switch {
	case err != nil || len(sig) == 0:
		x.Reason, x.Message = verify.Malformed, "its signature is not base64"
	default:
		x.key = c.signerOf(sig, payload)
		c.judgeLegacy(&x, payload, layer.Annotations[annotationCertificate] != "")
	}
	c.add(x)
}

// signerOf returns the trusted key that made the signature, or nil. A legacy
// signature does not say which key that is: each is tried.
func (v *Verifier) signerOf(sig, message []byte) *key {
	for _, k := range v.keys {
		if k.VerifySignature(bytes.NewReader(sig), bytes.NewReader(message)) == nil {
			return k
		}
	}
	return nil
}

func (c *collector) judgeLegacy(x *examined, payload []byte, certified bool) {
	if x.key == nil {
		x.Signer, x.Reason, x.Message = "an unknown key", verify.UntrustedSigner, "it was made by none of the trusted keys"
		if certified {
			x.Signer, x.Message = "a certificate", "it was made with a certificate; only keys are trusted"
		}
		return
	}
	x.Signer = x.key.String()
	// What is not signed by a trusted key is not even parsed.
	claimed, err := parsePayload(payload)
	switch {
	case err != nil:
		x.Reason, x.Message = verify.Malformed, "its payload is malformed: "+err.Error()
	case claimed != c.subject.Digest:
		x.Reason, x.Message = verify.DigestMismatch, "it is "+x.Signer+"'s signature of another image, "+claimed.String()
	default:
		x.countIfValid(time.Now())
	}
}

// countIfValid counts a signature that is right in everything, if its key is
// valid now: nothing proves when it was made.
func (x *examined) countIfValid(now time.Time) {
	switch {
	case x.key.ValidAtTime(now):
		x.Counts = true
	case now.Before(x.key.NotBefore):
		x.Reason, x.Message = verify.Expired, "its key is not valid before "+x.key.NotBefore.Format(time.RFC3339)
	default:
		x.Reason, x.Message = verify.Expired, "its key was valid until "+x.key.NotAfter.Format(time.RFC3339)
	}
}

// parsePayload reads a simple signing payload strictly and returns the digest
// it speaks of. docker-reference is not looked at: images are copied between
// registries with their signatures.
func parsePayload(payload []byte) (digest.Digest, error) {
	if err := verify.CheckJSON(payload); err != nil {
		return "", err
	}
	var outer, critical, image map[string]json.RawMessage
	var kind string
	var d digest.Digest
	// Maps, because struct fields would match keys in any case.
	if json.Unmarshal(payload, &outer) != nil || json.Unmarshal(outer["critical"], &critical) != nil ||
		json.Unmarshal(critical["image"], &image) != nil {
		return "", errors.New("it is not a simple signing payload")
	}
	if json.Unmarshal(critical["type"], &kind) != nil || kind != simpleSigningType {
		return "", errors.New("its type is not that of an image signature")
	}
	if json.Unmarshal(image["docker-manifest-digest"], &d) != nil || verify.CheckDigest(d) != nil {
		return "", errors.New("it names no valid digest")
	}
	for name := range critical {
		if name != "identity" && name != "image" && name != "type" {
			return "", errors.New("it has a critical field that is not known")
		}
	}
	return d, nil
}
