package notary

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

var _ State = (*cache.Table)(nil)

func TestStateOnDisk(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	open := func() *cache.State {
		s := must[*cache.State](t)(cache.OpenState(dir))
		w.v = must[*Verifier](t)(New(w.conf, w.repo, s.Table("notary")))
		w.v.now = w.clock
		return s
	}
	s := open()
	w.admitted("v1", "one")
	old := w.repo.Files()
	check(t, w.repo.Remove("v1", releases, alice))
	w.pass(2 * time.Minute)
	w.refused("v1", "one", verify.Unsigned)
	check(t, w.v.Close())
	check(t, s.Close())

	w.repo.Restore(old)
	s = open()
	w.refused("v1", "one", verify.Rollback)
	check(t, w.v.Close())
	check(t, s.Close())
}

// busyState lets another writer in before the first Swaps.
type busyState struct {
	*notarytest.State
	before func()
	n      int
}

func (s *busyState) Swap(key string, old, value []byte) error {
	if s.n > 0 {
		s.n--
		s.before()
	}
	return s.State.Swap(key, old, value)
}

func TestStateChangedByAnotherMeanwhile(t *testing.T) {
	w := newWorld(t)
	other := must[*Verifier](t)(New(w.conf, w.repo, w.state))
	other.now = w.clock
	defer other.Close()
	verifyBy := func(v *Verifier) error {
		_, err := v.Verify(t.Context(), subject("v1", "one"))
		return err
	}
	busy := &busyState{State: w.state, n: 1, before: func() { check(t, verifyBy(other)) }}
	w.v = must[*Verifier](t)(New(w.conf, w.repo, busy))
	w.v.now = w.clock
	defer w.v.Close()
	w.admitted("v1", "one")

	// The other one sees something newer between our reading and our writing.
	check(t, w.repo.Publish())
	older := w.repo.Files()
	busy.n, busy.before = 1, func() {
		check(t, w.repo.Publish())
		check(t, other.refresh(t.Context(), other.entry(testGUN)))
		w.repo.Restore(older)
	}
	w.pass(2 * time.Minute)
	w.refused("v1", "one", verify.Rollback)
}

func TestStateThatNeverTakesIsUndecided(t *testing.T) {
	w := newWorld(t)
	busy := &busyState{State: w.state, n: 1 << 30}
	busy.before = func() {
		stored, _ := w.state.Load(testGUN)
		check(t, w.state.Swap(testGUN, stored, []byte(fmt.Sprintf(`{"at":"2026-01-01T00:00:%02dZ"}`, busy.n%60))))
	}
	w.v = must[*Verifier](t)(New(w.conf, w.repo, busy))
	w.v.now = w.clock
	defer w.v.Close()
	w.undecided("v1", "one")
	if done := 1<<30 - busy.n; done > 2*(maxSwaps+1) {
		t.Errorf("tried %d times, want at most %d an update", done, maxSwaps+1)
	}
}

func TestDamagedState(t *testing.T) {
	for name, stored := range map[string]string{"garbage": "x", "empty": "", "null": "null", "no files": "{}", "a wrong file": `{"files":{"timestamp":"e30="}}`} {
		w := newWorld(t)
		check(t, w.state.Swap(testGUN, nil, []byte(stored)))
		_, err := w.v.Verify(t.Context(), subject("v1", "one"))
		var refusal *verify.Refusal
		if errors.As(err, &refusal) {
			t.Errorf("%s: got %v, want evidence or undecided", name, err)
		}
	}
	w := newWorld(t)
	w.admitted("v1", "one")
	var rec record
	stored := must[[]byte](t)(w.state.Load(testGUN))
	check(t, json.Unmarshal(stored, &rec))
	raw := rec.Files[releases]
	rec.Files[releases] = []byte(strings.Replace(string(raw), target("one").Digest.Encoded(), target("two").Digest.Encoded(), 1))
	rec.Files["targets"] = append(rec.Files["targets"], ' ')
	check(t, w.state.Swap(testGUN, stored, must[[]byte](t)(json.Marshal(rec))))
	w.open()
	w.repo.Misbehave(func(string, []byte) ([]byte, error) { return nil, errors.New("down") })
	w.undecided("v1", "one") // what comes out of the state is verified like anything else
}

func TestFrozen(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	until := testStart.AddDate(1, 0, 0)
	w.conf.FrozenUntil = until
	w.repo.Misbehave(func(string, []byte) ([]byte, error) { return nil, errors.New("the server is gone") })
	w.open()
	before := w.admitted("v1", "one")
	if len(before.Warnings) != 0 || before.Expires.Equal(until) {
		t.Errorf("before expiry: got %+v, want no warning and the timestamp's expiry", before)
	}
	w.pass(30 * 24 * time.Hour)
	e := w.admitted("v1", "one")
	if len(e.Warnings) != 1 || !strings.Contains(e.Warnings[0], "frozen until 2027-11-21") || !e.Expires.Equal(until) {
		t.Errorf("after expiry: got %+v, want a warning and the end of the freeze", e)
	}
	if got := w.v.Scope(subject("v1", "one")).Generation; got != e.Generation || got == before.Generation {
		t.Errorf("after expiry: got generation %q, want another than %q, so that no verdict without the warning is remembered", got, before.Generation)
	}
	w.refused("v1", "two", verify.DigestMismatch)
	if s := w.v.Status(); len(s) != 1 || !s[0].Frozen || s[0].Err == nil {
		t.Errorf("got status %+v, want frozen with the error", s)
	}
	r := must[Report](t)(w.v.Inspect(t.Context(), testGUN))
	if !r.Frozen || r.Problem == "" {
		t.Errorf("got report %+v, want frozen with the problem", r)
	}
	w.pass(400 * 24 * time.Hour)
	w.undecided("v1", "one") // expired, and the server does not answer
	w.repo.Misbehave(nil)
	w.pass(time.Hour)
	w.refused("v1", "one", verify.Expired)
}

