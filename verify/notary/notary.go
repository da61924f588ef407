package notary

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/countersign/countersign/verify"
)

// Config is one trust server with its pin.
type Config struct {
	// Server is the trust server's URL, for reports.
	Server string
	// Pin says which roots are trusted.
	Pin Pin
	// Roles are asked for a tag in this order; the first that has it decides.
	// The default is what docker does: targets/releases, then targets.
	Roles []string
	// Signers demands that named roles said the same.
	Signers Signers
	// Refresh is how old the knowledge of the server's timestamp may get; 0 is
	// 60 seconds.
	Refresh time.Duration
	// FrozenUntil, if set, lets expired metadata stand until then, with a
	// warning in every Evidence: for archives whose server is gone. Versions,
	// signatures and hashes are checked as always.
	FrozenUntil time.Time
}

// Signers demands that at least AtLeast of the delegation roles Of have the
// same tag with the same digest and length, signed by as many different keys.
type Signers struct {
	AtLeast int
	Of      []string
}

// ErrTooLarge is wrapped by the error of a Fetcher for an answer that is
// longer than allowed.
var ErrTooLarge = errors.New("the answer is too long")

// A Fetcher reads metadata from the trust server; nothing that it returns is
// trusted. Implementations are safe for concurrent use.
type Fetcher interface {
	// Fetch returns the file that name denotes below <gun>/_trust/tuf/:
	// "timestamp.json", "targets/releases.<sha256>.json", "3.root.json". An
	// absent file is an error that wraps fs.ErrNotExist, one longer than most
	// bytes an error that wraps ErrTooLarge.
	Fetch(ctx context.Context, gun, name string, most int64) ([]byte, error)
}

const (
	defaultRefresh = time.Minute
	minRefresh     = time.Second
)

// Verifier answers for all repositories of one trust server.
type Verifier struct {
	conf   Config
	pins   *pins
	needed map[string]bool // roles that verdicts rest on
	fetch  Fetcher
	state  State
	now    func() time.Time
	latest atomic.Int64 // the latest time ever seen, in Unix nanoseconds

	base    context.Context // ends with Close
	close   context.CancelFunc
	work    sync.WaitGroup
	mu      sync.Mutex
	entries map[string]*entry
}

// New checks the configuration and returns a Verifier. Run keeps its
// metadata fresh in the background; without Run, it is refreshed when a pull
// finds it old. Close ends everything.
func New(c Config, fetch Fetcher, state State) (*Verifier, error) {
	if fetch == nil || state == nil {
		return nil, errors.New("notary: a fetcher and a state are needed")
	}
	p, err := parsePin(c.Pin)
	if err != nil {
		return nil, fmt.Errorf("notary: %w", err)
	}
	if len(c.Roles) == 0 {
		c.Roles = []string{releasesRole, roleTargets}
	}
	if c.Refresh == 0 {
		c.Refresh = defaultRefresh
	}
	if c.Refresh < minRefresh {
		return nil, fmt.Errorf("notary: refresh is %s: it has to be at least %s", c.Refresh, minRefresh)
	}
	needed, err := neededRoles(c)
	if err != nil {
		return nil, fmt.Errorf("notary: %w", err)
	}
	v := &Verifier{conf: c, pins: p, needed: needed, fetch: fetch, state: state, now: time.Now, entries: map[string]*entry{}}
	v.base, v.close = context.WithCancel(context.Background())
	return v, nil
}

func neededRoles(c Config) (map[string]bool, error) {
	needed := map[string]bool{}
	add := func(key string, roles []string) error {
		seen := map[string]bool{}
		for _, r := range roles {
			if !validRole(r) {
				return fmt.Errorf("%s: %q is not a role: give targets or a delegation such as targets/releases", key, r)
			}
			if seen[r] {
				return fmt.Errorf("%s: %q is there twice", key, r)
			}
			for seen[r] = true; r != roleTargets; r = parentRole(r) {
				needed[r] = true
			}
		}
		return nil
	}
	needed[roleTargets] = true
	if err := add("roles", c.Roles); err != nil {
		return nil, err
	}
	if err := add("signers", c.Signers.Of); err != nil {
		return nil, err
	}
	if n := c.Signers.AtLeast; n < 0 || n > len(c.Signers.Of) || n == 0 && len(c.Signers.Of) > 0 {
		return nil, fmt.Errorf("signers: at_least is %d of %d roles: it has to be between 1 and their number", n, len(c.Signers.Of))
	}
	return needed, nil
}

// clock returns the time for expiry. It never goes back: a clock that is set
// back would make expired metadata valid again.
func (v *Verifier) clock() time.Time {
	now := v.now()
	v.floor(now)
	return time.Unix(0, v.latest.Load())
}

func (v *Verifier) floor(t time.Time) {
	for n := t.UnixNano(); ; {
		old := v.latest.Load()
		if n <= old || v.latest.CompareAndSwap(old, n) {
			return
		}
	}
}

// frozen reports whether expired metadata stands at t.
func (v *Verifier) frozen(t time.Time) bool { return t.Before(v.conf.FrozenUntil) }

// Verify implements verify.Verifier. A pull by tag is vouched for if the first
// role that has the tag says the subject's digest and size; a pull by digest,
// if any tag of an accepted role does.
func (v *Verifier) Verify(ctx context.Context, s verify.Subject) (verify.Evidence, error) {
	var evidence verify.Evidence
	err := v.ask(ctx, s.Name(), func(r *reader) (err error) {
		evidence, err = r.verify(s)
		return err
	})
	return evidence, err
}

// ask puts a question to what is known of a GUN and, before the answer is no,
// to what the server knows now: a tag that was signed a moment ago should not
// have to wait for the next refresh.
func (v *Verifier) ask(ctx context.Context, gun string, question func(*reader) error) error {
	// What is known at once must not answer somebody who has gone, or only at times.
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("trust metadata of %s: %w", gun, err)
	}
	e, refreshed, err := v.open(ctx, gun)
	if err != nil {
		return err
	}
	w := e.view()
	err = question(v.reader(w))
	if err == nil || refreshed || w.known() && e.age(v.now()) < settle {
		return err
	}
	if w.repo != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, settleWait)
		defer cancel()
	}
	if v.refresh(ctx, e) != nil {
		return err
	}
	return question(v.reader(e.view()))
}

// Scope implements verify.Scoped. The generation is empty while the metadata
// is older than the refresh interval: then Verify has to ask the server.
func (v *Verifier) Scope(s verify.Subject) verify.Scope {
	scope := verify.Scope{Tag: true}
	v.mu.Lock()
	e := v.entries[s.Name()]
	v.mu.Unlock()
	if e == nil {
		return scope
	}
	now := v.now()
	e.use(now)
	if w := e.view(); w != nil && w.repo != nil && e.age(now) <= v.conf.Refresh {
		scope.Generation = v.reader(w).generation()
	}
	return scope
}
