package policy

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/verify"
)

// oracle is a verifier whose answer the test sets.
type oracle struct {
	mu         sync.Mutex
	evidence   verify.Evidence
	err        error
	wait       time.Duration
	asked      atomic.Int64
	tagBound   bool
	generation string
}

func (o *oracle) Verify(ctx context.Context, s verify.Subject) (verify.Evidence, error) {
	o.asked.Add(1)
	if o.wait > 0 {
		time.Sleep(o.wait)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.evidence, o.err
}

func (o *oracle) Scope(verify.Subject) verify.Scope {
	o.mu.Lock()
	defer o.mu.Unlock()
	return verify.Scope{Tag: o.tagBound, Generation: o.generation}
}

func (o *oracle) set(change func(*oracle)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
}

var signedByK = verify.Evidence{Signers: []verify.Signer{{ID: "k"}}}

func gateOf(t *testing.T, o *oracle) (*Gate, *Rule) {
	t.Helper()
	g, err := NewGate(GateConfig{Verifiers: map[string]verify.Verifier{"v": o}, Decisions: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	r := &Rule{Name: "r", Require: one("v"), Fingerprint: "f1"}
	New(r)
	return g, r
}

var subject = verify.Subject{Registry: "r.test", Repository: "a", Tag: "v1", Digest: "sha256:1111"}

// admits asks until the decision comes from memory or the verifier was asked n
// times: the decision cache may forget, but must never invent.
func admits(t *testing.T, g *Gate, r *Rule, s verify.Subject) Decision {
	t.Helper()
	d, err := g.Admit(t.Context(), r, s)
	if (err == nil) != (d.Outcome == Admitted) {
		t.Fatalf("got decision %s with error %v", d.Outcome, err)
	}
	return d
}

// remembers waits until an admission is in memory, which the decision cache
// does in its own time.
func remembers(t *testing.T, g *Gate, r *Rule, s verify.Subject) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !g.Remembers(r, s); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the admission is not remembered")
		}
	}
}

func TestGateRemembersAdmissions(t *testing.T) {
	o := &oracle{evidence: signedByK}
	g, r := gateOf(t, o)
	admits(t, g, r, subject)
	remembers(t, g, r, subject)
	asked := o.asked.Load()
	byDigest := subject
	byDigest.Tag = ""
	if d := admits(t, g, r, byDigest); !d.Remembered || o.asked.Load() != asked {
		t.Errorf("by digest: got remembered %v after %d questions, want it remembered", d.Remembered, o.asked.Load())
	}
	other := subject
	other.Repository = "b"
	if d := admits(t, g, r, other); d.Remembered {
		t.Error("an admission holds in another repository")
	}
	changed := *r
	changed.Fingerprint = "f2"
	if d := admits(t, g, &changed, subject); d.Remembered {
		t.Error("an admission outlives a change of its rule")
	}
	o.set(func(o *oracle) { o.generation, o.evidence.Generation = "next", "next" })
	if d := admits(t, g, r, subject); d.Remembered {
		t.Error("an admission outlives a change of the trust metadata")
	}
	o.set(func(o *oracle) { o.tagBound = true })
	moved := subject
	moved.Tag = "v2"
	admits(t, g, r, subject)
	remembers(t, g, r, subject)
	if d := admits(t, g, r, moved); d.Remembered {
		t.Error("a tag-bound admission holds for another tag")
	}
}

func TestGateForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{err: verify.Refuse(verify.Unsigned, "no")}
		g, r := gateOf(t, o)
		admits(t, g, r, subject)
		if d := admits(t, g, r, subject); !d.Remembered || d.Reason != verify.Unsigned {
			t.Errorf("got %+v, want the refusal remembered", d)
		}
		time.Sleep(DefaultRefusals + time.Second)
		if d := admits(t, g, r, subject); d.Remembered {
			t.Error("a refusal is remembered for too long")
		}
		o.set(func(o *oracle) { o.err = errors.New("out of reach") })
		fresh := subject
		fresh.Digest = "sha256:2222"
		admits(t, g, r, fresh)
		o.set(func(o *oracle) { o.err, o.evidence = nil, signedByK })
		if d := admits(t, g, r, fresh); d.Outcome != Admitted {
			t.Errorf("got %s, want admitted: what could not be decided must not be remembered", d.Outcome)
		}
	})
}

func TestGateNeverOutlivesEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		expires := time.Now().Add(time.Minute)
		o := &oracle{evidence: verify.Evidence{Signers: signedByK.Signers, Expires: expires}}
		g, r := gateOf(t, o)
		admits(t, g, r, subject)
		time.Sleep(time.Minute)
		if d := admits(t, g, r, subject); d.Outcome == Admitted {
			t.Errorf("got %s when the evidence ended, want no admission", d.Outcome)
		}
	})
}

func TestGateAsksOnceForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{evidence: signedByK, wait: time.Second}
		g, r := gateOf(t, o)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { admits(t, g, r, subject) })
		}
		wg.Wait()
		if n := o.asked.Load(); n != 1 {
			t.Errorf("the verifier was asked %d times, want once", n)
		}
	})
}

func TestGateCallerMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{evidence: signedByK, wait: time.Second}
		g, r := gateOf(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := g.Admit(ctx, r, subject)
			left <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-left; !errors.As(err, new(*UndecidedError)) {
			t.Errorf("the one who left: got %v, want undecided", err)
		}
		if d := admits(t, g, r, subject); d.Outcome != Admitted || o.asked.Load() != 1 {
			t.Errorf("the one who stayed: got %s after %d questions, want admitted after 1", d.Outcome, o.asked.Load())
		}
	})
}

// A refresh of the trust metadata that lands while a verifier answers must not
// let the answer pass for one about the new metadata.
func TestGateDoesNotKeepWhatWasOvertaken(t *testing.T) {
	o := &oracle{evidence: verify.Evidence{Signers: signedByK.Signers, Generation: "old"}, generation: "new"}
	g, r := gateOf(t, o)
	if d := admits(t, g, r, subject); d.Outcome != Admitted || d.Basis != (Basis{}) {
		t.Errorf("got %s on basis %+v, want it admitted on none", d.Outcome, d.Basis)
	}
	if d := admits(t, g, r, subject); d.Remembered {
		t.Error("a decision on metadata that was overtaken is remembered")
	}
	o.set(func(o *oracle) { o.evidence.Generation = "new" })
	if d := admits(t, g, r, subject); d.Basis != g.Basis(r, subject) {
		t.Errorf("got basis %+v, want the present one", d.Basis)
	}
}

type panicking struct{}

func (panicking) Verify(context.Context, verify.Subject) (verify.Evidence, error) {
	panic("hostile input")
}

func TestGateSurvivesPanic(t *testing.T) {
	g, err := NewGate(GateConfig{Verifiers: map[string]verify.Verifier{"v": panicking{}}, Decisions: 10})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	r := &Rule{Require: one("v")}
	New(r)
	if d, err := g.Admit(t.Context(), r, subject); d.Outcome != Undecided || err == nil {
		t.Errorf("got %s, %v, want undecided", d.Outcome, err)
	}
	missing := &Rule{Require: one("nobody")}
	New(missing)
	if d, _ := g.Admit(t.Context(), missing, subject); d.Outcome != Undecided {
		t.Errorf("a verifier that does not exist: got %s, want undecided", d.Outcome)
	}
}
