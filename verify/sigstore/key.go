package sigstore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
)

// Sizes of RSA keys that are accepted: below 2048 bits they can be broken,
// above 8192 one verification costs milliseconds.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// Key is a trusted public key.
type Key struct {
	// Name is what messages call it.
	Name string
	// PEM is one SubjectPublicKeyInfo block: ECDSA P-256 or P-384, Ed25519, or
	// RSA of 2048 to 8192 bits.
	PEM []byte
	// NotBefore and NotAfter bound when the key counts; zero is no bound.
	NotBefore, NotAfter time.Time
}

// key is a Key that has been read.
type key struct {
	Key
	id        string // "key:sha256:…" of the SubjectPublicKeyInfo
	hint      string // as cosign writes it into bundles
	verifiers []signature.Verifier
}

func parseKey(k Key) (*key, error) {
	block, rest := pem.Decode(k.PEM)
	switch {
	case block == nil:
		return nil, errors.New("it is not PEM: give a file that begins with -----BEGIN PUBLIC KEY-----")
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("it has more than one PEM block: give one key a file")
	case block.Type == "CERTIFICATE":
		return nil, errors.New("it is a certificate, not a public key: extract the key with openssl x509 -pubkey")
	case block.Type != "PUBLIC KEY":
		return nil, fmt.Errorf("it is a PEM block of type %q: give the public key (-----BEGIN PUBLIC KEY-----), never a private one", block.Type)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it does not hold a public key: %w", err)
	}
	verifiers, err := verifiersOf(public)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(block.Bytes)
	return &key{Key: k, id: "key:sha256:" + hex.EncodeToString(sum[:]), hint: base64.StdEncoding.EncodeToString(sum[:]), verifiers: verifiers}, nil
}

// verifiersOf returns a verifier for each way in which the tools use a kind of
// key: cosign signs with SHA-256 whatever the ECDSA key, newer signers take a
// P-384 key's own hash; cosign signs with Ed25519ph, others with plain Ed25519.
func verifiersOf(public crypto.PublicKey) ([]signature.Verifier, error) {
	with := []signature.LoadOption{options.WithHash(crypto.SHA256)}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		switch p.Curve {
		case elliptic.P256():
		case elliptic.P384():
			with = append(with, options.WithHash(crypto.SHA384))
		default:
			return nil, fmt.Errorf("it is an ECDSA key on %s: use P-256 or P-384", p.Curve.Params().Name)
		}
	case ed25519.PublicKey:
		with = append(with, options.WithED25519ph())
	case *rsa.PublicKey:
		if bits := p.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return nil, fmt.Errorf("it is an RSA key of %d bits: use %d to %d", bits, minRSABits, maxRSABits)
		}
	default:
		return nil, fmt.Errorf("it is a %T, which no signer of images uses: use ECDSA, Ed25519 or RSA", public)
	}
	var verifiers []signature.Verifier
	for _, o := range with {
		v, err := signature.LoadVerifierWithOpts(public, o)
		if err != nil {
			return nil, fmt.Errorf("it cannot verify signatures: %w", err)
		}
		verifiers = append(verifiers, v)
	}
	return verifiers, nil
}

// VerifySignature implements signature.Verifier: any of the key's hashes may
// have been used.
func (k *key) VerifySignature(sig, message io.Reader, opts ...signature.VerifyOption) error {
	s, err := io.ReadAll(sig)
	if err != nil {
		return err
	}
	m, err := io.ReadAll(message)
	if err != nil {
		return err
	}
	for _, v := range k.verifiers {
		if err = v.VerifySignature(bytes.NewReader(s), bytes.NewReader(m), opts...); err == nil {
			return nil
		}
	}
	return err
}

// PublicKey implements signature.Verifier.
func (k *key) PublicKey(opts ...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return k.verifiers[0].PublicKey(opts...)
}

// ValidAtTime implements root.TimeConstrainedVerifier.
func (k *key) ValidAtTime(t time.Time) bool {
	return (k.NotBefore.IsZero() || !t.Before(k.NotBefore)) && (k.NotAfter.IsZero() || t.Before(k.NotAfter))
}

// String returns the name with enough of the fingerprint to tell keys apart.
func (k *key) String() string {
	const prefix, shown = len("key:sha256:"), 12
	return fmt.Sprintf("%s (key %s…)", k.Name, k.id[prefix:prefix+shown])
}
