package notary

import (
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
	"math/big"
)

// RSA moduli below 2048 bits are weak, and the reference refuses them; beyond
// 8192 a single verification becomes a way to waste time.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// The key types and signature methods of the format.
const (
	typeECDSA     = "ecdsa"
	typeECDSAx509 = "ecdsa-x509"
	typeRSA       = "rsa"
	typeRSAx509   = "rsa-x509"
	typeEd25519   = "ed25519"

	methodECDSA    = "ecdsa"
	methodPSS      = "rsapss"
	methodPKCS1v15 = "rsapkcs1v15"
	methodEdDSA    = "eddsa"
	methodPyCrypto = "pycrypto-pkcs#1 pss"
)

// key is a public key of a role.
type key struct {
	id     string // hex of the hash of the key object; for a certificate it covers the certificate
	kind   string
	value  []byte           // what "public" decodes to
	public crypto.PublicKey // nil if the key cannot be used
	pem    bool             // a bare key written as PEM: only pycrypto signatures are read with it
	spki   string           // hex of sha256 of the bare SubjectPublicKeyInfo; the same key has the same, whatever it is wrapped in
	docker string           // the "canonical key id" that docker trust shows
}

var errBase64 = errors.New("a value is not base64")

// decodeBase64 is strict: encoding/base64 would skip line breaks.
func decodeBase64(s string) ([]byte, error) {
	for i := range len(s) {
		if s[i] == '\n' || s[i] == '\r' {
			return nil, errBase64
		}
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errBase64
	}
	return b, nil
}

// keyID returns the id of a key object: the hash of its canonical form with
// "private" null.
func keyID(kind string, public []byte) string {
	sum := sha256.Sum256(appendCanonical(nil, object{"keytype": kind,
		"keyval": object{"private": nil, "public": base64.StdEncoding.EncodeToString(public)}}))
	return hex.EncodeToString(sum[:])
}

// parseKey reads a key object. Keys of an unknown type or that do not parse
// are kept without a public key: they sign nothing.
func parseKey(v any) (*key, error) {
	o, err := asObject(v, "keytype", "keyval")
	if err != nil {
		return nil, err
	}
	kind, err := o.string("keytype")
	if err != nil {
		return nil, err
	}
	val, err := asObject(o["keyval"], "private", "public")
	if err != nil {
		return nil, err
	}
	if val["private"] != nil {
		return nil, errors.New("a key has its private part with it")
	}
	text, err := val.string("public")
	if err != nil {
		return nil, err
	}
	public, err := decodeBase64(text)
	if err != nil {
		return nil, err
	}
	return newKey(kind, public), nil
}

func newKey(kind string, public []byte) *key {
	k := &key{id: keyID(kind, public), kind: kind, value: public}
	pub, isPEM, err := publicKey(kind, public)
	if err != nil {
		return k
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return k
	}
	sum := sha256.Sum256(der)
	k.public, k.pem, k.spki = pub, isPEM, hex.EncodeToString(sum[:])
	switch pub.(type) {
	case *ecdsa.PublicKey:
		k.docker = keyID(typeECDSA, der)
	case *rsa.PublicKey:
		k.docker = keyID(typeRSA, der)
	default:
		k.docker = k.id
	}
	return k
}

// publicKey decodes the key that a key object holds and checks that it is of
// the kind that the object says.
func publicKey(kind string, value []byte) (pub crypto.PublicKey, isPEM bool, err error) {
	switch kind {
	case typeEd25519:
		if len(value) != ed25519.PublicKeySize {
			return nil, false, errors.New("an ed25519 key has the wrong length")
		}
		return ed25519.PublicKey(value), false, nil
	case typeECDSAx509, typeRSAx509:
		certs, err := parseCertificates(value)
		if err != nil {
			return nil, false, err
		}
		pub = certs[0].PublicKey
	case typeECDSA, typeRSA:
		der := value
		if block, _ := pem.Decode(value); block != nil && kind == typeRSA {
			der, isPEM = block.Bytes, true
		}
		if pub, err = x509.ParsePKIXPublicKey(der); err != nil {
			return nil, false, fmt.Errorf("a key does not parse: %w", err)
		}
	default:
		return nil, false, errors.New("a key has an unknown type")
	}
	return pub, isPEM, checkStrength(kind, pub)
}

func checkStrength(kind string, pub crypto.PublicKey) error {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		if kind != typeECDSA && kind != typeECDSAx509 {
			return errors.New("a key is not of the type it says")
		}
		if c := pub.Curve; c != elliptic.P256() && c != elliptic.P384() && c != elliptic.P521() {
			return errors.New("an ECDSA key is on an unusual curve")
		}
	case *rsa.PublicKey:
		if kind != typeRSA && kind != typeRSAx509 {
			return errors.New("a key is not of the type it says")
		}
		if n := pub.N.BitLen(); n < minRSABits || n > maxRSABits {
			return fmt.Errorf("an RSA key has %d bits", n)
		}
	default:
		return errors.New("a key has an unknown algorithm")
	}
	return nil
}

// parseCertificates reads a bundle: PEM certificates, leaf first, exactly as
// encoding/pem writes them and nothing else.
func parseCertificates(bundle []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	var again []byte
	for rest := bundle; len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, errors.New("a certificate bundle is not PEM certificates only")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("a certificate does not parse: %w", err)
		}
		certs = append(certs, cert)
		again = append(again, pem.EncodeToMemory(block)...)
	}
	if len(certs) == 0 || string(again) != string(bundle) {
		return nil, errors.New("a certificate bundle is empty or not in the usual form")
	}
	return certs, nil
}

// verifies reports whether sig is this key's signature over message by the
// method, which has to belong to the key's type (CVE-2015-9258).
func (k *key) verifies(method string, message, sig []byte) bool {
	switch pub := k.public.(type) {
	case ed25519.PublicKey:
		return method == methodEdDSA && ed25519.Verify(pub, message, sig)
	case *ecdsa.PublicKey:
		return method == methodECDSA && verifyECDSA(pub, message, sig)
	case *rsa.PublicKey:
		hash := sha256.Sum256(message)
		switch {
		case k.pem == (method == methodPyCrypto) && (method == methodPSS || method == methodPyCrypto):
			opts := &rsa.PSSOptions{SaltLength: sha256.Size, Hash: crypto.SHA256}
			return rsa.VerifyPSS(pub, crypto.SHA256, hash[:], sig, opts) == nil
		case method == methodPKCS1v15 && !k.pem:
			return rsa.VerifyPKCS1v15(pub, crypto.SHA256, hash[:], sig) == nil
		}
	}
	return false
}

// verifyECDSA reads r and s side by side at the curve's width, not ASN.1. The
// hash is SHA-256 whatever the curve.
func verifyECDSA(pub *ecdsa.PublicKey, message, sig []byte) bool {
	half := (pub.Params().BitSize + 7) / 8
	if len(sig) != 2*half {
		return false
	}
	hash := sha256.Sum256(message)
	r, s := new(big.Int).SetBytes(sig[:half]), new(big.Int).SetBytes(sig[half:])
	return ecdsa.Verify(pub, hash[:], r, s)
}
