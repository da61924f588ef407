package notary

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

func TestTagPull(t *testing.T) {
	w := newWorld(t)
	e := w.admitted("v1", "one")
	if got := len(e.Signers); got != 1 {
		t.Fatalf("got %d signers, want 1", got)
	}
	if got := e.Signers[0].Name; got != alice {
		t.Errorf("signer: got %q, want %q", got, alice)
	}
	if want := testStart.Add(14 * 24 * time.Hour); !e.Expires.Equal(want) {
		t.Errorf("expires: got %s, want the timestamp's %s", e.Expires, want)
	}
	w.refused("v1", "two", verify.DigestMismatch)
	w.refused("v2", "one", verify.Unsigned)
}

func TestSizeHasToAgree(t *testing.T) {
	w := newWorld(t)
	s := subject("v1", "one")
	s.Size++
	_, err := w.v.Verify(t.Context(), s)
	var refusal *verify.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != verify.DigestMismatch {
		t.Errorf("got %v, want digest-mismatch", err)
	}
}

func TestDigestPull(t *testing.T) {
	w := newWorld(t)
	w.admitted("", "one")
	w.refused("", "two", verify.Unsigned)
	s := subject("", "one")
	s.Size++
	if _, err := w.v.Verify(t.Context(), s); err == nil {
		t.Error("got evidence for a digest with another length")
	}
}

func TestTargetsThatAreNoTags(t *testing.T) {
	w := newWorld(t)
	check(t, w.repo.Sign("a file/../name", target("two"), releases))
	w.refused("", "two", verify.Unsigned)
}

func TestRolesAreAskedInOrder(t *testing.T) {
	w := newWorld(t)
	check(t, w.repo.Sign("v1", target("from targets"), "targets"))
	check(t, w.repo.Sign("v2", target("from targets"), "targets"))
	w.admitted("v1", "one")
	w.refused("v1", "from targets", verify.DigestMismatch)
	w.admitted("v2", "from targets")

	w.conf.Roles = []string{"targets"}
	w.open()
	w.admitted("v1", "from targets")
}

func TestRolesBelowAnAcceptedOneDoNotAnswer(t *testing.T) {
	w := newWorld(t)
	w.withRole("targets/releases/nightly")
	check(t, w.repo.Sign("n1", target("night"), "targets/releases/nightly"))
	w.refused("n1", "night", verify.Unsigned)
	w.refused("", "night", verify.Unsigned)
	w.conf.Roles = []string{"targets/releases/nightly"}
	w.open()
	w.admitted("n1", "night")
}

func TestRoleBelowAnAcceptedOneHidesLaterRoles(t *testing.T) {
	w := newWorld(t)
	w.withRole("targets/releases/nightly", "n")
	check(t, w.repo.Sign("n1", target("night"), "targets/releases/nightly"))
	check(t, w.repo.Sign("n1", target("older"), "targets"))
	check(t, w.repo.Sign("m1", target("older"), "targets"))
	if r := w.refused("n1", "older", verify.Unsigned); !strings.Contains(r.Message, "targets/releases/nightly") {
		t.Errorf("got %q, want the role that has it", r.Message)
	}
	w.admitted("m1", "older")
	w.conf.Roles = []string{releases, "targets/releases/nightly", "targets"}
	w.open()
	w.admitted("n1", "night")
}

func TestPathsAreIntersected(t *testing.T) {
	w := newWorld(t)
	w.withRole(bob, "b-")
	w.withRole("targets/bob/sub", "b-sub-", "v")
	for tag, role := range map[string]string{"b-1": bob, "v2": bob, "b-sub-1": "targets/bob/sub", "v3": "targets/bob/sub"} {
		check(t, w.repo.Sign(tag, target(tag), role))
	}
	w.conf.Roles = []string{bob, "targets/bob/sub"}
	w.open()
	w.admitted("b-1", "b-1")
	w.admitted("b-sub-1", "b-sub-1")
	w.refused("v2", "v2", verify.Unsigned) // bob may not speak for it
	w.refused("v3", "v3", verify.Unsigned) // bob may not hand on what he may not say
	w.refused("", "v3", verify.Unsigned)
}

