// Package policy says which verifiers must vouch for which repositories, and
// what their verdicts add up to.
//
// A Policy is an ordered list of Rules; the first whose pattern matches the
// repository's canonical name applies, and no rule is a refusal. A Rule holds a
// Requirement over named verifiers. Decide is pure: verdicts in, Decision out.
// Gate asks the verifiers and remembers what they said.
//
// The zero value of everything here refuses: a Policy without rules, a Rule
// without a requirement, a Decision that nobody made.
//
// The package knows nothing of configuration files or HTTP. It trusts the
// verifiers it is given and the clock.
package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/verify"
)

// Policy is an ordered list of rules, made by New. The zero value has none.
type Policy struct {
	rules []*Rule
}

// New returns the policy of these rules, in order. They are not to be changed
// afterwards.
func New(rules ...*Rule) Policy {
	for _, r := range rules {
		r.names = r.Require.Verifiers()
	}
	return Policy{rules: rules}
}

// Rules returns the rules in order.
func (p Policy) Rules() []*Rule { return slices.Clone(p.rules) }

// For returns the first rule that matches the repository, named in full
// ("docker.io/library/alpine"). If none does, the error is a *verify.Refusal.
func (p Policy) For(repository string) (*Rule, error) {
	for _, r := range p.rules {
		if r.Match.Matches(repository) {
			return r, nil
		}
	}
	return nil, verify.Refuse(verify.NoRule, "no rule matches %s", repository)
}

// Rule says what is required of the repositories that Match.
type Rule struct {
	Name  string
	Match Pattern
	// Require is what must hold; the zero value never does.
	Require Requirement
	// Resolve lets trust metadata say what a tag means, instead of the upstream.
	Resolve bool
	// Exempt, if set, admits without asking anybody, in words and until a date.
	Exempt *Exemption
	// Fingerprint is a hash over everything a decision under this rule rests
	// on but the trust metadata: match, requirement, and the configuration of
	// each verifier. A remembered decision holds for one fingerprint.
	Fingerprint string

	names []string // Require.Verifiers(), worked out once by New
}

// Exemption admits what is not signed. It is always dated.
type Exemption struct {
	Why   string
	Owner string
	Until time.Time
}

// Requirement is a tree over verifiers. The zero value is never met. At most
// one of Verifier and Of is set.
type Requirement struct {
	// Verifier is the name of one that must vouch.
	Verifier string
	// Of are alternatives of which AtLeast must be met, each by an authority
	// of its own: all of them is AtLeast == len(Of), any is 1.
	Of      []Requirement
	AtLeast int
	// All is set if every one must be met and one authority may meet several:
	// two verifiers that look at different things may trust the same key.
	All bool
	// Agree is All, and a verifier that names another digest for the tag is a
	// disagreement.
	Agree bool
}

