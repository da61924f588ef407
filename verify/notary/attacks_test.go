package notary

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

// The tests in this file are named after published attacks and bypasses.

// attack changes the repository before the first pull and says how the pull
// has to be refused.
type attack struct {
	name string
	do   func(t *testing.T, w *world)
	want verify.Reason
}

func run(t *testing.T, attacks []attack) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			w := newWorld(t)
			a.do(t, w)
			w.refused("v1", "one", a.want)
			w.refused("", "one", a.want)
		})
	}
}

// republish signs all roles anew.
func republish(t testing.TB, w *world) {
	t.Helper()
	check(t, w.repo.Publish("root", "targets", releases, alice))
}

func editing(role string, edit func(signed map[string]any)) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		w.repo.Edit = func(name string, signed map[string]any) {
			if name == role {
				edit(signed)
			}
		}
		republish(t, w)
	}
}

func editingEnvelope(role string, edit func(envelope map[string]any)) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		w.repo.EditEnvelope = func(name string, envelope map[string]any) {
			if name == role {
				edit(envelope)
			}
		}
		republish(t, w)
	}
}

func TestCVE_2015_9258_AlgorithmIsTiedToTheKey(t *testing.T) {
	for _, role := range []string{"root", "timestamp", "snapshot", "targets", releases} {
		for _, method := range []string{"eddsa", "rsapss", "rsapkcs1v15", "pycrypto-pkcs#1 pss", "ECDSA", "none", ""} {
			want := verify.BadSignature
			if method == "ECDSA" {
				want = verify.Malformed
			}
			run(t, []attack{{name: role + " labelled " + method, want: want,
				do: editingEnvelope(role, func(e map[string]any) {
					e["signatures"].([]any)[0].(map[string]any)["method"] = method
				})}})
		}
	}
}

func TestCVE_2015_9259_ExpiredRoot(t *testing.T) {
	w := newWorld(t)
	w.repo.Roles["root"].Expires = testStart.Add(-time.Second)
	republish(t, w)
	w.refused("v1", "one", verify.Expired)
}

func TestExpiryOfEveryRole(t *testing.T) {
	for _, role := range []string{"root", "timestamp", "snapshot", "targets", releases} {
		w := newWorld(t)
		w.repo.Roles[role].Expires = testStart.Add(time.Hour)
		republish(t, w)
		w.admitted("v1", "one")
		w.pass(time.Hour - time.Nanosecond)
		w.admitted("v1", "one")
		w.pass(time.Nanosecond)
		w.refused("v1", "one", verify.Expired)
	}
}

func TestExpiryOfTheRootCertificate(t *testing.T) {
	w := newWorld(t)
	template := notarytest.Certificate(testGUN, testStart.AddDate(-10, 0, 1))
	k := must[*notarytest.Key](t)(makeKey(t, "ecdsa").Certify(template, nil))
	w.repo.Roles["root"].Keys = []*notarytest.Key{k}
	republish(t, w)
	w.conf.Pin = Pin{RootKeys: []string{k.ID()}}
	w.open()
	if e := w.admitted("v1", "one"); !e.Expires.Equal(k.Cert.NotAfter) {
		t.Errorf("got expiry %s, want the certificate's %s", e.Expires, k.Cert.NotAfter)
	}
	w.pass(24*time.Hour + time.Second)
	w.refused("v1", "one", verify.Expired)
}

func TestRootCertificateOfTheFuture(t *testing.T) {
	w := newWorld(t)
	w.pass(-25*time.Hour - time.Hour)
	w.refused("v1", "one", verify.Expired)
}

func TestCVE_2022_29173_Rollback(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets", releases, "root"} {
		t.Run(role, func(t *testing.T) {
			w := newWorld(t)
			old := w.repo.Roles[role].Version
			republish(t, w)
			w.admitted("v1", "one")
			w.repo.Roles[role].Version = old - 1 // the next one is signed properly, but older
			check(t, w.repo.Publish(role))
			w.pass(2 * time.Minute)
			w.refused("v1", "one", verify.Rollback)
			w.open() // a restart forgets nothing
			w.refused("v1", "one", verify.Rollback)
		})
	}
}

func TestCVE_2022_29173_RollbackOfTheWholeServer(t *testing.T) {
	w := newWorld(t)
	old := w.repo.Files()
	check(t, w.repo.Remove("v1", releases, alice))
	w.refused("v1", "one", verify.Unsigned)
	w.repo.Restore(old)
	w.pass(2 * time.Minute)
	w.refused("v1", "one", verify.Rollback)
}

func TestRollbackIsSeenByReplicas(t *testing.T) {
	w := newWorld(t)
	first := w.v
	w.admitted("v1", "one")
	old := w.repo.Files()
	check(t, w.repo.Remove("v1", releases, alice))
	w.open() // another replica with the same state
	w.refused("v1", "one", verify.Unsigned)
	w.repo.Restore(old)
	w.pass(2 * time.Minute)
	w.v = first // sees the timestamp that it knows already
	w.refused("v1", "one", verify.Rollback)
}

