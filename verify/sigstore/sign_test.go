package sigstore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/verifytest"
)

// signer is a private key with the pieces that the formats need.
type signer struct {
	signature.Signer
	pem  []byte
	hint string
}

func newSigner(t testing.TB, kind string) *signer {
	t.Helper()
	var private crypto.Signer
	var err error
	hash := crypto.SHA256
	switch kind {
	case "p256":
		private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "p384-sha384":
		private, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		hash = crypto.SHA384
	case "rsa":
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, private, err = ed25519.GenerateKey(rand.Reader)
	}
	must(t, err)
	s, err := signature.LoadSigner(private, hash)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	must(t, err)
	sum := sha256.Sum256(der)
	return &signer{s, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), base64.StdEncoding.EncodeToString(sum[:])}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *signer) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	sig, err := s.SignMessage(bytes.NewReader(message))
	must(t, err)
	return sig
}

const repository = "r.test/lib/app"

// image is a subject; n tells images apart.
func image(n int) verify.Subject {
	body := fmt.Sprintf("image %d", n)
	return verify.Subject{Registry: "r.test", Repository: "lib/app", Tag: "v1", MediaType: ocispec.MediaTypeImageManifest,
		Digest: digest.FromString(body), Size: int64(len(body))}
}

func payloadOf(d digest.Digest) string {
	return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, d)
}

// layer is one legacy signature.
func layer(src *verifytest.Source, payload, sig []byte) ocispec.Descriptor {
	d := src.Put(typeSimpleSigning, payload)
	d.Annotations = map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(sig)}
	return d
}

// putLegacy stores a signature manifest with these layers at the tag.
func putLegacy(t testing.TB, src *verifytest.Source, s verify.Subject, layers ...ocispec.Descriptor) {
	t.Helper()
	m := src.PutManifest(t, ocispec.Manifest{Config: src.Put(ocispec.MediaTypeImageConfig, []byte("{}")), Layers: layers})
	src.Tag(repository, strings.Replace(s.Digest.String(), ":", "-", 1)+".sig", m.Digest)
}

// signLegacy signs s; the payload speaks of claim.
func (s *signer) signLegacy(t testing.TB, src *verifytest.Source, subject verify.Subject, claim digest.Digest) {
	t.Helper()
	payload := []byte(payloadOf(claim))
	putLegacy(t, src, subject, layer(src, payload, s.sign(t, payload)))
}

func statement(d digest.Digest, predicateType string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{%q:%q}}],"predicateType":%q,"predicate":{}}`,
		d.Algorithm(), d.Encoded(), predicateType)
}

// dsse returns a bundle around a statement.
func (s *signer) dsse(t testing.TB, payload []byte, mediaType string) []byte {
	t.Helper()
	sig := s.sign(t, fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadInToto), payloadInToto, len(payload), payload))
	return s.bundle(t, mediaType, map[string]any{"dsseEnvelope": map[string]any{"payload": payload, "payloadType": payloadInToto,
		"signatures": []any{map[string]any{"sig": sig}}}})
}

func (s *signer) bundle(t testing.TB, mediaType string, content map[string]any) []byte {
	t.Helper()
	content["mediaType"] = mediaType
	content["verificationMaterial"] = map[string]any{"publicKey": map[string]string{"hint": s.hint}}
	body, err := json.Marshal(content)
	must(t, err)
	return body
}

const bundleV03 = "application/vnd.dev.sigstore.bundle.v0.3+json"

// putBundle stores a bundle as a referrer.
func putBundle(t testing.TB, src *verifytest.Source, subject verify.Subject, body []byte, change func(*ocispec.Manifest)) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{ArtifactType: bundleV03, Config: src.Put(ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers:  []ocispec.Descriptor{src.Put(bundleV03, body)},
		Subject: &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}}
	if change != nil {
		change(&m)
	}
	d := src.PutManifest(t, m)
	src.List(repository, subject.Digest, d)
	return d
}

func (s *signer) signBundle(t testing.TB, src *verifytest.Source, subject verify.Subject, claim digest.Digest) {
	t.Helper()
	putBundle(t, src, subject, s.dsse(t, statement(claim, predicateSign), bundleV03), nil)
}

// trusting returns a verifier of these keys.
func trusting(t testing.TB, src verify.Source, atLeast int, keys ...Key) *Verifier {
	t.Helper()
	v, err := New(Config{Keys: keys, AtLeast: atLeast, TransparencyLog: "optional"}, src)
	must(t, err)
	return v
}

func (s *signer) key(name string) Key { return Key{Name: name, PEM: s.pem} }
