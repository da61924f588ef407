package policy

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/verify"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func vouch(name string, signers ...string) Verdict {
	e := verify.Evidence{}
	for _, s := range signers {
		e.Signers = append(e.Signers, verify.Signer{ID: s})
	}
	return verdict(name, e, nil)
}

func refuse(name string, reason verify.Reason) Verdict {
	return verdict(name, verify.Evidence{}, verify.Refuse(reason, "%s says no", name))
}

func unsure(name string) Verdict {
	return verdict(name, verify.Evidence{}, errors.New("no answer"))
}

func one(name string) Requirement { return Requirement{Verifier: name} }

func of(names ...string) []Requirement {
	var qs []Requirement
	for _, n := range names {
		qs = append(qs, one(n))
	}
	return qs
}

func TestDecide(t *testing.T) {
	all := Requirement{Of: of("a", "b"), All: true}
	anyOf := Requirement{Of: of("a", "b"), AtLeast: 1}
	two := Requirement{Of: of("a", "b", "c"), AtLeast: 2}
	agree := Requirement{Of: of("a", "b"), Agree: true}
	for _, test := range []struct {
		name     string
		require  Requirement
		verdicts []Verdict
		want     Outcome
		reason   verify.Reason
	}{
		{"nothing is required: nothing is met", Requirement{}, nil, Refused, verify.NoRule},
		{"zero verdict", one("a"), []Verdict{{Verifier: "a"}}, Refused, verify.NoRule},
		{"not asked", one("a"), nil, Undecided, ""},
		{"one vouches", one("a"), []Verdict{vouch("a", "k1")}, Admitted, ""},
		{"evidence by nobody", one("a"), []Verdict{vouch("a")}, Undecided, ""},
		{"one refuses", one("a"), []Verdict{refuse("a", verify.Unsigned)}, Refused, verify.Unsigned},
		{"one cannot say", one("a"), []Verdict{unsure("a")}, Undecided, ""},
		{"another vouches", one("a"), []Verdict{vouch("b", "k1")}, Undecided, ""},
		{"all: both", all, []Verdict{vouch("a", "k1"), vouch("b", "k2")}, Admitted, ""},
		{"all: one key may meet both", all, []Verdict{vouch("a", "k1"), vouch("b", "k1")}, Admitted, ""},
		{"all: a refusal decides over an unknown", all, []Verdict{refuse("a", verify.Expired), unsure("b")}, Refused, verify.Expired},
		{"all: an unknown leaves it open", all, []Verdict{vouch("a", "k1"), unsure("b")}, Undecided, ""},
		{"any: one", anyOf, []Verdict{refuse("a", verify.Unsigned), vouch("b", "k2")}, Admitted, ""},
		{"any: an unknown leaves it open", anyOf, []Verdict{refuse("a", verify.Unsigned), unsure("b")}, Undecided, ""},
		{"any: an unknown does not matter", anyOf, []Verdict{vouch("a", "k1"), unsure("b")}, Admitted, ""},
		{"any: the most telling reason", anyOf, []Verdict{refuse("a", verify.Unsigned), refuse("b", verify.BadSignature)}, Refused, verify.BadSignature},
		{"two of three", two, []Verdict{vouch("a", "k1"), vouch("b", "k2"), refuse("c", verify.Unsigned)}, Admitted, ""},
		{"two of three: one key under two names", two, []Verdict{vouch("a", "k1"), vouch("b", "k1"), refuse("c", verify.Unsigned)}, Refused, verify.BelowThreshold},
		{"two of three: one key under two names, one open", two, []Verdict{vouch("a", "k1"), vouch("b", "k1"), unsure("c")}, Undecided, ""},
		{"two of three: a matching exists though the first choice collides", two, []Verdict{vouch("a", "k1", "k2"), vouch("b", "k1"), refuse("c", verify.Unsigned)}, Admitted, ""},
		{"two of three: one", two, []Verdict{vouch("a", "k1"), refuse("b", verify.Unsigned), refuse("c", verify.Unsigned)}, Refused, verify.BelowThreshold},
		{"two of three: one and two open", two, []Verdict{vouch("a", "k1"), unsure("b"), unsure("c")}, Undecided, ""},
		{"two of three: none, one open", two, []Verdict{refuse("a", verify.Unsigned), refuse("b", verify.Unsigned), unsure("c")}, Refused, verify.Unsigned},
		{"threshold zero", Requirement{Of: of("a"), AtLeast: 0}, []Verdict{vouch("a", "k1")}, Refused, verify.NoRule},
		{"threshold above the list", Requirement{Of: of("a"), AtLeast: 2}, []Verdict{vouch("a", "k1")}, Refused, verify.NoRule},
		{"agree: both", agree, []Verdict{vouch("a", "k1"), vouch("b", "k2")}, Admitted, ""},
		{"agree: one names another digest", agree, []Verdict{vouch("a", "k1"), refuse("b", verify.DigestMismatch)}, Refused, verify.Disagreement},
		{"agree: one is unsigned", agree, []Verdict{vouch("a", "k1"), refuse("b", verify.Unsigned)}, Refused, verify.Unsigned},
	} {
		r := &Rule{Name: "r", Require: test.require}
		d := r.Decide(now, test.verdicts)
		if d.Outcome != test.want || d.Reason != test.reason {
			t.Errorf("%s: got %s %q, want %s %q", test.name, d.Outcome, d.Reason, test.want, test.reason)
		}
		if err := d.Err(); (err == nil) != (test.want == Admitted) {
			t.Errorf("%s: got error %v", test.name, err)
		}
	}
}

