package digests

import (
	"testing"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/verifytest"
)

func TestContract(t *testing.T) {
	list := func(t *testing.T, text string) verify.Verifier {
		v, err := New(Config{Name: "list", Text: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	pinned := func(tag string, s verify.Subject, want ...verify.Reason) func(*testing.T) verifytest.Case {
		return func(t *testing.T) verifytest.Case {
			return verifytest.Case{Verifier: list(t, "r.test:5000/a"+tag+"@"+one.String()), Subject: s, Want: want}
		}
	}
	noSignature := "a list has no signatures"
	verifytest.Run(t, verifytest.Harness{
		Signed:      pinned("", subject("a", "v1", one)),
		Unsigned:    pinned("", subject("b", "v1", one), verify.Unsigned),
		OtherDigest: pinned(":v1", subject("a", "v1", two), verify.DigestMismatch),
		Impossible: map[string]string{"OtherKey": noSignature, "PayloadChanged": noSignature, "Truncated": "the list is read at the start",
			"Expired": "lists do not expire", "NotYetValid": "lists do not expire", "SameKeyTwice": noSignature, "UnknownCritical": noSignature,
			"Thousand": noSignature, "SourceDown": "nothing is read", "Flipped": noSignature},
	})
}