func TestFrozenDoesNotRelaxVersions(t *testing.T) {
	w := newWorld(t)
	old := w.repo.Files()
	check(t, w.repo.Sign("v1", target("two"), releases, alice))
	w.conf.FrozenUntil = testStart.AddDate(1, 0, 0)
	w.open()
	w.admitted("v1", "two")
	w.repo.Restore(old)
	w.pass(30 * 24 * time.Hour)
	w.refused("v1", "one", verify.Rollback)
	w.open()
	w.refused("v1", "one", verify.Rollback)
}

func TestFrozenArchiveBehindAParkedDomain(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	w.conf.FrozenUntil = testStart.AddDate(1, 0, 0)
	w.repo.Misbehave(func(string, []byte) ([]byte, error) { return []byte("<html>buy this domain"), nil })
	w.open()
	w.pass(30 * 24 * time.Hour)
	if e := w.admitted("v1", "one"); len(e.Warnings) != 2 {
		t.Errorf("got warnings %q, want one of the expiry and one of the server", e.Warnings)
	}
}

func TestFrozenExpiredRootCertificate(t *testing.T) {
	at := testStart.AddDate(12, 0, 0)
	v := fixture(t, Config{Pin: Pin{RootKeys: []string{fixtureRoot}}, FrozenUntil: at.AddDate(0, 1, 0)}, at)
	e, err := v.Verify(t.Context(), fixtureSubject())
	if err != nil || len(e.Warnings) == 0 {
		t.Errorf("got %+v, %v; want evidence with a warning", e, err)
	}
	v = fixture(t, Config{Pin: Pin{RootKeys: []string{fixtureRoot}}, FrozenUntil: at}, at)
	var refusal *verify.Refusal
	if _, err := v.Verify(t.Context(), fixtureSubject()); !errors.As(err, &refusal) || refusal.Reason != verify.Expired {
		t.Errorf("at the end: got %v, want expired", err)
	}
}

func TestUnderSignedDelegationSurvivesARestart(t *testing.T) {
	w := newWorld(t)
	w.conf.Pin = Pin{FirstUse: true}
	w.open()
	w.admitted("v1", "one")
	w.repo.Roles[releases].Keys = []*notarytest.Key{makeKey(t, "ecdsa")} // alice's was removed
	check(t, w.repo.Publish("targets"))
	w.pass(2 * time.Minute)
	w.refused("v1", "one", verify.UntrustedSigner)
	if raw, err := w.v.Raw(t.Context(), testGUN, "targets/releases.json"); err != nil || string(raw) != string(w.repo.Files()["targets/releases.json"]) {
		t.Errorf("got %d bytes, %v; want the under-signed metadata, for the client to judge", len(raw), err)
	}
	w.open()
	w.repo.Requests()
	w.refused("v1", "one", verify.UntrustedSigner)
	equal(t, "requests", w.repo.Requests(), []string{"timestamp.json"})
	check(t, w.repo.Publish(releases))
	w.pass(2 * time.Minute)
	w.admitted("v1", "one")
}

func TestRootInTheStateOutlivesTheRest(t *testing.T) {
	w := newWorld(t)
	w.conf.Pin = Pin{FirstUse: true}
	w.open()
	w.admitted("v1", "one")
	rotate(t, w)
	w.admitted("v1", "one")
	var rec record
	stored := must[[]byte](t)(w.state.Load(testGUN))
	check(t, json.Unmarshal(stored, &rec))
	delete(rec.Files, "snapshot")
	check(t, w.state.Swap(testGUN, stored, must[[]byte](t)(json.Marshal(rec))))
	w.open()
	w.repo.Requests()
	w.admitted("v1", "one")
	if asked := w.repo.Requests(); slices.Contains(asked, "root.json") {
		t.Errorf("got requests %v, want the root from the state", asked)
	}
}

// The reference keeps every role that verified, even if the next does not.
func TestVersionsAreSeenThoughTheRestFails(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	old := w.repo.Files()
	check(t, w.repo.Sign("v1", target("two"), releases, alice))
	w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
		if strings.HasPrefix(name, "targets") {
			return []byte("{}"), nil
		}
		return raw, nil
	})
	w.pass(2 * time.Minute)
	w.refused("v1", "one", verify.DigestMismatch)
	w.repo.Misbehave(nil)
	w.repo.Restore(old)
	w.open()
	w.refused("v1", "one", verify.Rollback)
	w.repo.Restore(nil)
	w.open()
	w.undecided("v1", "one") // what is cached is known to be old
}

func TestRootIsTrustedFromItsFirstUseThoughTheRestFails(t *testing.T) {
	w := newWorld(t)
	w.conf.Pin = Pin{FirstUse: true}
	w.open()
	w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
		if strings.HasPrefix(name, "root") {
			return raw, nil
		}
		return nil, errors.New("down")
	})
	w.undecided("v1", "one")
	thief := must[*notarytest.Repository](t)(notarytest.New(testGUN, testStart))
	check(t, thief.Sign("v1", target("evil"), "targets"))
	w.repo.Misbehave(nil)
	w.repo.Restore(thief.Files())
	w.open()
	if _, err := w.v.Verify(t.Context(), subject("v1", "evil")); err == nil {
		t.Error("a second first use")
	}
}