// Verifiers returns the names of all verifiers in the tree, each once, in order.
func (q Requirement) Verifiers() []string {
	var names []string
	if q.Verifier != "" {
		names = append(names, q.Verifier)
	}
	for _, o := range q.Of {
		for _, n := range o.Verifiers() {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	return names
}

// String returns the requirement as it is written in the configuration.
func (q Requirement) String() string {
	if q.Verifier != "" {
		return q.Verifier
	}
	parts := make([]string, len(q.Of))
	for i, o := range q.Of {
		parts[i] = o.String()
	}
	list := "[" + strings.Join(parts, ", ") + "]"
	switch {
	case q.Agree:
		return "{agree: " + list + "}"
	case q.All:
		return "{all: " + list + "}"
	case q.AtLeast == 1:
		return "{any: " + list + "}"
	default:
		return fmt.Sprintf("{at_least: %d, of: %s}", q.AtLeast, list)
	}
}

// Outcome is one of the three answers. The zero value refuses.
type Outcome int

// The outcomes. Only Admitted serves a byte.
const (
	Refused Outcome = iota
	Undecided
	Admitted
)

// String returns the word that decision records use.
func (o Outcome) String() string {
	return [...]string{"refused", "undecided", "admitted"}[o]
}

// Verdict is one verifier's answer.
type Verdict struct {
	Verifier string
	Outcome  Outcome
	// Evidence is set if Outcome is Admitted.
	Evidence verify.Evidence
	// Refusal is set if Outcome is Refused.
	Refusal *verify.Refusal
	// Err is set if Outcome is Undecided: why the question was not answered.
	Err error
}

// verdict turns what a Verifier returned into a Verdict. Evidence by nobody is
// no evidence.
func verdict(name string, e verify.Evidence, err error) Verdict {
	v := Verdict{Verifier: name}
	switch {
	case err == nil && len(e.Signers) > 0:
		v.Outcome, v.Evidence = Admitted, e
	case err == nil:
		v.Outcome, v.Err = Undecided, errors.New("the verifier returned evidence without a signer")
	case errors.As(err, &v.Refusal):
		v.Outcome = Refused
	default:
		v.Outcome, v.Err = Undecided, err
	}
	return v
}

// Decision is a rule's answer over all verdicts.
type Decision struct {
	Outcome Outcome
	// Reason and Message are set if Outcome is Refused.
	Reason  verify.Reason
	Message string
	// Rule is the name of the rule that decided.
	Rule     string
	Verdicts []Verdict
	// Expires is when an admission has to be made again; zero if never.
	Expires time.Time
	// Exempt is set if the rule admits without signatures.
	Exempt *Exemption
	// Basis is what the decision rests on besides the digest. It is zero, which
	// no later question has, if that changed while the verifiers were asked.
	Basis Basis
	// Warnings are what the evidence warns of; they stand in every record of what
	// is served because of the decision.
	Warnings []string
	// Remembered is set if the verifiers were not asked for this one.
	Remembered bool
}

// Err returns nil if the decision admits, the *verify.Refusal if it refuses,
// and an *UndecidedError otherwise.
func (d Decision) Err() error {
	switch d.Outcome {
	case Admitted:
		return nil
	case Refused:
		return &verify.Refusal{Reason: cmp.Or(d.Reason, verify.NoRule), Message: d.Message}
	default:
		u := &UndecidedError{Rule: d.Rule}
		for _, v := range d.Verdicts {
			if v.Outcome == Undecided {
				u.Causes = append(u.Causes, fmt.Errorf("verifier %s: %w", v.Verifier, v.Err))
			}
		}
		return u
	}
}

// UndecidedError says that a rule could not be decided. It does not unwrap: an
// absent signature server must not look like an absent image.
type UndecidedError struct {
	Rule   string
	Causes []error
}

// Error joins the causes; it is for the log only.
func (e *UndecidedError) Error() string {
	return fmt.Sprintf("rule %q is undecided: %v", e.Rule, errors.Join(e.Causes...))
}

// Decide adds up the verdicts. A verifier of the requirement that gave none
// counts as undecided. An undecided verifier leaves the decision open only if
// its answer could still change it.
func (r *Rule) Decide(now time.Time, verdicts []Verdict) Decision {
	d := Decision{Rule: r.Name, Verdicts: verdicts}
	for _, v := range verdicts {
		d.Warnings = append(d.Warnings, v.Evidence.Warnings...)
	}
	if r.Exempt != nil {
		return r.decideExempt(d, now)
	}
	by := make(map[string]Verdict, len(verdicts))
	for _, v := range verdicts {
		by[v.Verifier] = v
	}
	res := weigh(r.Require, by, now)
	d.Outcome, d.Reason, d.Message, d.Expires = res.outcome, res.reason, res.message, res.expires
	if d.Outcome == Refused && d.Reason == "" {
		d.Reason, d.Message = verify.NoRule, "the rule requires nothing that can be met"
	}
	return d
}

func (r *Rule) decideExempt(d Decision, now time.Time) Decision {
	d.Exempt = r.Exempt
	if !now.Before(r.Exempt.Until) {
		d.Reason, d.Message = verify.Expired, fmt.Sprintf("the exemption ended %s", r.Exempt.Until.Format(time.DateOnly))
		return d
	}
	d.Outcome, d.Expires = Admitted, r.Exempt.Until
	return d
}