func TestSameVersionWithOtherBytes(t *testing.T) {
	for _, role := range []string{"timestamp", "snapshot", "targets", releases} {
		w := newWorld(t)
		w.admitted("v1", "one")
		w.repo.Roles[role].Version--
		w.repo.Roles[role].Expires = w.repo.Roles[role].Expires.Add(-time.Hour)
		check(t, w.repo.Publish(role))
		w.pass(2 * time.Minute)
		w.refused("v1", "one", verify.Rollback)
	}
}

func TestDelegatedRoleVanishesFromTheSnapshot(t *testing.T) {
	w := newWorld(t)
	check(t, w.repo.Sign("v1", target("old"), "targets"))
	w.admitted("v1", "one")
	check(t, w.repo.Withdraw(releases))
	w.pass(2 * time.Minute)
	w.refused("v1", "old", verify.Rollback)
	delete(w.repo.Roles, releases) // now its parent says so
	check(t, w.repo.Publish("targets"))
	w.pass(2 * time.Minute)
	w.admitted("v1", "old")
}

func TestGHSA_3633_OneKeyTwiceTowardsTheThreshold(t *testing.T) {
	w := newWorld(t)
	k := w.repo.Roles["targets"].Keys[0]
	twin := must[*notarytest.Key](t)(k.Certify(notarytest.Certificate("twin", testStart), nil))
	if twin.ID() == k.ID() {
		t.Fatal("the keys have the same id: the test tests nothing")
	}
	w.repo.Roles["targets"].Keys = []*notarytest.Key{k, twin}
	w.repo.Roles["targets"].Threshold = 2
	republish(t, w)
	w.refused("v1", "one", verify.BelowThreshold)
	w.repo.Roles["targets"].Keys = []*notarytest.Key{k, makeKey(t, "ecdsa")}
	republish(t, w)
	w.pass(2 * time.Minute)
	w.admitted("v1", "one")
}

func TestTheSameSignatureTwice(t *testing.T) {
	run(t, []attack{{name: "root threshold 2", want: verify.BelowThreshold, do: func(t *testing.T, w *world) {
		w.repo.Roles["targets"].Threshold = 2
		w.repo.EditEnvelope = func(role string, e map[string]any) {
			if role == "targets" {
				s := e["signatures"].([]any)
				e["signatures"] = append(s, s...)
			}
		}
		republish(t, w)
	}}})
}

func TestCVE_2026_23992_ThresholdBelowOne(t *testing.T) {
	for _, n := range []int{0, -1} {
		run(t, []attack{
			{name: fmt.Sprintf("delegation %d", n), want: verify.Malformed, do: func(t *testing.T, w *world) {
				w.repo.Roles[releases].Threshold = n
				republish(t, w)
			}},
			{name: fmt.Sprintf("root %d", n), want: verify.Malformed, do: func(t *testing.T, w *world) {
				w.repo.Roles["targets"].Threshold = n
				republish(t, w)
			}},
		})
	}
}

func TestCVE_2024_47534_OrderOfRoles(t *testing.T) {
	w := newWorld(t)
	w.withRole(bob)
	check(t, w.repo.Sign("v1", target("bob's"), bob))
	w.conf.Roles = []string{alice, bob}
	for range 1000 {
		w.open()
		w.admitted("v1", "one")
		if t.Failed() {
			return
		}
		_ = w.v.Close()
	}
}

func TestGoTUF_721_TargetWithoutHashes(t *testing.T) {
	for name, hashes := range map[string]any{"none": map[string]any{}, "unknown": map[string]any{"md5": "AAAA"}, "sha512 only": map[string]any{"sha512": bytes.Repeat([]byte{1}, 64)}} {
		w := newWorld(t)
		editing(releases, func(signed map[string]any) {
			signed["targets"].(map[string]any)["v1"].(map[string]any)["hashes"] = hashes
		})(t, w)
		w.refused("v1", "one", verify.Malformed)
		if t.Failed() {
			t.Log(name)
		}
	}
}

