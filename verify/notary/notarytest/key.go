package notarytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// Key is a key of a role with its private part.
type Key struct {
	Type    string // "ecdsa", "ecdsa-x509", "rsa", "rsa-x509", "ed25519"
	Method  string // what its signatures are labelled and made as
	Public  []byte // what "public" holds
	Private crypto.Signer
	Cert    *x509.Certificate // of the x509 types
	ca      []byte            // PEM of the issuers that are bundled with Cert
}

// NewKey makes a bare key: "ecdsa" (P-256), "rsa" (2048 bits) or "ed25519".
func NewKey(kind string) (*Key, error) {
	switch kind {
	case "ecdsa":
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return WrapKey(private)
	case "rsa":
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		return WrapKey(private)
	case "ed25519":
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return WrapKey(private)
	}
	return nil, fmt.Errorf("notarytest: unknown key type %q", kind)
}

// WrapKey makes a bare key of a private key.
func WrapKey(private crypto.Signer) (*Key, error) {
	if pub, ok := private.Public().(ed25519.PublicKey); ok {
		return &Key{Type: "ed25519", Method: "eddsa", Public: pub, Private: private}, nil
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, err
	}
	if _, ok := private.Public().(*rsa.PublicKey); ok {
		return &Key{Type: "rsa", Method: "rsapss", Public: der, Private: private}, nil
	}
	return &Key{Type: "ecdsa", Method: "ecdsa", Public: der, Private: private}, nil
}

// Certificate returns the template of a certificate as notary makes it: code
// signing, ten years.
func Certificate(commonName string, from time.Time) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(from.UnixNano()), Subject: pkix.Name{CommonName: commonName},
		NotBefore: from, NotAfter: from.AddDate(10, 0, 0), KeyUsage: x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, BasicConstraintsValid: true}
}

// Certify returns the same key in a certificate; issuer is nil for a
// self-signed one, else its certificates are bundled if it is not a root.
func (k *Key) Certify(template *x509.Certificate, issuer *Key) (*Key, error) {
	parent, private := template, k.Private
	out := *k
	if issuer != nil {
		parent, private = issuer.Cert, issuer.Private
		if issuer.Cert.Issuer.String() != issuer.Cert.Subject.String() {
			out.ca = issuer.Public
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, k.Private.Public(), private)
	if err != nil {
		return nil, err
	}
	if out.Cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	out.Type += "-x509"
	out.Public = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), out.ca...)
	return &out, nil
}

// ID returns the key's id in metadata.
func (k *Key) ID() string {
	sum := sha256.Sum256(encode(k.object()))
	return hex.EncodeToString(sum[:])
}

func (k *Key) object() map[string]any {
	return map[string]any{"keytype": k.Type, "keyval": map[string]any{"private": nil, "public": k.Public}}
}

// sign makes the signature that Method says.
func (k *Key) sign(message []byte) ([]byte, error) {
	hash := sha256.Sum256(message)
	switch k.Method {
	case "eddsa":
		return k.Private.Sign(rand.Reader, message, crypto.Hash(0))
	case "rsapss", "pycrypto-pkcs#1 pss":
		return k.Private.Sign(rand.Reader, hash[:], &rsa.PSSOptions{SaltLength: sha256.Size, Hash: crypto.SHA256})
	case "rsapkcs1v15":
		return k.Private.Sign(rand.Reader, hash[:], crypto.SHA256)
	case "ecdsa":
		return k.signECDSA(hash[:])
	}
	return nil, fmt.Errorf("notarytest: unknown method %q", k.Method)
}

// signECDSA writes r and s side by side at the curve's width.
func (k *Key) signECDSA(hash []byte) ([]byte, error) {
	pub, ok := k.Private.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("notarytest: method ecdsa with a key of type %s", k.Type)
	}
	der, err := k.Private.Sign(rand.Reader, hash, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		return nil, err
	}
	half := (pub.Params().BitSize + 7) / 8
	out := make([]byte, 2*half)
	rs.R.FillBytes(out[:half])
	rs.S.FillBytes(out[half:])
	return out, nil
}
