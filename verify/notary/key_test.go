package notary

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"testing"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

var methods = []string{methodECDSA, methodPSS, methodPKCS1v15, methodEdDSA, methodPyCrypto}

// keysOfAllTypes returns a key of each type, and of rsa also the one written
// as PEM that pycrypto signatures need.
func keysOfAllTypes(t *testing.T) map[string]*notarytest.Key {
	ec, r, ed := makeKey(t, "ecdsa"), makeKey(t, "rsa"), makeKey(t, "ed25519")
	certify := must[*notarytest.Key](t)
	keys := map[string]*notarytest.Key{"ecdsa": ec, "rsa": r, "ed25519": ed,
		"ecdsa-x509": certify(ec.Certify(notarytest.Certificate("signer", testStart), nil)),
		"rsa-x509":   certify(r.Certify(notarytest.Certificate("signer", testStart), nil))}
	asPEM := *r
	asPEM.Public = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: r.Public})
	asPEM.Method = methodPyCrypto
	keys["rsa as PEM"] = &asPEM
	for name, curve := range map[string]elliptic.Curve{"P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		private := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(curve, rand.Reader))
		keys["ecdsa "+name] = must[*notarytest.Key](t)(notarytest.WrapKey(private))
	}
	return keys
}

// accepts lists the methods of each key; any other is refused.
var accepts = map[string][]string{"ecdsa": {methodECDSA}, "ecdsa-x509": {methodECDSA}, "ecdsa P-384": {methodECDSA}, "ecdsa P-521": {methodECDSA},
	"rsa": {methodPSS, methodPKCS1v15}, "rsa-x509": {methodPSS, methodPKCS1v15}, "rsa as PEM": {methodPyCrypto}, "ed25519": {methodEdDSA}}

func TestEveryKeyTypeWithEveryMethod(t *testing.T) {
	for name, k := range keysOfAllTypes(t) {
		for _, method := range methods {
			w := newWorld(t)
			wanted := false
			signer := *k
			for _, m := range accepts[name] {
				if m == method {
					wanted, signer.Method = true, method
				}
			}
			w.repo.Roles[releases].Keys = []*notarytest.Key{&signer}
			w.repo.EditEnvelope = func(role string, e map[string]any) {
				if role == releases {
					e["signatures"].([]any)[0].(map[string]any)["method"] = method
				}
			}
			check(t, w.repo.Publish("targets", releases))
			t.Run(name+" "+method, func(t *testing.T) {
				w.t = t
				if !wanted {
					w.refused("v1", "one", verify.BadSignature)
					return
				}
				e := w.admitted("v1", "one")
				spki := must[[]byte](t)(x509.MarshalPKIXPublicKey(k.Private.Public()))
				if want := fmt.Sprintf("key:sha256:%x", sha256.Sum256(spki)); e.Signers[0].ID != want {
					t.Errorf("got signer %q, want %q", e.Signers[0].ID, want)
				}
			})
		}
	}
}

func TestRootOfEveryCertificateType(t *testing.T) {
	for _, kind := range []string{"ecdsa", "rsa", "ed25519"} {
		w := newWorld(t)
		bare := makeKey(t, kind)
		w.repo.Roles["root"].Keys = []*notarytest.Key{bare}
		republish(t, w)
		w.conf.Pin = Pin{RootKeys: []string{bare.ID()}}
		w.open()
		w.refused("v1", "one", verify.UntrustedSigner) // a root key has to be a certificate
		if kind == "ed25519" {
			continue
		}
		k := must[*notarytest.Key](t)(bare.Certify(notarytest.Certificate(testGUN, testStart), nil))
		w = newWorld(t)
		w.repo.Roles["root"].Keys = []*notarytest.Key{k}
		republish(t, w)
		w.conf.Pin = Pin{RootKeys: []string{k.ID()}}
		w.open()
		w.admitted("v1", "one")
	}
}

func TestWeakKeysSignNothing(t *testing.T) {
	small := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024))
	p224 := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	for _, k := range []*notarytest.Key{must[*notarytest.Key](t)(notarytest.WrapKey(small)), must[*notarytest.Key](t)(notarytest.WrapKey(p224))} {
		w := newWorld(t)
		w.repo.Roles[releases].Keys = []*notarytest.Key{k}
		check(t, w.repo.Publish("targets", releases))
		if _, err := w.v.Verify(t.Context(), subject("v1", "one")); err == nil {
			t.Errorf("a %s key: got evidence", k.Type)
		}
	}
}

// The docker CLI showed these ids for the fixture's keys.
func TestKeyIDs(t *testing.T) {
	root := must[*rootDoc](t)(parseRoot(must[[]byte](t)(readFixture("root.json"))))
	k := root.roles[roleRoot].keys[0]
	if k.id != fixtureRoot {
		t.Errorf("got id %s, want %s", k.id, fixtureRoot)
	}
	spki := must[[]byte](t)(x509.MarshalPKIXPublicKey(k.public))
	if got := newKey(typeECDSA, spki); k.docker != got.id || k.spki != got.spki || k.docker == k.id {
		t.Errorf("got canonical id %s, want that of the bare key, %s", k.docker, got.id)
	}
	sum := sha256.Sum256([]byte(`{"keytype":"ed25519","keyval":{"private":null,"public":"AAAA"}}`))
	if got := keyID("ed25519", []byte{0, 0, 0}); got != hex.EncodeToString(sum[:]) {
		t.Errorf("got id %s, want %x", got, sum)
	}
}

func TestECDSASignatureEncoding(t *testing.T) {
	k := newKey(typeECDSA, makeKey(t, "ecdsa").Public)
	for _, n := range []int{0, 1, 63, 65, 70, 128} {
		if k.verifies(methodECDSA, []byte("m"), make([]byte, n)) {
			t.Errorf("%d zero bytes verify", n)
		}
	}
	if k.verifies(methodECDSA, []byte("m"), make([]byte, 64)) {
		t.Error("r = s = 0 verifies")
	}
}

func TestECDSASignatureOfAnotherWidth(t *testing.T) {
	run(t, []attack{{name: "a zero before s", want: verify.BadSignature, do: editingEnvelope("targets", func(e map[string]any) {
		s := e["signatures"].([]any)[0].(map[string]any)
		sig := s["sig"].([]byte)
		s["sig"] = slices.Concat(sig[:32], []byte{0}, sig[32:])
	})}})
}
