package notary

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

// withRoot publishes a repository whose root key has the certificate.
func withRoot(t *testing.T, keys ...*notarytest.Key) *world {
	t.Helper()
	w := newWorld(t)
	w.repo.Roles["root"].Keys = keys
	republish(t, w)
	w.conf.Pin = Pin{FirstUse: true}
	w.open()
	return w
}

func certify(t *testing.T, edit func(*x509.Certificate)) *notarytest.Key {
	t.Helper()
	template := notarytest.Certificate(testGUN, testStart)
	edit(template)
	return must[*notarytest.Key](t)(makeKey(t, "ecdsa").Certify(template, nil))
}

func TestRootCommonName(t *testing.T) {
	for name, ok := range map[string]bool{testGUN: true, "registry.test/team/*": true, "registry.test/*": true, "*": true, "registry.test/team/ap*": true,
		"registry.test/team/app2": false, "registry.test/team": false, "registry.test/other/*": false, "*/app": false, "": false, "REGISTRY.test/team/app": false} {
		w := withRoot(t, certify(t, func(c *x509.Certificate) { c.Subject.CommonName = name }))
		if ok {
			w.admitted("v1", "one")
		} else {
			w.refused("v1", "one", verify.UntrustedSigner)
		}
	}
}

func TestRootCertificateThatIsNotForRoots(t *testing.T) {
	small := must[*notarytest.Key](t)(notarytest.WrapKey(must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024))))
	leaf := certify(t, func(*x509.Certificate) {})
	two := *leaf
	two.Public = append(append([]byte{}, leaf.Public...), certify(t, func(*x509.Certificate) {}).Public...)
	headers := *leaf
	headers.Public = []byte(strings.Replace(string(leaf.Public), "CERTIFICATE-----\n", "CERTIFICATE-----\nX: y\n\n", 1))
	garbage := *leaf
	garbage.Public = append([]byte("garbage\n"), leaf.Public...)
	for name, k := range map[string]*notarytest.Key{
		"an authority":             certify(t, func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }),
		"two leaves":               &two,
		"PEM headers":              &headers,
		"garbage before":           &garbage,
		"a short RSA key":          must[*notarytest.Key](t)(small.Certify(notarytest.Certificate(testGUN, testStart), nil)),
		"validity in wrong order":  certify(t, func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(-time.Hour) }),
		"other certificate's name": certify(t, func(c *x509.Certificate) { c.Subject.CommonName = "x" }),
	} {
		w := withRoot(t, k)
		if _, err := w.v.Verify(t.Context(), subject("v1", "one")); err == nil {
			t.Errorf("%s: got evidence", name)
		}
	}
}

func TestRootCertificateSignedWithSHA1(t *testing.T) {
	c := &x509.Certificate{SignatureAlgorithm: x509.SHA1WithRSA, NotAfter: testStart}
	if sound(c) {
		t.Error("a SHA-1 certificate is sound")
	}
	if (&rootKey{leaf: c}).usable() {
		t.Error("a key with a SHA-1 certificate is usable")
	}
	if c.SignatureAlgorithm = x509.SHA256WithRSA; !sound(c) || !(&rootKey{leaf: c}).usable() {
		t.Error("a SHA-256 certificate is not sound")
	}
}

func TestPinRootKeys(t *testing.T) {
	w := newWorld(t)
	other := rootKeyOf(t, testGUN)
	w.conf.Pin = Pin{RootKeys: []string{other.ID()}}
	w.open()
	if r := w.refused("v1", "one", verify.UntrustedSigner); !strings.Contains(r.Message, w.repo.Roles["root"].Keys[0].ID()) {
		t.Errorf("got %q, want the id that would have to be pinned in it", r.Message)
	}
	w.conf.Pin = Pin{RootKeys: []string{other.ID(), w.repo.Roles["root"].Keys[0].ID()}}
	w.open()
	w.admitted("v1", "one")
}

func TestPinRootKeysCountTowardsTheThreshold(t *testing.T) {
	a, b := rootKeyOf(t, testGUN), rootKeyOf(t, testGUN)
	w := withRoot(t, a, b)
	w.repo.Roles["root"].Threshold = 2
	republish(t, w)
	w.conf.Pin = Pin{RootKeys: []string{a.ID()}}
	w.open()
	w.refused("v1", "one", verify.BelowThreshold)
	w.conf.Pin = Pin{RootKeys: []string{a.ID(), b.ID()}}
	w.open()
	w.admitted("v1", "one")
}

