package notation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	_ "github.com/notaryproject/notation-core-go/signature/cose"
	_ "github.com/notaryproject/notation-core-go/signature/jws"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/verifytest"
)

// authority is a certificate with its key.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate
}

func issue(t testing.TB, parent *authority, change func(*x509.Certificate)) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		BasicConstraintsValid: true}
	if parent == nil {
		template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		template.Subject = pkix.Name{Country: []string{"US"}, Organization: []string{"Acme"}, CommonName: "root"}
	} else {
		template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		template.Subject = pkix.Name{Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{"Acme"}, CommonName: "signer"}
	}
	if change != nil {
		change(template)
	}
	signer, issuer := key, template
	if parent != nil {
		signer, issuer = parent.key, parent.cert
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, key: key, chain: []*x509.Certificate{cert}}
	if parent != nil {
		a.chain = append(a.chain, parent.chain...)
	}
	return a
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// crl is signed by a and revokes the certificates.
func (a *authority) crl(t testing.TB, until time.Time, revoked ...*authority) []byte {
	t.Helper()
	template := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: until}
	for _, r := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: r.cert.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

const repository = "registry.test/acme/app"

func image(i int) verify.Subject {
	body := fmt.Appendf(nil, "image %d", i)
	return verify.Subject{Registry: "registry.test", Repository: "acme/app", Tag: "v1", MediaType: ocispec.MediaTypeImageManifest,
		Digest: digest.FromBytes(body), Size: int64(len(body))}
}

func payload(s verify.Subject) []byte {
	body, err := json.Marshal(map[string]any{"targetArtifact": ocispec.Descriptor{MediaType: s.MediaType, Digest: s.Digest, Size: s.Size}})
	if err != nil {
		panic(err)
	}
	return body
}

// sign makes an envelope of the format.
func (a *authority) sign(t testing.TB, format string, payload []byte, change func(*signature.SignRequest)) []byte {
	t.Helper()
	env, err := signature.NewEnvelope(format)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.NewLocalSigner(a.chain, a.key)
	if err != nil {
		t.Fatal(err)
	}
	req := &signature.SignRequest{Payload: signature.Payload{ContentType: "application/vnd.cncf.notary.payload.v1+json", Content: payload},
		Signer: signer, SigningTime: a.cert.NotBefore.Add(time.Minute), SigningScheme: signature.SigningSchemeX509}
	if change != nil {
		change(req)
	}
	body, err := env.Sign(req)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// attach lists an envelope as a referrer of the subject.
func attach(t testing.TB, src *verifytest.Source, s verify.Subject, format string, envelope []byte) ocispec.Descriptor {
	t.Helper()
	d := src.PutManifest(t, ocispec.Manifest{ArtifactType: typeSignature, Config: src.Put("application/vnd.oci.empty.v1+json", []byte("{}")),
		Layers:  []ocispec.Descriptor{src.Put(format, envelope)},
		Subject: &ocispec.Descriptor{MediaType: s.MediaType, Digest: s.Digest, Size: s.Size}})
	d.ArtifactType = typeSignature
	src.List(repository, s.Digest, d)
	return d
}

func configOf(ca *authority) Config {
	return Config{TrustStore: TrustStore{CA: [][]byte{ca.pem()}}, Identities: []string{"x509.subject: C=US, ST=WA, O=Acme"},
		Revocation: Revocation{Mode: modeSkip}}
}

func newVerifier(t testing.TB, c Config, src verify.Source) *Verifier {
	t.Helper()
	v, err := New(c, src)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
