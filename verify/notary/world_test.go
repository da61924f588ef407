package notary

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

const (
	testGUN  = "registry.test/team/app"
	releases = "targets/releases"
	alice    = "targets/alice"
	bob      = "targets/bob"
)

// testStart is when the test repositories are made: a real now would let
// certificates expire under the tests one day.
var testStart = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is a repository, laid out as docker trust does, the state, a clock and
// a verifier.
type world struct {
	t     testing.TB
	repo  *notarytest.Repository
	state *notarytest.State
	conf  Config
	v     *Verifier

	mu  sync.Mutex
	now time.Time
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func makeKey(t testing.TB, kind string) *notarytest.Key {
	t.Helper()
	return must[*notarytest.Key](t)(notarytest.NewKey(kind))
}

func rootKeyOf(t testing.TB, gun string) *notarytest.Key {
	t.Helper()
	return must[*notarytest.Key](t)(makeKey(t, "ecdsa").Certify(notarytest.Certificate(gun, testStart.Add(-time.Hour)), nil))
}

// newWorld publishes a repository in which alice signed v1, with her key in
// targets/alice and targets/releases.
func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldAt(t, testStart)
}

func newWorldAt(t testing.TB, start time.Time) *world {
	t.Helper()
	w := &world{t: t, state: &notarytest.State{}, now: start}
	w.repo = must[*notarytest.Repository](t)(notarytest.New(testGUN, start))
	key := makeKey(t, "ecdsa")
	check(t, w.repo.Delegate(releases, []*notarytest.Key{key}))
	check(t, w.repo.Delegate(alice, []*notarytest.Key{key}))
	check(t, w.repo.Sign("v1", target("one"), releases, alice))
	w.conf = Config{Pin: Pin{RootKeys: []string{w.repo.Roles["root"].Keys[0].ID()}}}
	w.open()
	return w
}

// open makes a new verifier with the same state, as after a restart.
func (w *world) open() *Verifier {
	w.t.Helper()
	w.v = must[*Verifier](w.t)(New(w.conf, w.repo, w.state))
	w.v.now = w.clock
	w.t.Cleanup(func() { _ = w.v.Close() })
	return w.v
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func target(content string) notarytest.Target {
	return notarytest.Target{Digest: digest.FromString(content), Size: int64(len(content))}
}

func subject(tag, content string) verify.Subject {
	t := target(content)
	return verify.Subject{Registry: "registry.test", Repository: "team/app", Tag: tag,
		MediaType: verify.MediaTypeImageManifest, Digest: t.Digest, Size: t.Size}
}

func (w *world) admitted(tag, content string) verify.Evidence {
	w.t.Helper()
	e, err := w.v.Verify(w.t.Context(), subject(tag, content))
	if err != nil {
		w.t.Fatalf("%s as %q: got %v, want evidence", tag, content, err)
	}
	if len(e.Signers) == 0 || e.Generation == "" || e.Expires.IsZero() {
		w.t.Fatalf("%s as %q: got evidence %+v, want signers, generation and expiry", tag, content, e)
	}
	return e
}

func (w *world) refused(tag, content string, reason verify.Reason) *verify.Refusal {
	w.t.Helper()
	_, err := w.v.Verify(w.t.Context(), subject(tag, content))
	var refusal *verify.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != reason {
		w.t.Fatalf("%s as %q: got %v, want a refusal %s", tag, content, err, reason)
	}
	return refusal
}

func (w *world) undecided(tag, content string) error {
	w.t.Helper()
	_, err := w.v.Verify(w.t.Context(), subject(tag, content))
	var refusal *verify.Refusal
	if err == nil || errors.As(err, &refusal) {
		w.t.Fatalf("%s as %q: got %v, want an error that is no refusal", tag, content, err)
	}
	return err
}

// withRole adds a signer's delegation with a key of its own.
func (w *world) withRole(name string, paths ...string) *notarytest.Key {
	w.t.Helper()
	k := makeKey(w.t, "ecdsa")
	check(w.t, w.repo.Delegate(name, []*notarytest.Key{k}, paths...))
	return k
}

func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