// authority makes a root CA and one below it.
func authority(t *testing.T) (root, intermediate *notarytest.Key) {
	ca := func(name string, issuer *notarytest.Key) *notarytest.Key {
		template := notarytest.Certificate(name, testStart.Add(-time.Hour))
		template.IsCA, template.ExtKeyUsage, template.KeyUsage = true, nil, x509.KeyUsageCertSign
		return must[*notarytest.Key](t)(makeKey(t, "ecdsa").Certify(template, issuer))
	}
	root = ca("Acme Root", nil)
	return root, ca("Acme Trust", root)
}

func TestPinCA(t *testing.T) {
	root, intermediate := authority(t)
	stranger, _ := authority(t)
	leaf := func(usage ...x509.ExtKeyUsage) *notarytest.Key {
		template := notarytest.Certificate(testGUN, testStart)
		template.ExtKeyUsage = usage
		return must[*notarytest.Key](t)(makeKey(t, "ecdsa").Certify(template, intermediate))
	}
	for _, c := range []struct {
		name string
		key  *notarytest.Key
		ca   *notarytest.Key
		ok   bool
	}{
		{"no usage", leaf(), root, true},
		{"server authentication", leaf(x509.ExtKeyUsageServerAuth), root, true},
		{"code signing only, as the reference refuses", leaf(x509.ExtKeyUsageCodeSigning), root, false},
		{"another authority", leaf(), stranger, false},
		{"self-signed", rootKeyOf(t, testGUN), root, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := withRoot(t, c.key)
			w.t = t
			w.conf.Pin = Pin{CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ca.Cert.Raw})}
			w.open()
			if c.ok {
				w.admitted("v1", "one")
			} else {
				w.refused("v1", "one", verify.UntrustedSigner)
			}
		})
	}
}

func TestPinCAExpires(t *testing.T) {
	template := notarytest.Certificate("Acme Root", testStart.Add(-time.Hour))
	template.IsCA, template.ExtKeyUsage, template.KeyUsage = true, nil, x509.KeyUsageCertSign
	template.NotAfter = testStart.Add(48 * time.Hour)
	ca := must[*notarytest.Key](t)(makeKey(t, "ecdsa").Certify(template, nil))
	leaf := notarytest.Certificate(testGUN, testStart)
	leaf.ExtKeyUsage = nil
	w := withRoot(t, must[*notarytest.Key](t)(makeKey(t, "ecdsa").Certify(leaf, ca)))
	w.conf.Pin = Pin{CA: ca.Public}
	w.open()
	if e := w.admitted("v1", "one"); !e.Expires.Equal(template.NotAfter) {
		t.Errorf("got expiry %s, want the authority's %s", e.Expires, template.NotAfter)
	}
	w.pass(49 * time.Hour)
	w.refused("v1", "one", verify.Expired)
}

// rotate gives the repository the next of a row of roots.
func rotate(t *testing.T, w *world) *notarytest.Key {
	t.Helper()
	k := rootKeyOf(t, testGUN)
	check(t, w.repo.Rotate("root", k))
	w.pass(2 * time.Minute)
	return k
}

func TestRootRotation(t *testing.T) {
	for name, pin := range map[string]func(w *world) Pin{
		"first use": func(*world) Pin { return Pin{FirstUse: true} },
		"root file": func(w *world) Pin { return Pin{Root: w.repo.Files()["1.root.json"]} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.t = t
			w.conf.Pin = pin(w)
			w.open()
			w.admitted("v1", "one")
			rotate(t, w)
			w.admitted("v1", "one")
			for range 3 { // behind by several
				rotate(t, w)
			}
			w.open()
			w.repo.Requests()
			w.admitted("v1", "one")
			asked := w.repo.Requests()
			for _, n := range []string{"3.root.json", "4.root.json", "5.root.json"} {
				if !slices.Contains(asked, n) {
					t.Errorf("%s was not fetched, only %v", n, asked)
				}
			}
			w.open() // from the state, through the whole row again
			w.repo.Misbehave(func(string, []byte) ([]byte, error) { return nil, errOffline })
			w.admitted("v1", "one")
		})
	}
}

func TestRootFileLongAgo(t *testing.T) {
	w := newWorld(t)
	w.conf.Pin = Pin{Root: w.repo.Files()["1.root.json"]}
	for range 5 {
		rotate(t, w)
	}
	w.open()
	w.admitted("v1", "one")
}

