package notary

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/countersign/countersign/verify"
)

const (
	// settle is how fresh knowledge has to be to refuse on it; it also bounds
	// the requests that a flood of refused pulls makes.
	settle = 2 * time.Second
	// settleWait is how long a refusal waits for fresher knowledge.
	settleWait = 5 * time.Second
	// idle is how long a GUN that nobody asks about is kept fresh.
	idle = time.Hour
	// maxEntries bounds the GUNs in memory: the one unused for longest goes.
	maxEntries = 10_000
	// workers bounds the background refreshes at a time: for 1,000 GUNs in 60
	// seconds each may take half a second.
	workers = 8
)

// entry is one GUN in use.
type entry struct {
	gun    string
	flight singleflight.Group // of one key: refreshes of this entry

	mu        sync.Mutex
	current   *view
	used      time.Time
	attempted time.Time // when the latest refresh began
	due       time.Time // when the background refreshes it next
	waiting   int       // pulls that wait because what is known is too old
}

// view is what is known about a GUN. It is never changed.
type view struct {
	repo      *repository // nil if nothing was ever verified
	err       error       // of the latest refresh; nil if it succeeded
	refreshed time.Time   // when the server last confirmed repo
}

// known reports whether there is an answer, good or bad.
func (w *view) known() bool {
	var refusal *verify.Refusal
	return w.repo != nil || errors.As(w.err, &refusal)
}

// overtaken reports whether the latest refresh found that repo does not hold
// any more: the server's metadata is refused, or is newer and could not be read.
func (w *view) overtaken() bool {
	var refusal *verify.Refusal
	var outdated *outdatedError
	return errors.As(w.err, &refusal) || errors.As(w.err, &outdated)
}

// generation names what verdicts rest on: the metadata in force, or what
// overtook it.
func (w *view) generation() string {
	if !w.overtaken() {
		return w.repo.generation
	}
	sum := sha256.Sum256([]byte(w.repo.generation + w.err.Error()))
	return "overtaken-" + hex.EncodeToString(sum[:8])
}

func (e *entry) view() *view {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current
}

func (e *entry) use(now time.Time) {
	e.mu.Lock()
	e.used = now
	e.mu.Unlock()
}

// age is how long ago the latest refresh began. A clock that went back tells
// nothing: then it is very long.
func (e *entry) age(now time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if d := now.Sub(e.attempted); d >= 0 {
		return d
	}
	return math.MaxInt64
}

// fresh reports whether the entry may be used without asking the server. While
// a pull waits for a refresh of old metadata, others wait with it; while the
// background refreshes, they do not.
func (e *entry) fresh(now time.Time, within time.Duration) bool {
	old := e.age(now) > within
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.current != nil && !old && e.waiting == 0
}

// open returns the entry of a GUN with its metadata loaded, or an attempt to
// load it made within the refresh interval, and whether that was just now.
func (v *Verifier) open(ctx context.Context, gun string) (e *entry, refreshed bool, err error) {
	if err := checkGUN(gun); err != nil {
		return nil, false, &verify.Refusal{Reason: verify.Malformed, Message: "the repository's name is not one that can be signed", Err: err}
	}
	e = v.entry(gun)
	if e.fresh(v.now(), v.conf.Refresh) {
		return e, false, nil
	}
	e.wait(1)
	defer e.wait(-1)
	return e, true, v.refresh(ctx, e)
}

func (e *entry) wait(n int) {
	e.mu.Lock()
	e.waiting += n
	e.mu.Unlock()
}

func (v *Verifier) entry(gun string) *entry {
	v.mu.Lock()
	e, ok := v.entries[gun]
	if !ok {
		if len(v.entries) >= maxEntries {
			v.evict()
		}
		e = &entry{gun: gun}
		v.entries[gun] = e
	}
	v.mu.Unlock()
	e.use(v.now())
	return e
}

// evict forgets the entry unused for longest, of those for which nothing was
// ever verified if there is one: names that a client makes up must not push out
// real ones. v.mu is held.
func (v *Verifier) evict() {
	var gun string
	var oldest time.Time
	kept := true
	for name, e := range v.entries {
		e.mu.Lock()
		verified := e.current != nil && e.current.repo != nil
		if gun == "" || kept && !verified || kept == verified && e.used.Before(oldest) {
			gun, oldest, kept = name, e.used, verified
		}
		e.mu.Unlock()
	}
	delete(v.entries, gun)
}

