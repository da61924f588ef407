package notary

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
	"github.com/countersign/countersign/verify/verifytest"
)

// situation is a case about v1 after something was done to the repository.
func situation(do func(t *testing.T, w *world), want ...verify.Reason) func(*testing.T) verifytest.Case {
	return func(t *testing.T) verifytest.Case {
		w := newWorldAt(t, time.Now()) // the suite looks at the real clock
		do(t, w)
		w.open()
		return verifytest.Case{Verifier: w.v, Subject: subject("v1", "one"), Want: want}
	}
}

func publish(t *testing.T, w *world, edit func()) {
	t.Helper()
	edit()
	check(t, w.repo.Publish("root", "targets", releases))
}

func signerless(count int) func(t *testing.T, w *world) {
	return func(t *testing.T, w *world) {
		publish(t, w, func() {
			w.repo.EditEnvelope = func(role string, e map[string]any) {
				if role != releases {
					return
				}
				s := e["signatures"].([]any)[0].(map[string]any)
				s["sig"] = []byte("no signature")
				for range count - 1 {
					e["signatures"] = append(e["signatures"].([]any), s)
				}
			}
		})
	}
}

func TestContract(t *testing.T) {
	down := situation(func(_ *testing.T, w *world) {
		w.repo.Misbehave(func(string, []byte) ([]byte, error) { return nil, errors.New("down") })
	})
	verifytest.Run(t, verifytest.Harness{
		Signed:   situation(func(*testing.T, *world) {}),
		Unsigned: situation(func(t *testing.T, w *world) { check(t, w.repo.Remove("v1", releases, alice)) }, verify.Unsigned),
		OtherKey: situation(func(t *testing.T, w *world) {
			publish(t, w, func() { w.repo.Roles[releases].Signers = []*notarytest.Key{makeKey(t, "ecdsa")} })
		}, verify.UntrustedSigner),
		OtherDigest: situation(func(t *testing.T, w *world) { check(t, w.repo.Sign("v1", target("two"), releases)) }, verify.DigestMismatch),
		PayloadChanged: situation(func(t *testing.T, w *world) {
			publish(t, w, func() {
				w.repo.EditRaw = func(role string, raw []byte) []byte {
					return bytes.Replace(raw, []byte(`"v1"`), []byte(`"v2"`), 1)
				}
			})
		}, verify.BadSignature),
		Truncated: situation(func(t *testing.T, w *world) {
			w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
				if strings.HasPrefix(name, releases) {
					raw = raw[:len(raw)/2]
				}
				return raw, nil
			})
		}, verify.DigestMismatch, verify.Malformed),
		Expired: situation(func(t *testing.T, w *world) {
			publish(t, w, func() { w.repo.Roles[releases].Expires = time.Now().Add(-time.Second) })
		}, verify.Expired),
		NotYetValid: situation(func(t *testing.T, w *world) {
			k := must[*notarytest.Key](t)(makeKey(t, "ecdsa").Certify(notarytest.Certificate(testGUN, time.Now().Add(notBeforeLeeway+time.Hour)), nil))
			publish(t, w, func() { w.repo.Roles["root"].Keys = []*notarytest.Key{k} })
			w.conf.Pin = Pin{FirstUse: true}
		}, verify.Expired),
		SameKeyTwice: situation(func(t *testing.T, w *world) {
			check(t, w.repo.Delegate(bob, w.repo.Roles[alice].Keys))
			check(t, w.repo.Sign("v1", target("one"), bob))
			w.conf.Signers = Signers{AtLeast: 2, Of: []string{alice, bob}}
		}, verify.BelowThreshold),
		Thousand: situation(signerless(1000), verify.Malformed),
		SourceDown: func(t *testing.T) verifytest.Case {
			c := down(t)
			c.Undecided = true
			return c
		},
		Flipped: flippedSignature,
		Impossible: map[string]string{
			"UnknownCritical": "Notary v1 has no critical fields: a field that nobody knows is signed and means nothing",
		},
	})
}

// flippedSignature flips a bit in the 64 bytes of the signature of
// targets/releases.
func flippedSignature(t *testing.T, i int) (verifytest.Case, bool) {
	if i == 8*64 {
		return verifytest.Case{}, false
	}
	return situation(func(t *testing.T, w *world) {
		publish(t, w, func() {
			w.repo.EditEnvelope = func(role string, e map[string]any) {
				if role == releases {
					e["signatures"].([]any)[0].(map[string]any)["sig"].([]byte)[i/8] ^= 1 << (i % 8)
				}
			}
		})
	}, verify.BadSignature)(t), true
}
