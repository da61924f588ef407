package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// maxErrorBody bounds what is read of an error's body.
	maxErrorBody = 64 << 10
	// maxErrorText bounds what is shown of it.
	maxErrorText = 200
	// maxRetryAfter bounds what an upstream can make clients wait.
	maxRetryAfter = time.Hour
)

// ErrNoReferrersAPI says that the upstream does not have the referrers API;
// referrers may be listed at the fallback tag.
var ErrNoReferrersAPI = errors.New("the upstream has no referrers API")

// Error is an upstream that did not give what it was asked for. What is not
// there wraps fs.ErrNotExist instead. The text holds no secrets.
type Error struct {
	// Upstream is the configured name, Op what was asked.
	Upstream, Op string
	// Status is the answer's, 0 if there was none.
	Status int
	// Code is the registry error code of the answer, if it had one.
	Code string
	// RetryAfter is how long the upstream asks to wait, 0 if it does not say.
	RetryAfter time.Duration
	Err        error
}

// Error says what failed and why.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s of upstream %s failed", e.Op, e.Upstream)
	if e.Status != 0 {
		text += ": it answered " + strconv.Itoa(e.Status)
	}
	if e.Code != "" {
		text += " " + e.Code
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// failed wraps an error that came instead of an answer, or with one.
func (c *Client) failed(r request, status int, err error) error {
	var already *Error
	if errors.As(err, &already) {
		return err
	}
	var login *transport.Error
	if status == 0 && errors.As(err, &login) {
		status = login.StatusCode
	}
	return &Error{Upstream: c.config.Name, Op: r.method + " " + r.kind, Status: status, Err: redact(err)}
}

// refused turns an answer that is not a success into an error, and closes it.
func (c *Client) refused(r request, resp *http.Response) error {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	e := &Error{Upstream: c.config.Name, Op: r.method + " " + r.kind, Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header)}
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if err == nil && json.Unmarshal(b, &doc) == nil && len(doc.Errors) > 0 {
		e.Code = printable(doc.Errors[0].Code)
		e.Err = errors.New(printable(doc.Errors[0].Message))
	}
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: %w", e, fs.ErrNotExist)
	}
	return e
}

// retryAfter reads seconds or a date (RFC 9110 §10.2.3).
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.Atoi(v); err == nil && s >= 0 {
		return min(time.Duration(min(s, int(maxRetryAfter/time.Second)))*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(v); err == nil {
		return min(max(time.Until(t), 0), maxRetryAfter)
	}
	return 0
}

// printable cuts text of the upstream's choice to what a log line may hold.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxErrorText {
		s = strings.ToValidUTF8(s[:maxErrorText], "") + "…"
	}
	return s
}

// redacted is an error whose text is safe to log and whose cause can still be
// asked about.
type redacted struct {
	text  string
	cause error
}

// Error returns the safe text.
func (r redacted) Error() string { return r.text }

// Unwrap returns the cause.
func (r redacted) Unwrap() error { return r.cause }

// redact replaces the text of errors that quote URLs, whose queries may hold
// signatures and tokens, or whole bodies.
func redact(err error) error {
	var u *url.Error
	var login *transport.Error
	switch {
	case errors.As(err, &login):
		return redacted{fmt.Sprintf("the token server answered %d", login.StatusCode), err}
	case errors.As(err, &u):
		return redacted{printable(u.Err.Error()), err}
	case strings.Contains(err.Error(), "token in bearer response"):
		return redacted{"the token server's answer has no token", err}
	}
	return redacted{printable(err.Error()), err}
}