func TestCVE_2026_24686_NamesAreNoPaths(t *testing.T) {
	for _, name := range []string{"targets/../root", "targets/..", "/targets/a", "targets//a", "targets/a/", "targets/a\x00", "targets/%2e%2e", "targets/A", "root", ""} {
		w := newWorld(t)
		editing("targets", func(signed map[string]any) {
			roles := signed["delegations"].(map[string]any)["roles"].([]any)
			roles[0].(map[string]any)["name"] = name
		})(t, w)
		w.refused("v1", "one", verify.Malformed)
		for _, asked := range w.repo.Requests() {
			if strings.Contains(asked, "..") || strings.Contains(asked, "//") {
				t.Errorf("%q: asked the server for %q", name, asked)
			}
		}
	}
	w := newWorld(t)
	for _, gun := range []string{"../../etc", "registry.test/../x", "registry.test/a/./b", "registry.test/a%2fb", "registry.test/a\x00", "registry.test//a",
		"registry.test/A", "registry.test", "", "registry.test/" + strings.Repeat("a", 300), "registry.test/a?x=", "user@registry.test/a", "registry.test:99999999/a"} {
		s := subject("v1", "one")
		s.Registry, s.Repository, _ = strings.Cut(gun, "/")
		if _, err := w.v.Verify(t.Context(), s); err == nil {
			t.Errorf("%q: got evidence", gun)
		}
		if _, err := w.v.Raw(t.Context(), gun, "root.json"); err == nil {
			t.Errorf("%q: got metadata", gun)
		}
	}
	equal(t, "requests", w.repo.Requests(), nil)
}

func TestMixedSnapshot(t *testing.T) {
	run(t, []attack{{name: "releases of another snapshot", want: verify.DigestMismatch, do: func(t *testing.T, w *world) {
		old := w.repo.Files()["targets/releases.json"]
		check(t, w.repo.Sign("v1", target("one"), releases))
		w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
			if strings.HasPrefix(name, releases) {
				return old, nil
			}
			return raw, nil
		})
	}}, {name: "snapshot of another timestamp", want: verify.DigestMismatch, do: func(t *testing.T, w *world) {
		old := w.repo.Files()["snapshot.json"]
		check(t, w.repo.Publish())
		w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
			if strings.HasPrefix(name, "snapshot") {
				return old, nil
			}
			return raw, nil
		})
	}}})
}

func TestMixedSnapshotWithSHA256Only(t *testing.T) {
	run(t, []attack{{name: "releases of another snapshot", want: verify.DigestMismatch, do: func(t *testing.T, w *world) {
		w.repo.Edit = func(role string, signed map[string]any) {
			if role == "snapshot" {
				for _, f := range signed["meta"].(map[string]any) {
					delete(f.(map[string]any)["hashes"].(map[string]any), "sha512")
				}
			}
		}
		old := w.repo.Files()["targets/releases.json"]
		check(t, w.repo.Sign("v1", target("two"), releases))
		w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
			if strings.HasPrefix(name, releases) {
				return old, nil
			}
			return raw, nil
		})
	}}})
}

func TestSwappedRoles(t *testing.T) {
	for a, b := range map[string]string{"timestamp": "snapshot", "snapshot": "targets", "targets": releases, "root": "targets"} {
		w := newWorld(t)
		files := w.repo.Files()
		w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
			if role, _, _ := strings.Cut(name, "."); role == a {
				return files[b+".json"], nil
			}
			return raw, nil
		})
		if _, err := w.v.Verify(t.Context(), subject("v1", "one")); err == nil {
			t.Errorf("%s served as %s: got evidence", b, a)
		}
	}
}

func TestMetadataOfAnotherGUN(t *testing.T) {
	w := newWorld(t)
	other := w.repo
	w.repo = must[*notarytest.Repository](t)(notarytest.New("registry.test/team/other", testStart))
	check(t, w.repo.Sign("v1", target("one"), "targets"))
	other.Restore(w.repo.Files())
	w.repo = other
	for _, pin := range []Pin{w.conf.Pin, {FirstUse: true}} {
		w.conf.Pin = pin
		w.open()
		w.refused("v1", "one", verify.UntrustedSigner)
	}
}

func TestClockSetBack(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	w.pass(15 * 24 * time.Hour)
	w.refused("v1", "one", verify.Expired)
	w.pass(-15 * 24 * time.Hour)
	w.refused("v1", "one", verify.Expired)
}

func TestClockSetBackOverARestart(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	w.pass(13 * 24 * time.Hour)
	w.repo.Roles["timestamp"].Expires = testStart.Add(13*24*time.Hour + time.Hour)
	check(t, w.repo.Publish())
	w.admitted("v1", "one")
	w.repo.Roles["timestamp"].Expires = testStart.Add(24 * time.Hour)
	check(t, w.repo.Publish()) // a day that is over
	w.open()
	w.pass(-13 * 24 * time.Hour)
	w.refused("v1", "one", verify.Expired)
}

func TestUnderSignedDelegationIsNotPassedOver(t *testing.T) {
	w := newWorld(t)
	check(t, w.repo.Sign("v1", target("old"), "targets"))
	w.repo.Roles[releases].Signers = []*notarytest.Key{makeKey(t, "ecdsa")}
	check(t, w.repo.Publish(releases))
	w.refused("v1", "one", verify.UntrustedSigner)
	w.refused("v1", "old", verify.UntrustedSigner)
}
