package sigstore

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/verifytest"
)

// reasonOf returns "" for evidence, the reason word of a refusal, and
// "undecided" for anything else.
func reasonOf(t *testing.T, v *Verifier, s verify.Subject) verify.Reason {
	t.Helper()
	e, err := v.Verify(t.Context(), s)
	var r *verify.Refusal
	switch {
	case err == nil && len(e.Signers) > 0:
		return ""
	case errors.As(err, &r):
		return r.Reason
	}
	return "undecided"
}

func TestKeyTypesAndFormats(t *testing.T) {
	for _, kind := range []string{"p256", "p384", "p384-sha384", "rsa", "ed25519"} {
		s := newSigner(t, kind)
		for format, sign := range map[string]func(src *verifytest.Source){
			"legacy": func(src *verifytest.Source) { s.signLegacy(t, src, image(1), image(1).Digest) },
			"bundle": func(src *verifytest.Source) { s.signBundle(t, src, image(1), image(1).Digest) },
			"bundle 0.3 by its old name": func(src *verifytest.Source) {
				putBundle(t, src, image(1), s.dsse(t, statement(image(1).Digest, predicateSign), "application/vnd.dev.sigstore.bundle+json;version=0.3"), nil)
			},
			"legacy as a referrer": func(src *verifytest.Source) {
				p := []byte(payloadOf(image(1).Digest))
				src.List(repository, image(1).Digest, src.PutManifest(t, ocispec.Manifest{ArtifactType: "application/vnd.dev.cosign.artifact.sig.v1+json",
					Config: src.Put("application/vnd.dev.cosign.artifact.sig.v1+json", []byte("{}")), Layers: []ocispec.Descriptor{layer(src, p, s.sign(t, p))},
					Subject: &ocispec.Descriptor{MediaType: image(1).MediaType, Digest: image(1).Digest, Size: image(1).Size}}))
			},
		} {
			src := verifytest.NewSource()
			sign(src)
			if got := reasonOf(t, trusting(t, src, 0, s.key("k")), image(1)); got != "" {
				t.Errorf("%s, %s: got %s, want evidence", kind, format, got)
			}
			if got := reasonOf(t, trusting(t, src, 0, newSigner(t, "p256").key("other")), image(1)); got != verify.UntrustedSigner {
				t.Errorf("%s, %s, another key: got %q, want untrusted-signer", kind, format, got)
			}
		}
	}
}

