// Package sign makes signatures in the formats that verifiers read. It is the
// only package that ever holds a private key, and nothing that `serve` runs
// imports it; a test keeps it so.
//
// It makes cosign's two formats with a static ECDSA P-256 key: the legacy
// signature (cosign SIGNATURE_SPEC.md) and the Sigstore bundle v0.3
// (protobuf-specs v0.5.2, as cosign v3 writes it). It does not store keys, talk
// to registries, or log to transparency logs.
package sign

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// The media types of what this package makes.
const (
	MediaTypeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	MediaTypeBundle        = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// SignatureAnnotation is where a legacy signature manifest's layer carries the
// base64 signature of its payload.
const SignatureAnnotation = "dev.cosignproject.cosign/signature"

// predicateSign is the predicate type of a signature, as opposed to any other
// attestation.
const predicateSign = "https://sigstore.dev/cosign/sign/v1"

// Key is a private signing key.
type Key struct {
	private *ecdsa.PrivateKey
}

// NewKey returns a new random ECDSA P-256 key.
func NewKey() (*Key, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating a signing key: %w", err)
	}
	return &Key{k}, nil
}

// PublicPEM returns the public key as a SubjectPublicKeyInfo PEM block.
func (k *Key) PublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(&k.private.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// sign returns the ASN.1 signature over SHA-256 of the message.
func (k *Key) sign(message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, k.private, sum[:])
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return sig, nil
}

// Legacy returns the simple signing payload for an image and its signature in
// base64, the value of SignatureAnnotation.
func (k *Key) Legacy(repository string, image digest.Digest) (payload []byte, signature string, err error) {
	payload, err = json.Marshal(map[string]any{
		"critical": map[string]any{
			"identity": map[string]string{"docker-reference": repository},
			"image":    map[string]string{"docker-manifest-digest": image.String()},
			"type":     "cosign container image signature",
		},
		"optional": nil,
	})
	if err != nil {
		return nil, "", err
	}
	sig, err := k.sign(payload)
	return payload, base64.StdEncoding.EncodeToString(sig), err
}

// Bundle returns a Sigstore bundle v0.3 that signs an image: a DSSE envelope
// around an in-toto statement with the sign predicate.
func (k *Key) Bundle(image digest.Digest) ([]byte, error) {
	statement, err := json.Marshal(map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"digest": map[string]string{image.Algorithm().String(): image.Encoded()}}},
		"predicateType": predicateSign,
		"predicate":     map[string]any{},
	})
	if err != nil {
		return nil, err
	}
	const payloadType = "application/vnd.in-toto+json"
	// DSSE v1 pre-authentication encoding.
	sig, err := k.sign(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(statement), statement))
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(&k.private.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	hint := sha256.Sum256(der)
	return json.Marshal(map[string]any{
		"mediaType":            MediaTypeBundle,
		"verificationMaterial": map[string]any{"publicKey": map[string]string{"hint": base64.StdEncoding.EncodeToString(hint[:])}},
		"dsseEnvelope": map[string]any{
			"payload":     base64.StdEncoding.EncodeToString(statement),
			"payloadType": payloadType,
			"signatures":  []any{map[string]string{"sig": base64.StdEncoding.EncodeToString(sig)}},
		},
	})
}