func TestSignersHaveToSayTheSame(t *testing.T) {
	w := newWorld(t)
	w.withRole(bob)
	w.conf.Signers = Signers{AtLeast: 2, Of: []string{alice, bob}}
	w.open()
	w.refused("v1", "one", verify.BelowThreshold)
	check(t, w.repo.Sign("v1", target("another"), bob))
	w.pass(time.Hour)
	w.refused("v1", "one", verify.BelowThreshold)
	check(t, w.repo.Sign("v1", target("one"), bob))
	w.pass(time.Hour)
	e := w.admitted("v1", "one")
	if len(e.Signers) != 2 {
		t.Errorf("got signers %v, want two", e.Signers)
	}
	w.repo.Roles[bob].Expires = w.clock().Add(2 * time.Hour)
	check(t, w.repo.Publish(bob))
	w.pass(time.Hour)
	if e = w.admitted("v1", "one"); !e.Expires.Equal(w.clock().Add(time.Hour)) {
		t.Errorf("got expiry %s, want bob's in an hour", e.Expires)
	}
	w.pass(time.Hour)
	w.refused("v1", "one", verify.Expired)
	w.repo.Roles[bob].Expires = w.clock().Add(24 * time.Hour)
	check(t, w.repo.Publish(bob))
	w.pass(time.Hour)
	w.admitted("", "one")
}

func TestTwoSignerRolesWithOneKeyAreOneVoice(t *testing.T) {
	w := newWorld(t)
	check(t, w.repo.Delegate(bob, w.repo.Roles[alice].Keys))
	check(t, w.repo.Sign("v1", target("one"), bob))
	w.conf.Signers = Signers{AtLeast: 2, Of: []string{alice, bob}}
	w.open()
	w.refused("v1", "one", verify.BelowThreshold)
}

func TestResolve(t *testing.T) {
	w := newWorld(t)
	d, err := w.v.Resolve(t.Context(), testGUN, "v1")
	if err != nil || d.Digest != target("one").Digest || d.Size != target("one").Size {
		t.Errorf("got %v, %v; want the signed descriptor", d, err)
	}
	if _, err := w.v.Resolve(t.Context(), testGUN, "v9"); err == nil {
		t.Error("resolved a tag that is not signed")
	}
	w.conf.Signers = Signers{AtLeast: 1, Of: []string{bob}}
	w.open()
	if _, err := w.v.Resolve(t.Context(), testGUN, "v1"); err == nil {
		t.Error("resolved a tag that lacks a demanded signer")
	}
}

func TestNothingPublishedIsUnsigned(t *testing.T) {
	w := newWorld(t)
	s := subject("v1", "one")
	s.Repository = "team/other"
	_, err := w.v.Verify(t.Context(), s)
	var refusal *verify.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != verify.Unsigned {
		t.Errorf("got %v, want unsigned", err)
	}
}

func TestSignatureMadeAfterARefusalCountsSoon(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	w.refused("v2", "two", verify.Unsigned)
	check(t, w.repo.Sign("v2", target("two"), releases))
	w.pass(settle)
	w.admitted("v2", "two")
}

func TestServerDownIsUndecidedWithoutACache(t *testing.T) {
	w := newWorld(t)
	down := errors.New("connection refused")
	w.repo.Misbehave(func(string, []byte) ([]byte, error) { return nil, down })
	if err := w.undecided("v1", "one"); !errors.Is(err, down) {
		t.Errorf("got %v, want the cause in it", err)
	}
	w.repo.Misbehave(nil)
	w.admitted("v1", "one") // "could not" is not remembered
}

func TestServerDownLeavesTheCacheInForceUntilItExpires(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	w.repo.Misbehave(func(string, []byte) ([]byte, error) { return nil, errors.New("no route to host") })
	w.pass(13 * 24 * time.Hour)
	w.admitted("v1", "one")
	w.refused("v2", "one", verify.Unsigned)
	w.open() // from the state alone
	w.admitted("v1", "one")
	w.pass(2 * 24 * time.Hour)
	w.undecided("v1", "one")
	w.open()
	w.undecided("v1", "one")
}