var errClosed = errors.New("the notary verifier is closed")

// refresh waits for a refresh of e. What it found is in e.view; the error says
// only that there was no waiting for it.
func (v *Verifier) refresh(ctx context.Context, e *entry) error {
	select {
	case <-v.start(e, func() {}):
	case <-ctx.Done():
		return fmt.Errorf("refresh the trust metadata of %s: %w", e.gun, ctx.Err())
	}
	if e.view() == nil {
		return errClosed
	}
	return nil
}

// start begins a refresh, or joins the one that is under way. The refresh
// outlives a caller that goes away; it ends with its timeout or with Close, and
// then calls after.
func (v *Verifier) start(e *entry, after func()) <-chan struct{} {
	done := make(chan struct{})
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.base.Err() != nil {
		close(done)
		return done
	}
	v.work.Go(func() {
		defer after()
		defer close(done)
		_, _, _ = e.flight.Do(e.gun, func() (any, error) {
			v.refreshOnce(e)
			return nil, nil
		})
	})
	return done
}

func (v *Verifier) refreshOnce(e *entry) {
	limit := min(updateTimeout, max(v.conf.Refresh/2, minUpdateTimeout))
	ctx, cancel := context.WithTimeout(v.base, limit)
	defer cancel()
	now := v.now()
	e.mu.Lock()
	e.attempted, e.due = now, now.Add(jitter(v.conf.Refresh))
	old := e.current
	e.mu.Unlock()
	next := v.next(ctx, e.gun, old)
	e.mu.Lock()
	e.current = next
	e.mu.Unlock()
}

// next does one update. That what is known is overtaken counts at once. If
// the server could not be read, what is known stays, and if it was overtaken
// before, that stays too.
func (v *Verifier) next(ctx context.Context, gun string, old *view) (next *view) {
	next = &view{}
	defer func() {
		// A crash on hostile metadata must not stop the process: it is one
		// more way of not knowing.
		if p := recover(); p != nil {
			next.err = fmt.Errorf("update %s: panic: %v", gun, p)
		}
	}()
	if old != nil {
		*next = *old
	}
	if next.repo == nil { // another process may have been there first
		if next.repo, next.err = v.restore(ctx, gun); next.err != nil {
			return next
		}
	}
	repo, err := v.update(ctx, gun, next.repo)
	if err == nil {
		return &view{repo: repo, refreshed: v.now()}
	}
	if latest := (&view{err: err}); latest.overtaken() || !next.overtaken() {
		next.err = err
	}
	return next
}

// jitter spreads refreshes over the end of the interval, so that they are
// done within it.
func jitter(d time.Duration) time.Duration { return d*2/3 + rand.N(d/4) }

// Run refreshes every GUN that was asked about within the last hour, so that
// no pull after the first waits for the server. It returns nil when ctx ends
// or the Verifier is closed.
func (v *Verifier) Run(ctx context.Context) error {
	slots := make(chan struct{}, workers)
	tick := time.NewTicker(v.conf.Refresh / 60)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.base.Done():
			return nil
		case <-tick.C:
		}
		for _, e := range v.dueEntries() {
			select {
			case <-ctx.Done():
				return nil
			case <-v.base.Done():
				return nil
			case slots <- struct{}{}:
			}
			v.start(e, func() { <-slots })
		}
	}
}

// dueEntries returns the entries to refresh now, and forgets those that
// nobody asks about any more: what verified is in the state.
func (v *Verifier) dueEntries() []*entry {
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	var due []*entry
	for gun, e := range v.entries {
		e.mu.Lock()
		unused := now.Sub(e.used)
		switch {
		case e.current == nil:
		case unused > idle, e.current.repo == nil && unused > v.conf.Refresh:
			delete(v.entries, gun)
		case e.current.repo != nil && !e.due.After(now):
			due = append(due, e)
		}
		e.mu.Unlock()
	}
	return due
}

// Close ends Run and every refresh, and waits for them.
func (v *Verifier) Close() error {
	v.mu.Lock()
	v.close()
	v.mu.Unlock()
	v.work.Wait()
	return nil
}