func TestDecideExpiry(t *testing.T) {
	until := func(name string, at time.Time) Verdict {
		v := vouch(name, "key "+name)
		v.Evidence.Expires = at
		return v
	}
	soon, later := now.Add(time.Hour), now.Add(2*time.Hour)
	for _, test := range []struct {
		name    string
		require Requirement
		want    time.Time
	}{
		{"all: the earliest", Requirement{Of: of("a", "b"), All: true}, soon},
		{"any: the latest", Requirement{Of: of("a", "b"), AtLeast: 1}, later},
		{"two of two: the earliest", Requirement{Of: of("a", "b"), AtLeast: 2}, soon},
	} {
		d := (&Rule{Require: test.require}).Decide(now, []Verdict{until("a", soon), until("b", later)})
		if !d.Expires.Equal(test.want) {
			t.Errorf("%s: got %v, want %v", test.name, d.Expires, test.want)
		}
	}
	d := (&Rule{Require: one("a")}).Decide(now, []Verdict{until("a", now)})
	if d.Reason != verify.Expired {
		t.Errorf("evidence that ends now: got %q, want expired", d.Reason)
	}
}

func TestExemption(t *testing.T) {
	r := &Rule{Name: "old", Exempt: &Exemption{Why: "moving", Until: now}}
	if d := r.Decide(now.Add(-time.Second), nil); d.Outcome != Admitted || d.Exempt == nil || !d.Expires.Equal(now) {
		t.Errorf("before its end: got %+v", d)
	}
	if d := r.Decide(now, nil); d.Outcome != Refused || d.Reason != verify.Expired {
		t.Errorf("at its end: got %s %s, want refused expired", d.Outcome, d.Reason)
	}
}

// More refusals never turn a decision into an admission, and an unknown never
// does either: the property that makes "could not check" safe.
func TestDecideIsMonotone(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c", "d"}
	keys := []string{"k1", "k2", "k3"}
	var tree func(depth int) Requirement
	tree = func(depth int) Requirement {
		if depth == 0 || rng.IntN(3) == 0 {
			return one(names[rng.IntN(len(names))])
		}
		q := Requirement{}
		for range 1 + rng.IntN(3) {
			q.Of = append(q.Of, tree(depth-1))
		}
		switch rng.IntN(3) {
		case 0:
			q.All = true
		case 1:
			q.Agree = true
		default:
			q.AtLeast = 1 + rng.IntN(len(q.Of))
		}
		return q
	}
	for range 20_000 {
		r := &Rule{Require: tree(3)}
		verdicts := make([]Verdict, len(names))
		for i, n := range names {
			verdicts[i] = []Verdict{vouch(n, keys[rng.IntN(3)]), refuse(n, verify.Unsigned), unsure(n)}[rng.IntN(3)]
		}
		before := r.Decide(now, verdicts).Outcome
		i := rng.IntN(len(names))
		worse := append([]Verdict(nil), verdicts...)
		worse[i] = refuse(names[i], verify.Unsigned)
		if after := r.Decide(now, worse).Outcome; after > before {
			t.Fatalf("%s: %s became %s when %s refused", r.Require, before, after, names[i])
		}
		worse[i] = unsure(names[i])
		if after := r.Decide(now, worse).Outcome; after == Admitted && before != Admitted {
			t.Fatalf("%s: %s became admitted when %s could not say", r.Require, before, names[i])
		}
	}
}

func TestPolicyFor(t *testing.T) {
	p := New(&Rule{Name: "first", Match: pattern(t, "docker.io/library/*")}, &Rule{Name: "second", Match: pattern(t, "docker.io/**")})
	for name, want := range map[string]string{"docker.io/library/x": "first", "docker.io/a/b": "second"} {
		if r, err := p.For(name); err != nil || r.Name != want {
			t.Errorf("%s: got %v, %v, want %s", name, r, err, want)
		}
	}
	var refusal *verify.Refusal
	if _, err := p.For("ghcr.io/a"); !errors.As(err, &refusal) || refusal.Reason != verify.NoRule {
		t.Errorf("got %v, want no-rule", err)
	}
	if _, err := (Policy{}).For("docker.io/library/x"); err == nil {
		t.Error("the zero policy has a rule")
	}
}

func TestUndecidedDoesNotUnwrap(t *testing.T) {
	d := (&Rule{Name: "r", Require: one("a")}).Decide(now, []Verdict{unsure("a")})
	err := d.Err()
	if errors.As(err, new(*verify.Refusal)) {
		t.Error("an undecided decision is a refusal")
	}
	if !strings.Contains(err.Error(), "no answer") {
		t.Errorf("got %q, want the cause for the log", err)
	}
}
