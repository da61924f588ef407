package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/countersign/countersign/verify"
)

// result is what a subtree of a requirement adds up to.
type result struct {
	outcome Outcome
	reason  verify.Reason
	message string
	// verifier is whose refusal it is, empty for a sum.
	verifier string
	// signers are the authorities of which any can stand for an admission.
	signers []string
	// expires is when the admission ends, earliest when the first of the
	// alternatives behind it does: whoever counts authorities rests on those too.
	expires, earliest time.Time
	// open is set if an undecided verifier could still add authorities.
	open bool
}

func weigh(q Requirement, by map[string]Verdict, now time.Time) result {
	switch {
	case q.Verifier != "":
		return weighVerifier(q.Verifier, by, now)
	case len(q.Of) == 0:
		return result{}
	}
	results := make([]result, len(q.Of))
	for i, o := range q.Of {
		results[i] = weigh(o, by, now)
	}
	if q.All || q.Agree {
		return weighAll(results, q.Agree)
	}
	return weighSome(results, q.AtLeast)
}

func weighVerifier(name string, by map[string]Verdict, now time.Time) result {
	v, asked := by[name]
	switch {
	case !asked || v.Outcome == Undecided:
		return result{outcome: Undecided}
	case v.Outcome == Refused && v.Refusal != nil:
		return result{reason: v.Refusal.Reason, message: v.Refusal.Message, verifier: name}
	case v.Outcome != Admitted:
		return result{}
	case !v.Evidence.Expires.IsZero() && !now.Before(v.Evidence.Expires):
		return result{reason: verify.Expired, message: "the evidence has expired", verifier: name}
	}
	r := result{outcome: Admitted, expires: v.Evidence.Expires, earliest: v.Evidence.Expires}
	for _, s := range v.Evidence.Signers {
		r.signers = append(r.signers, s.ID)
	}
	return r
}

// weighAll: one refusal decides, whatever the others would have said.
func weighAll(results []result, agree bool) result {
	sum := result{outcome: Admitted}
	admitted := false
	for _, r := range results {
		sum.outcome = min(sum.outcome, r.outcome)
		sum.signers = append(sum.signers, r.signers...)
		sum.expires, sum.earliest = earlier(sum.expires, r.expires), earlier(sum.earliest, r.earliest)
		sum.open = sum.open || r.open
		admitted = admitted || r.outcome == Admitted
	}
	if sum.outcome != Refused {
		return sum
	}
	worst := mostTelling(results)
	if agree && worst.reason == verify.DigestMismatch && admitted {
		worst.reason = verify.Disagreement
	}
	return worst
}

// weighSome: k results must be met, each by an authority of its own, so that
// one key under two names does not make a threshold of two.
func weighSome(results []result, k int) result {
	if k < 1 || k > len(results) {
		return result{}
	}
	sum := result{outcome: Admitted}
	var met []result
	open := 0
	for _, r := range results {
		switch r.outcome {
		case Admitted:
			if k > 1 {
				r.expires = r.earliest
			}
			met = append(met, r)
			sum.signers = append(sum.signers, r.signers...)
			sum.earliest = earlier(sum.earliest, r.earliest)
			if r.open {
				open++
			}
		case Undecided:
			open++
		}
	}
	sum.open = open > 0
	count, chosen := distinct(met)
	if count >= k {
		for _, r := range longestLived(chosen, k) {
			sum.expires = earlier(sum.expires, r.expires)
		}
		return sum
	}
	if count+open >= k {
		return result{outcome: Undecided}
	}
	if len(met) > 0 {
		return result{reason: verify.BelowThreshold, message: fmt.Sprintf("%d of the %d required authorities vouch", count, k)}
	}
	return mostTelling(results)
}

// distinct returns how many of the results can each be given a signer that no
// other one uses (a maximum bipartite matching), and which those are.
func distinct(results []result) (int, []result) {
	holder := map[string]int{}
	var assign func(i int, tried map[string]bool) bool
	assign = func(i int, tried map[string]bool) bool {
		for _, s := range results[i].signers {
			if tried[s] {
				continue
			}
			tried[s] = true
			if j, taken := holder[s]; !taken || assign(j, tried) {
				holder[s] = i
				return true
			}
		}
		return false
	}
	for i := range results {
		assign(i, map[string]bool{})
	}
	var chosen []result
	for _, i := range holder {
		chosen = append(chosen, results[i])
	}
	return len(chosen), chosen
}

// longestLived returns the k results that expire last. A subset of a matching
// is a matching.
func longestLived(results []result, k int) []result {
	slices.SortFunc(results, func(a, b result) int {
		switch {
		case a.expires.IsZero() && b.expires.IsZero():
			return 0
		case a.expires.IsZero():
			return -1
		case b.expires.IsZero():
			return 1
		}
		return b.expires.Compare(a.expires)
	})
	return results[:k]
}

// mostTelling returns the refusal whose reason says most about what is wrong.
func mostTelling(results []result) result {
	order := verify.Reasons()
	best := result{}
	for _, r := range results {
		if r.outcome == Refused && slices.Index(order, r.reason) > slices.Index(order, best.reason) {
			best = r
		}
	}
	if best.verifier != "" && len(results) > 1 {
		best.message, best.verifier = "verifier "+best.verifier+": "+best.message, ""
	}
	return best
}

// earlier returns the earlier of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