func TestServerThatLostTheRepositoryIsNotUnsigned(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	w.repo.Restore(nil)
	w.open()
	w.admitted("v1", "one")
	w.pass(15 * 24 * time.Hour)
	w.undecided("v1", "one")
}

func TestServerThatLostTheRepositoryUnderANewPin(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	w.repo.Restore(nil)
	w.conf.Pin.RootKeys = []string{fixtureRoot}
	w.open()
	w.undecided("v1", "one") // it was signed once
}

func TestContextEnds(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.v.Verify(ctx, subject("v1", "one")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

func TestStateThatFailsIsUndecided(t *testing.T) {
	w := newWorld(t)
	w.state.Err = errors.New("disk full")
	w.undecided("v1", "one")
}

func TestScope(t *testing.T) {
	w := newWorld(t)
	s := subject("v1", "one")
	if got := w.v.Scope(s); got != (verify.Scope{Tag: true}) {
		t.Errorf("before loading: got %+v, want an empty generation", got)
	}
	e := w.admitted("v1", "one")
	if got := w.v.Scope(s).Generation; got != e.Generation {
		t.Errorf("got generation %q, want that of the evidence, %q", got, e.Generation)
	}
	check(t, w.repo.Publish()) // a new timestamp says nothing new
	w.pass(2 * time.Minute)
	if got := w.v.Scope(s).Generation; got != "" {
		t.Errorf("old metadata: got generation %q, want none", got)
	}
	if again := w.admitted("v1", "one"); again.Generation != e.Generation {
		t.Errorf("after a new timestamp: got generation %q, want %q still", again.Generation, e.Generation)
	}
	check(t, w.repo.Remove("v1", releases, alice))
	w.pass(2 * time.Minute)
	w.refused("v1", "one", verify.Unsigned)
	if got := w.v.Scope(s).Generation; got == e.Generation || got == "" {
		t.Errorf("after a tag was removed: got generation %q, want another", got)
	}
}

// A verdict that was remembered under an earlier, longer-lived timestamp must
// not outlive the metadata that is known now.
func TestScopeEndsWithTheMetadata(t *testing.T) {
	w := newWorld(t)
	s := subject("v1", "one")
	w.admitted("v1", "one") // evidence for two weeks
	w.repo.Roles["timestamp"].Expires = w.clock().Add(3 * time.Minute)
	check(t, w.repo.Publish())
	w.pass(2 * time.Minute)
	e := w.admitted("v1", "one")
	if got := w.v.Scope(s).Generation; got == "" || got != e.Generation {
		t.Errorf("before the timestamp ends: got generation %q, want that of the evidence", got)
	}
	w.pass(59 * time.Second)
	if got := w.v.Scope(s).Generation; got == "" {
		t.Error("a second before it ends: got no generation")
	}
	w.pass(time.Second)
	if got := w.v.Scope(s).Generation; got != "" {
		t.Errorf("when it has ended: got generation %q, want none", got)
	}
}

func TestRemovedSignerIsRefusedAlsoForWhatWasAdmitted(t *testing.T) {
	w := newWorld(t)
	e := w.admitted("v1", "one")
	w.repo.Roles[releases].Keys = []*notarytest.Key{makeKey(t, "ecdsa")} // what is published has the old key's signature
	check(t, w.repo.Publish("targets"))
	w.pass(2 * time.Minute)
	w.refused("v1", "one", verify.UntrustedSigner)
	if got := w.v.Scope(subject("v1", "one")).Generation; got == e.Generation {
		t.Error("the generation did not change")
	}
}

func TestUnchangedRefreshFetchesTheTimestampOnly(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	w.repo.Requests()
	w.admitted("v1", "one")
	equal(t, "warm requests", w.repo.Requests(), nil)
	w.pass(2 * time.Minute)
	w.admitted("v1", "one")
	equal(t, "requests", w.repo.Requests(), []string{"timestamp.json"})
}

// staticDir serves the files of a directory under their plain names also by
// hash.
type staticDir string

func (d staticDir) Fetch(_ context.Context, _, name string, _ int64) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(d), byHash.ReplaceAllString(name, ".json")))
}