func TestRotatedRootIsTrustedByItsPredecessorNotByThePin(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	old := w.conf.Pin.RootKeys[0]
	k := rotate(t, w)
	w.admitted("v1", "one")
	w.open()
	w.admitted("v1", "one")

	kept := w.state
	w.state = &notarytest.State{} // nobody remembers the predecessor
	w.open()
	if r := w.refused("v1", "one", verify.UntrustedSigner); !strings.Contains(r.Message, k.ID()) {
		t.Errorf("got %q, want the id that would have to be pinned in it", r.Message)
	}
	w.conf.Pin.RootKeys = []string{old, k.ID()}
	w.open()
	w.admitted("v1", "one")

	w.state = kept // trusted under another pin, which no longer counts
	w.conf.Pin.RootKeys = []string{rootKeyOf(t, testGUN).ID()}
	w.open()
	w.refused("v1", "one", verify.UntrustedSigner)
	w.conf.Pin.RootKeys = []string{k.ID()}
	w.open()
	w.admitted("v1", "one")
}

func TestRootRotationWithoutTheOldKeys(t *testing.T) {
	for _, pin := range []bool{false, true} {
		w := newWorld(t)
		w.conf.Pin = Pin{FirstUse: true}
		if pin {
			w.conf.Pin = Pin{Root: w.repo.Files()["1.root.json"]}
		}
		w.open()
		w.admitted("v1", "one")
		thief := must[*notarytest.Repository](t)(notarytest.New(testGUN, testStart))
		check(t, thief.Sign("v1", target("evil"), "targets"))
		for range 20 { // of higher versions throughout
			check(t, thief.Publish("root", "targets"))
		}
		w.repo.Restore(thief.Files())
		w.pass(2 * time.Minute)
		if _, err := w.v.Verify(t.Context(), subject("v1", "evil")); err == nil {
			t.Error("another root was taken for the next one")
		}
		w.open()
		if _, err := w.v.Verify(t.Context(), subject("v1", "evil")); err == nil {
			t.Error("after a restart another root was taken for the next one")
		}
	}
}

func TestRootThatSkipsAVersion(t *testing.T) {
	w := newWorld(t)
	w.conf.Pin = Pin{FirstUse: true}
	w.open()
	w.admitted("v1", "one")
	rotate(t, w)
	rotate(t, w)
	files := w.repo.Files()
	files["2.root.json"] = files["3.root.json"]
	w.repo.Restore(files)
	w.refused("v1", "one", verify.Rollback)
}

func TestServerWithoutRootsByVersion(t *testing.T) {
	w := newWorld(t)
	w.conf.Pin = Pin{FirstUse: true}
	w.open()
	w.admitted("v1", "one")
	rotate(t, w)
	files := w.repo.Files()
	delete(files, "1.root.json")
	delete(files, "2.root.json")
	w.repo.Restore(files)
	w.admitted("v1", "one")
}

func TestKeyRotationBelowTheRoot(t *testing.T) {
	for _, role := range []string{"targets", "snapshot", "timestamp"} {
		w := newWorld(t)
		w.admitted("v1", "one")
		check(t, w.repo.Rotate(role, makeKey(t, "ed25519")))
		w.pass(2 * time.Minute)
		w.admitted("v1", "one")
	}
}

// TUF 1.0, 5.3.11: versions that a stolen key ran up are forgotten with the key.
func TestRecoveryFromFastForward(t *testing.T) {
	w := newWorld(t)
	w.repo.Roles["timestamp"].Version = maxInteger - 1
	check(t, w.repo.Publish())
	w.admitted("v1", "one")
	w.repo.Roles["timestamp"].Version = 7
	check(t, w.repo.Publish())
	w.pass(2 * time.Minute)
	w.refused("v1", "one", verify.Rollback)
	check(t, w.repo.Rotate("timestamp", makeKey(t, "ecdsa")))
	w.pass(2 * time.Minute)
	w.refused("v1", "one", verify.Rollback)
	w.pass(2 * time.Minute)
	w.admitted("v1", "one")
	w.open()
	w.admitted("v1", "one")
}

func TestFirstUseIsRemembered(t *testing.T) {
	w := newWorld(t)
	w.conf.Pin = Pin{FirstUse: true}
	w.open()
	w.admitted("v1", "one")
	check(t, w.state.Swap(testGUN, must[[]byte](t)(w.state.Load(testGUN)), []byte(`{"files":{"root":"e30="}}`)))
	w.open()
	w.undecided("v1", "one") // whoever damages the state does not get a new first use
}