func TestRealCosign(t *testing.T) {
	read := func(name string) []byte {
		body, err := os.ReadFile("testdata/real/" + name)
		must(t, err)
		return body
	}
	manifest := read("plain-v1.manifest.json")
	s := verify.Subject{Registry: "r.test", Repository: "lib/app", Tag: "v1", MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	key := Key{Name: "cosign", PEM: read("cosign.pub")}
	legacy, bundle := verifytest.NewSource(), verifytest.NewSource()
	legacy.Put(typeSimpleSigning, read("simplesigning.json"))
	legacy.Tag(repository, strings.Replace(s.Digest.String(), ":", "-", 1)+".sig", legacy.Put(ocispec.MediaTypeImageManifest, read("sig-manifest.json")).Digest)
	bundle.Put(bundleV03, read("bundle.sigstore.json"))
	bundle.List(repository, s.Digest, bundle.Put(ocispec.MediaTypeImageManifest, read("bundle-manifest.json")))
	for name, src := range map[string]*verifytest.Source{"legacy": legacy, "bundle": bundle} {
		if got := reasonOf(t, trusting(t, src, 0, key), s); got != "" {
			t.Errorf("%s: got %s, want evidence", name, got)
		}
		if got := reasonOf(t, trusting(t, src, 0, newSigner(t, "p256").key("other")), s); got != verify.UntrustedSigner {
			t.Errorf("%s, another key: got %q", name, got)
		}
	}
}

// Named after the published bypasses of neighbours.
func TestAttacks(t *testing.T) {
	team, stranger := newSigner(t, "p256"), newSigner(t, "p256")
	s := image(1)
	for name, test := range map[string]struct {
		fill func(src *verifytest.Source)
		want verify.Reason
	}{
		"zot 4202: the payload speaks of another image": {func(src *verifytest.Source) { team.signLegacy(t, src, s, image(2).Digest) }, verify.DigestMismatch},
		"a bundle that speaks of another image":         {func(src *verifytest.Source) { team.signBundle(t, src, s, image(2).Digest) }, verify.DigestMismatch},
		"Harbor 18808: a typed accessory without content": {func(src *verifytest.Source) {
			putBundle(t, src, s, nil, func(m *ocispec.Manifest) {
				m.Layers = []ocispec.Descriptor{src.Put(ocispec.MediaTypeEmptyJSON, []byte("{}"))}
			})
		}, verify.Unsigned},
		"CVE-2022-35929: only an attestation of another type": {func(src *verifytest.Source) {
			putBundle(t, src, s, team.dsse(t, statement(s.Digest, "https://cosign.sigstore.dev/attestation/vuln/v1"), bundleV03), nil)
		}, verify.Unsigned},
		"an attestation that is labelled a signature": {func(src *verifytest.Source) {
			putBundle(t, src, s, team.dsse(t, statement(s.Digest, "https://spdx.dev/Document"), bundleV03), func(m *ocispec.Manifest) {
				m.Annotations = map[string]string{annotationPredicate: predicateSign}
			})
		}, verify.Unsigned},
		"CVE-2026-39395: a signed payload that is no statement": {func(src *verifytest.Source) {
			putBundle(t, src, s, team.dsse(t, []byte("garbage"), bundleV03), nil)
		}, verify.Malformed},
		"sigstore-go 609: a statement without digests": {func(src *verifytest.Source) {
			putBundle(t, src, s, team.dsse(t, []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{}}],"predicateType":"`+predicateSign+`","predicate":{}}`), bundleV03), nil)
		}, verify.DigestMismatch},
		"duplicate keys in the signed payload": {func(src *verifytest.Source) {
			p := []byte(strings.Replace(payloadOf(image(2).Digest), `"type":`, `"type":"x","type":`, 1))
			putLegacy(t, src, s, layer(src, p, team.sign(t, p)))
		}, verify.Malformed},
		"a payload of another type": {func(src *verifytest.Source) {
			p := []byte(strings.Replace(payloadOf(s.Digest), "cosign container image signature", "something else", 1))
			putLegacy(t, src, s, layer(src, p, team.sign(t, p)))
		}, verify.Malformed},
		"keys in another case": {func(src *verifytest.Source) {
			p := []byte(strings.Replace(payloadOf(s.Digest), `"image"`, `"Image"`, 1))
			putLegacy(t, src, s, layer(src, p, team.sign(t, p)))
		}, verify.Malformed},
		"a referrer of another subject": {func(src *verifytest.Source) {
			putBundle(t, src, s, team.dsse(t, statement(s.Digest, predicateSign), bundleV03), func(m *ocispec.Manifest) { m.Subject.Digest = image(2).Digest })
		}, verify.Unsigned},
		"our key's name on a stranger's signature": {func(src *verifytest.Source) {
			forged := *stranger
			forged.hint = team.hint
			forged.signBundle(t, src, s, s.Digest)
		}, verify.BadSignature},
		"a signature that is not base64": {func(src *verifytest.Source) {
			l := layer(src, []byte(payloadOf(s.Digest)), nil)
			l.Annotations[annotationSignature] = "***"
			putLegacy(t, src, s, l)
		}, verify.Malformed},
		"CVE-2024-29903: a million layers": {func(src *verifytest.Source) {
			p := []byte(payloadOf(s.Digest))
			layers := make([]ocispec.Descriptor, maxLayers+1)
			for i := range layers {
				layers[i] = layer(src, p, []byte("x"))
			}
			putLegacy(t, src, s, layers...)
		}, verify.Malformed},
		"CVE-2024-29902: a huge signature": {func(src *verifytest.Source) {
			l := layer(src, []byte(payloadOf(s.Digest)), []byte("x"))
			l.Size = 5 << 30
			putLegacy(t, src, s, l)
		}, verify.Malformed},
		"two payloads in one envelope": {func(src *verifytest.Source) {
			body := team.dsse(t, statement(s.Digest, predicateSign), bundleV03)
			putBundle(t, src, s, []byte(strings.Replace(string(body), `"payloadType"`, `"payload":"e30=","payloadType"`, 1)), nil)
		}, verify.Malformed},
		"a bundle of a later version": {func(src *verifytest.Source) {
			putBundle(t, src, s, team.dsse(t, statement(s.Digest, predicateSign), "application/vnd.dev.sigstore.bundle.v0.9+json"), nil)
		}, verify.Malformed},
		"another payload type": {func(src *verifytest.Source) {
			body := team.dsse(t, statement(s.Digest, predicateSign), bundleV03)
			putBundle(t, src, s, []byte(strings.Replace(string(body), payloadInToto, "text/plain", 1)), nil)
		}, verify.Malformed},
	} {
		src := verifytest.NewSource()
		test.fill(src)
		if got := reasonOf(t, trusting(t, src, 0, team.key("team")), s); got != test.want {
			t.Errorf("%s: got %q, want %s", name, got, test.want)
		}
	}
}

func TestThreshold(t *testing.T) {
	a, b, c := newSigner(t, "p256"), newSigner(t, "ed25519"), newSigner(t, "p256")
	src := verifytest.NewSource()
	a.signLegacy(t, src, image(1), image(1).Digest)
	keys := []Key{a.key("a"), b.key("b"), c.key("c")}
	if got := reasonOf(t, trusting(t, src, 2, keys...), image(1)); got != verify.BelowThreshold {
		t.Errorf("one of two: got %q, want below-threshold", got)
	}
	b.signBundle(t, src, image(1), image(1).Digest)
	v := trusting(t, src, 2, keys...)
	e, err := v.Verify(t.Context(), image(1))
	if err != nil || len(e.Signers) != 2 {
		t.Errorf("two of two, in two formats: got %v, %v", e.Signers, err)
	}
	if got := reasonOf(t, trusting(t, src, 3, keys...), image(1)); got != verify.BelowThreshold {
		t.Errorf("two of three: got %q, want below-threshold", got)
	}
}

func TestEvidenceEndsWithItsKeys(t *testing.T) {
	a, b := newSigner(t, "p256"), newSigner(t, "p256")
	src := verifytest.NewSource()
	a.signLegacy(t, src, image(1), image(1).Digest)
	b.signBundle(t, src, image(1), image(1).Digest)
	soon, later := time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	ka, kb := a.key("a"), b.key("b")
	ka.NotAfter, kb.NotAfter = soon, later
	for atLeast, want := range map[int]time.Time{1: later, 2: soon} {
		e, err := trusting(t, src, atLeast, ka, kb).Verify(t.Context(), image(1))
		if err != nil || !e.Expires.Equal(want) {
			t.Errorf("%d of two: got %v, %v, want %v", atLeast, e.Expires, err, want)
		}
	}
}

// The right one is found wherever it stands among a hundred.
func TestHundredSignatures(t *testing.T) {
	team, stranger := newSigner(t, "p256"), newSigner(t, "p256")
	for _, right := range []int{0, 50, 99} {
		src := verifytest.NewSource()
		var layers []ocispec.Descriptor
		for i := range 100 {
			by := stranger
			if i == right {
				by = team
			}
			p := []byte(payloadOf(image(1).Digest))
			layers = append(layers, layer(src, p, by.sign(t, p)))
			if i != right {
				by.signBundle(t, src, image(1), image(1).Digest)
			}
		}
		putLegacy(t, src, image(1), layers...)
		if got := reasonOf(t, trusting(t, src, 0, team.key("team")), image(1)); got != "" {
			t.Errorf("at %d: got %s, want evidence", right, got)
		}
	}
}

// Ten thousand candidates cost no more than the limit, and are no refusal.
func TestTenThousandCandidates(t *testing.T) {
	src := verifytest.NewSource()
	for i := range 10_000 {
		src.List(repository, image(1).Digest, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 100})
	}
	if got := reasonOf(t, trusting(t, src, 0, newSigner(t, "p256").key("k")), image(1)); got != "undecided" {
		t.Errorf("got %q, want undecided", got)
	}
	if n := src.Reads(); n > maxCandidates {
		t.Errorf("got %d reads, want at most %d", n, maxCandidates)
	}
}

func TestUnreadableCandidate(t *testing.T) {
	team := newSigner(t, "p256")
	src := verifytest.NewSource()
	bad := putBundle(t, src, image(1), []byte("x"), nil)
	src.Fail(bad.Digest, errors.New("out of reach"))
	v := trusting(t, src, 0, team.key("team"))
	if got := reasonOf(t, v, image(1)); got != "undecided" {
		t.Errorf("alone: got %q, want undecided", got)
	}
	team.signLegacy(t, src, image(1), image(1).Digest)
	if got := reasonOf(t, v, image(1)); got != "" {
		t.Errorf("beside a good one: got %s, want evidence", got)
	}
}

func TestNewRefusesKeys(t *testing.T) {
	good := newSigner(t, "p256").key("k")
	for name, c := range map[string]Config{
		"no log said":        {Keys: []Key{good}},
		"log required":       {Keys: []Key{good}, TransparencyLog: "required"},
		"no key":             {TransparencyLog: "optional"},
		"the same key twice": {Keys: []Key{good, {Name: "again", PEM: good.PEM}}, TransparencyLog: "optional"},
		"too many required":  {Keys: []Key{good}, AtLeast: 2, TransparencyLog: "optional"},
		"not PEM":            {Keys: []Key{{PEM: []byte("x")}}, TransparencyLog: "optional"},
		"two blocks":         {Keys: []Key{{PEM: append(append([]byte{}, good.PEM...), good.PEM...)}}, TransparencyLog: "optional"},
		"a private key":      {Keys: []Key{{PEM: []byte(strings.ReplaceAll(string(good.PEM), "PUBLIC", "PRIVATE"))}}, TransparencyLog: "optional"},
		"a certificate":      {Keys: []Key{{PEM: []byte(strings.ReplaceAll(string(good.PEM), "PUBLIC KEY", "CERTIFICATE"))}}, TransparencyLog: "optional"},
	} {
		if _, err := New(c, nil); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func FuzzLegacyPayload(f *testing.F) {
	f.Add([]byte(payloadOf(image(1).Digest)))
	f.Fuzz(func(t *testing.T, payload []byte) {
		d, err := parsePayload(payload)
		if err == nil && verify.CheckDigest(d) != nil {
			t.Fatalf("accepted the digest %q", d)
		}
	})
}

func FuzzBundle(f *testing.F) {
	body, err := os.ReadFile("testdata/real/bundle.sigstore.json")
	must(f, err)
	f.Add(body)
	stranger := newSigner(f, "p256")
	f.Add(stranger.dsse(f, statement(image(1).Digest, predicateSign), bundleV03))
	f.Fuzz(func(t *testing.T, body []byte) {
		src := verifytest.NewSource()
		putBundle(t, src, image(1), body, nil)
		if got := reasonOf(t, trusting(t, src, 0, newSigner(t, "p256").key("k")), image(1)); got == "" {
			t.Fatal("vouched for by a key that signed nothing")
		}
	})
}

func FuzzSignatureManifest(f *testing.F) {
	body, err := os.ReadFile("testdata/real/sig-manifest.json")
	must(f, err)
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		src := verifytest.NewSource()
		d := src.Put(ocispec.MediaTypeImageManifest, body)
		src.List(repository, image(1).Digest, d)
		if got := reasonOf(t, trusting(t, src, 0, newSigner(t, "p256").key("k")), image(1)); got == "" {
			t.Fatal("vouched for by a key that signed nothing")
		}
	})
}