var byHash = regexp.MustCompile(`\.[0-9a-f]{64}\.json$`)

const (
	fixtureGUN  = "dctreg.test/library/dctsign"
	fixtureRoot = "d0d990a50366c9ae86c916736a11d24dce567265727db465362c6de32a338802"
)

func fixture(t testing.TB, c Config, at time.Time) *Verifier {
	t.Helper()
	v := must[*Verifier](t)(New(c, staticDir("testdata/docker-trust"), &notarytest.State{}))
	v.now = func() time.Time { return at }
	t.Cleanup(func() { _ = v.Close() })
	return v
}

func fixtureSubject() verify.Subject {
	return verify.Subject{Registry: "dctreg.test", Repository: "library/dctsign", Tag: "v1", Size: 526,
		Digest: digest.NewDigestFromEncoded(digest.SHA256, "346edfa6c7cb8f77a98d476090b9fff301e7d0afc128ebf8fc258ab0bce7d8f1")}
}

func TestDockerTrustFixture(t *testing.T) {
	root := must[[]byte](t)(os.ReadFile("testdata/docker-trust/root.json"))
	for name, pin := range map[string]Pin{"root key": {RootKeys: []string{fixtureRoot}}, "root file": {Root: root}, "first use": {FirstUse: true}} {
		v := fixture(t, Config{Pin: pin}, testStart)
		e, err := v.Verify(t.Context(), fixtureSubject())
		if err != nil {
			t.Errorf("%s: got %v, want evidence", name, err)
			continue
		}
		if len(e.Signers) != 1 || e.Signers[0].Name != bob || !strings.HasPrefix(e.Signers[0].ID, "key:sha256:") {
			t.Errorf("%s: got signers %v, want %s", name, e.Signers, bob)
		}
	}
	v := fixture(t, Config{Pin: Pin{RootKeys: []string{strings.Repeat("0", 64)}}}, testStart)
	if _, err := v.Verify(t.Context(), fixtureSubject()); err == nil {
		t.Error("admitted with another root key pinned")
	}
	v = fixture(t, Config{Pin: Pin{FirstUse: true}}, time.Date(2026, 12, 5, 1, 48, 47, 0, time.UTC))
	var refusal *verify.Refusal
	if _, err := v.Verify(t.Context(), fixtureSubject()); !errors.As(err, &refusal) || refusal.Reason != verify.Expired {
		t.Errorf("a second after the timestamp expired: got %v, want expired", err)
	}
}

func TestConfigMistakes(t *testing.T) {
	good := Pin{FirstUse: true}
	for name, c := range map[string]Config{
		"no pin":            {},
		"two pins":          {Pin: Pin{FirstUse: true, RootKeys: []string{fixtureRoot}}},
		"short key id":      {Pin: Pin{RootKeys: []string{"d0d990"}}},
		"upper-case key id": {Pin: Pin{RootKeys: []string{strings.ToUpper(fixtureRoot)}}},
		"CA is no PEM":      {Pin: Pin{CA: []byte("x")}},
		"CA is a leaf":      {Pin: Pin{CA: rootKeyOf(t, "x").Public}},
		"root is garbage":   {Pin: Pin{Root: []byte("{}")}},
		"role is a path":    {Pin: good, Roles: []string{"targets/../root"}},
		"role is root":      {Pin: good, Roles: []string{"root"}},
		"role twice":        {Pin: good, Roles: []string{"targets", "targets"}},
		"too many signers":  {Pin: good, Signers: Signers{AtLeast: 2, Of: []string{alice}}},
		"no signer needed":  {Pin: good, Signers: Signers{Of: []string{alice}}},
		"negative signers":  {Pin: good, Signers: Signers{AtLeast: -1, Of: []string{alice}}},
		"refresh too often": {Pin: good, Refresh: time.Millisecond},
	} {
		if _, err := New(c, staticDir("."), &notarytest.State{}); err == nil {
			t.Errorf("%s: got a verifier, want an error", name)
		}
	}
}

func readFixture(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join("testdata/docker-trust", name))
}
