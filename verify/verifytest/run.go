// Package verifytest is the contract that every signature scheme keeps. A
// scheme's test makes a Harness and calls Run; what is then true of all schemes
// is written down here once.
//
// The package is for tests; nothing in the product imports it.
package verifytest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/countersign/countersign/verify"
)

// answerTime bounds a verification in memory, whatever it is fed: more than
// this is a way to stop the proxy.
const answerTime = 20 * time.Second

// Case is one situation that a scheme can be put into.
type Case struct {
	// Verifier and Subject are what is asked.
	Verifier verify.Verifier
	Subject  verify.Subject
	// Want are the reasons of which a refusal must have one; empty means that
	// the subject must be vouched for.
	Want []verify.Reason
	// Undecided is set if the question cannot be answered.
	Undecided bool
}

// Harness puts a scheme into situations. Each function returns a fresh Case. A
// situation that cannot arise in the scheme is nil, and stands in Impossible
// with the reason.
type Harness struct {
	Signed          func(t *testing.T) Case // signed as it should be
	Unsigned        func(t *testing.T) Case // no signature at all
	OtherKey        func(t *testing.T) Case // signed by somebody who is not trusted
	OtherDigest     func(t *testing.T) Case // a trusted signature that speaks of another digest
	PayloadChanged  func(t *testing.T) Case // what was signed was changed afterwards
	Truncated       func(t *testing.T) Case // the signature's document is cut in half
	Expired         func(t *testing.T) Case // the evidence has ended
	NotYetValid     func(t *testing.T) Case // the evidence has not begun
	SameKeyTwice    func(t *testing.T) Case // a threshold of two, and two signatures by one key
	UnknownCritical func(t *testing.T) Case // a critical field that nobody knows
	Thousand        func(t *testing.T) Case // a thousand signatures, none of which counts
	SourceDown      func(t *testing.T) Case // nothing can be read
	// Flipped returns a case in which bit i of the signature is flipped, or
	// false if it has no more bits.
	Flipped func(t *testing.T, i int) (Case, bool)
	// Impossible says, by the field's name, why a situation cannot arise.
	Impossible map[string]string
}

// Run checks every situation of the harness.
func Run(t *testing.T, h Harness) {
	for _, s := range []struct {
		name  string
		setUp func(*testing.T) Case
	}{
		{"Signed", h.Signed}, {"Unsigned", h.Unsigned}, {"OtherKey", h.OtherKey}, {"OtherDigest", h.OtherDigest},
		{"PayloadChanged", h.PayloadChanged}, {"Truncated", h.Truncated}, {"Expired", h.Expired}, {"NotYetValid", h.NotYetValid},
		{"SameKeyTwice", h.SameKeyTwice}, {"UnknownCritical", h.UnknownCritical}, {"Thousand", h.Thousand}, {"SourceDown", h.SourceDown},
	} {
		t.Run(s.name, func(t *testing.T) {
			if s.setUp == nil {
				h.impossible(t, s.name)
				return
			}
			s.setUp(t).check(t)
		})
	}
	t.Run("Flipped", h.flipped)
	t.Run("Cancelled", h.cancelled)
	t.Run("AnotherSubject", h.anotherSubject)
}

func (h Harness) impossible(t *testing.T, name string) {
	t.Helper()
	why := h.Impossible[name]
	if why == "" {
		t.Fatalf("the harness has no case %s and does not say why", name)
	}
	t.Logf("cannot arise: %s", why)
}

// check asks and compares. Whatever the answer, it is one of the three.
func (c Case) check(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), answerTime)
	defer cancel()
	e, err := c.Verifier.Verify(ctx, c.Subject)
	var refusal *verify.Refusal
	isRefusal := errors.As(err, &refusal)
	switch {
	case err == nil && len(e.Signers) == 0:
		t.Fatal("got evidence by nobody")
	case err != nil && len(e.Signers) > 0:
		t.Fatalf("got evidence together with the error %v", err)
	case c.Undecided && (err == nil || isRefusal):
		t.Fatalf("got %v, want the question to stay open", err)
	case c.Undecided:
	case len(c.Want) == 0 && err != nil:
		t.Fatalf("got %v, want evidence", err)
	case len(c.Want) > 0 && !isRefusal:
		t.Fatalf("got %v, want a refusal with one of %v", err, c.Want)
	case len(c.Want) > 0:
		checkRefusal(t, refusal, c.Want)
	default:
		checkEvidence(t, e)
	}
}

func checkRefusal(t *testing.T, r *verify.Refusal, want []verify.Reason) {
	t.Helper()
	for _, reason := range want {
		if r.Reason == reason {
			if r.Message == "" {
				t.Errorf("the refusal %s has no message for the client", r.Reason)
			}
			return
		}
	}
	t.Errorf("got reason %s (%s), want one of %v", r.Reason, r.Message, want)
}

func checkEvidence(t *testing.T, e verify.Evidence) {
	t.Helper()
	seen := map[string]bool{}
	for _, s := range e.Signers {
		if s.ID == "" || seen[s.ID] {
			t.Errorf("got signers %v, want distinct ones with ids", e.Signers)
		}
		seen[s.ID] = true
	}
	if !e.Expires.IsZero() && !e.Expires.After(time.Now()) {
		t.Errorf("got evidence that ended %s", e.Expires)
	}
}

// flipped: no single bit of a signature may be changed without notice.
func (h Harness) flipped(t *testing.T) {
	if h.Flipped == nil {
		h.impossible(t, "Flipped")
		return
	}
	count := 0
	for ; ; count++ {
		c, ok := h.Flipped(t, count)
		if !ok {
			break
		}
		if _, err := c.Verifier.Verify(t.Context(), c.Subject); err == nil {
			t.Errorf("bit %d of the signature is flipped, and it still counts", count)
		}
	}
	if count == 0 {
		t.Error("the harness flips nothing")
	}
}

// cancelled: a caller that has gone away is told neither yes nor no.
func (h Harness) cancelled(t *testing.T) {
	c := h.Signed(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Verifier.Verify(ctx, c.Subject); err == nil || errors.As(err, new(*verify.Refusal)) {
		t.Errorf("got %v, want the question to stay open", err)
	}
}

// anotherSubject: evidence about one digest is none about the next.
func (h Harness) anotherSubject(t *testing.T) {
	c := h.Signed(t)
	c.Subject.Digest = c.Subject.Digest.Algorithm().FromString("another image")
	if _, err := c.Verifier.Verify(t.Context(), c.Subject); err == nil {
		t.Error("what is signed vouches for another digest")
	}
}
