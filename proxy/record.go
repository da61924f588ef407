package proxy

import (
	"crypto/rand"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/verify"
)

// event is what is known of one request. It is filled in on the way and
// written once, at the end, as the decision record.
type event struct {
	ID         string
	Start      time.Time
	Client     string
	Method     string
	Kind       kind
	Repository string
	Tag        string
	Digest     digest.Digest
	Rule       string
	// CacheHit is set if the upstream was not asked for the content.
	CacheHit bool
	// Stale is set if the upstream could not be asked what the tag means and
	// the last admitted digest was served.
	Stale    bool
	Outcome  string
	Reason   verify.Reason
	Status   int
	Bytes    int64
	Err      error
	decision policy.Decision
}

func newEvent(r *http.Request) *event {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return &event{ID: newID(), Start: time.Now(), Client: host, Method: r.Method}
}

// newID returns 96 random bits: ids are quoted in tickets and must not be
// guessable, because they will name records.
func newID() string {
	var b [12]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (e *event) setRoute(r route) {
	e.Kind, e.Tag, e.Digest = r.kind, r.tag, r.digest
	if r.registry != "" {
		e.Repository = r.name()
	}
}

// outcome returns the word for how the request ended.
func outcome(status int) string {
	switch {
	case status < 400:
		return "admitted"
	case status == http.StatusForbidden:
		return "refused"
	case status == http.StatusNotFound:
		return "absent"
	case status == http.StatusRequestedRangeNotSatisfiable || status == http.StatusBadRequest || status == http.StatusMethodNotAllowed:
		return "invalid"
	default:
		return "undecided"
	}
}

// fields returns the record. No field holds a header or a query of the request:
// they may hold credentials.
func (e *event) fields() []zap.Field {
	fs := []zap.Field{
		zap.String("id", e.ID), zap.String("client", e.Client), zap.String("method", e.Method), zap.Stringer("kind", e.Kind),
		zap.String("repository", e.Repository), zap.String("tag", e.Tag), zap.String("digest", string(e.Digest)),
		zap.String("rule", e.Rule), zap.String("outcome", e.Outcome), zap.String("reason", string(e.Reason)),
		zap.Int("status", e.Status), zap.Int64("bytes", e.Bytes), zap.Bool("cached", e.CacheHit),
		zap.Bool("remembered", e.decision.Remembered), zap.Duration("duration", time.Since(e.Start)),
	}
	if e.Stale {
		fs = append(fs, zap.Bool("stale", true))
	}
	if x := e.decision.Exempt; x != nil {
		fs = append(fs, zap.String("exempt", x.Why), zap.Time("exempt_until", x.Until))
	}
	if ws := e.decision.Warnings; len(ws) > 0 {
		fs = append(fs, zap.Strings("warnings", ws))
	}
	if len(e.decision.Verdicts) > 0 {
		fs = append(fs, zap.Array("verdicts", verdictList{e.decision.Verdicts, e.decision.Remembered}))
	}
	if e.Err != nil {
		fs = append(fs, zap.String("error", e.Err.Error()))
	}
	return fs
}

// verdictList writes each verdict with what was found. The findings of a
// remembered decision stand in the record of the request that made it.
type verdictList struct {
	verdicts []policy.Verdict
	brief    bool
}

// MarshalLogArray writes the verdicts.
func (l verdictList) MarshalLogArray(a zapcore.ArrayEncoder) error {
	for _, v := range l.verdicts {
		if err := a.AppendObject(verdictRecord{v, l.brief}); err != nil {
			return err
		}
	}
	return nil
}

type verdictRecord struct {
	policy.Verdict
	brief bool
}

// MarshalLogObject writes one verdict; for a refusal it is the proof: what was
// found, by digest and signer.
func (v verdictRecord) MarshalLogObject(o zapcore.ObjectEncoder) error {
	o.AddString("verifier", v.Verifier)
	o.AddString("outcome", v.Outcome.String())
	found := v.Evidence.Found
	if v.Refusal != nil {
		o.AddString("reason", string(v.Refusal.Reason))
		o.AddString("message", v.Refusal.Message)
		found = v.Refusal.Found
		if v.Refusal.Err != nil {
			o.AddString("cause", v.Refusal.Err.Error())
		}
	}
	if v.Err != nil {
		o.AddString("error", v.Err.Error())
	}
	if v.Outcome == policy.Admitted {
		signers := zapcore.ArrayMarshalerFunc(func(a zapcore.ArrayEncoder) error {
			for _, s := range v.Evidence.Signers {
				a.AppendString(s.ID)
			}
			return nil
		})
		if err := o.AddArray("signers", signers); err != nil {
			return err
		}
	}
	if v.brief || len(found) == 0 {
		return nil
	}
	return o.AddReflected("found", found[:min(len(found), maxFound)])
}

// countingWriter counts what was sent. It passes ReadFrom on, so that files
// still go out by sendfile.
type countingWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader notes the status.
func (w *countingWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write counts.
func (w *countingWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// ReadFrom counts what the connection read by itself.
func (w *countingWriter) ReadFrom(src io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := io.Copy(w.ResponseWriter, src)
	w.bytes += n
	return n, err
}

// Unwrap serves http.ResponseController.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
