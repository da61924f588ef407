package proxy

import (
	"errors"
	"io/fs"
	"net/http"
	"strconv"
	"time"

	"github.com/distribution/distribution/v3/registry/api/errcode"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/proxy/upstream"
	"github.com/countersign/countersign/verify"
)

// retryAfter is what a client is told to wait when a question could not be
// answered: long enough for a failed upstream to be tried again.
const retryAfter = 5 * time.Second

// answer is what an error becomes on the wire. This file is the only one that
// knows status codes.
type answer struct {
	status int
	err    errcode.Error
	// reason is set for a refusal.
	reason verify.Reason
	// retryAfter is sent if not zero.
	retryAfter time.Duration
}

// detail is sent with every refusal.
type detail struct {
	Reason     verify.Reason   `json:"reason"`
	Rule       string          `json:"rule,omitempty"`
	Repository string          `json:"repository,omitempty"`
	Digest     string          `json:"digest,omitempty"`
	Verdicts   []verdictDetail `json:"verdicts,omitempty"`
	// Decision is the id of the record in the decision log.
	Decision string `json:"decision"`
}

type verdictDetail struct {
	Verifier string           `json:"verifier"`
	Outcome  string           `json:"outcome"`
	Reason   verify.Reason    `json:"reason,omitempty"`
	Found    []verify.Finding `json:"found,omitempty"`
}

// wire maps an error to an answer. What it does not know becomes 503 with a
// fixed text: the cause goes to the log only, it may hold what an attacker or
// an upstream wrote.
func wire(k kind, err error, ev *event) answer {
	var refusal *verify.Refusal
	var undecided *policy.UndecidedError
	var coded errcode.Error
	var up *upstream.Error
	var bad *cache.DigestError
	switch {
	case errors.As(err, &refusal):
		return refused(refusal, ev)
	case errors.As(err, &bad):
		return refused(verify.Refuse(verify.DigestMismatch, "the upstream's content does not have the digest %s", bad.Want), ev)
	case errors.As(err, &undecided):
		return unavailable("the trust of the content could not be checked now; try again")
	case errors.As(err, &coded):
		return answer{status: coded.Code.Descriptor().HTTPStatusCode, err: coded}
	case errors.Is(err, fs.ErrNotExist):
		return absent(k, "")
	case errors.As(err, &up) && up.Status == http.StatusTooManyRequests:
		return answer{status: http.StatusTooManyRequests, retryAfter: max(up.RetryAfter, time.Second),
			err: errcode.ErrorCodeTooManyRequests.WithMessage("the upstream limits the rate of requests")}
	case errors.As(err, &up) && (up.Status == http.StatusUnauthorized || up.Status == http.StatusForbidden):
		// Not a refusal of ours: many registries answer so for what is not there.
		return absent(kindNone, "the upstream does not give this repository to the proxy: it may not exist, or the proxy's credentials may not reach it")
	}
	return unavailable("the upstream or the proxy's storage failed; try again")
}

func refused(r *verify.Refusal, ev *event) answer {
	msg := string(r.Reason) + ": "
	d := detail{Reason: r.Reason, Repository: ev.Repository, Digest: string(ev.Digest), Decision: ev.ID, Rule: ev.Rule}
	if ev.Rule != "" {
		msg += "rule " + strconv.Quote(ev.Rule) + ": "
	}
	for _, v := range ev.decision.Verdicts {
		d.Verdicts = append(d.Verdicts, describe(v))
	}
	return answer{status: http.StatusForbidden, reason: r.Reason,
		err: errcode.ErrorCodeDenied.WithMessage(msg + r.Message).WithDetail(d)}
}

func describe(v policy.Verdict) verdictDetail {
	d := verdictDetail{Verifier: v.Verifier, Outcome: v.Outcome.String(), Found: v.Evidence.Found}
	if v.Refusal != nil {
		d.Reason, d.Found = v.Refusal.Reason, v.Refusal.Found
	}
	d.Found = d.Found[:min(len(d.Found), maxFound)]
	return d
}

// maxFound bounds the findings in an answer or a record; verify prints all.
const maxFound = 16

func absent(k kind, msg string) answer {
	code := errcode.ErrorCodeNameUnknown
	switch k {
	case kindManifest, kindReferrers:
		code = errcode.ErrorCodeManifestUnknown
	case kindBlob:
		code = errcode.ErrorCodeBlobUnknown
	}
	if msg == "" {
		msg = "the upstream does not have it"
	}
	return answer{status: http.StatusNotFound, err: code.WithMessage(msg)}
}

func unavailable(msg string) answer {
	return answer{status: http.StatusServiceUnavailable, retryAfter: retryAfter, err: errcode.ErrorCodeUnavailable.WithMessage(msg)}
}

// write sends the answer. A HEAD gets the same headers and no body.
func (a answer) write(w http.ResponseWriter) {
	if a.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(a.retryAfter.Round(time.Second)/time.Second)))
	}
	if a.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", "GET, HEAD")
	}
	w.Header().Del("Content-Length")
	w.Header().Del("Docker-Content-Digest")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// Nothing can be done about a client that went away.
	_ = errcode.ServeJSON(w, a.err)
}
