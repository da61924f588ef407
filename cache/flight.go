package cache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// idleTimeout bounds how long an upstream may take to answer, and then to
	// send the next byte. Registries that fetch from cold storage need tens of seconds.
	idleTimeout = 60 * time.Second
	// maxTransfer bounds a whole transfer, so that an upstream that drips does
	// not hold one for ever. It is enough for MaxBlob at 1 MiB/s.
	maxTransfer = 24 * time.Hour
	// maxResumes is how often in a row a broken transfer is taken up again.
	maxResumes = 5
	// resumeProgress is how much a resumed transfer must bring to earn the
	// whole budget anew: large blobs over bad lines pass, drips do not.
	resumeProgress = 16 << 20
	// resumeBackoff is the pause before the first resumption; it doubles.
	resumeBackoff = 200 * time.Millisecond
	// linger is how long a transfer goes on without a reader: a client whose
	// connection broke comes back for the rest (Docker does after 5 s), and must
	// not find the beginning thrown away.
	linger = 10 * time.Second
	// transferBuffer is the size of the reads from the upstream.
	transferBuffer = 128 << 10
)

// Opener opens the upstream's content at offset, which is 0 but for a transfer
// that broke. It must answer from exactly that offset, skipping what comes
// before if the upstream cannot. When ctx ends, reads must return. An error
// that wraps fs.ErrNotExist ends the transfer at once.
type Opener func(ctx context.Context, offset int64) (io.ReadCloser, error)

// errStored ends a flight that found its content in the store.
var errStored = errors.New("the content is stored already")

// errAbandoned cancels a transfer that nobody reads.
var errAbandoned = errors.New("nobody reads the transfer any more")

// flightKey says what may share a transfer. The source is part of it so that a
// bad upstream cannot fail the clients of another, the size so that a manifest
// with a wrong size cannot fail those of a right one.
type flightKey struct {
	source string
	digest digest.Digest
	size   int64
	stored bool // from the store's own driver, to be checked, not committed
}

// flight is one transfer from an upstream into a spool file.
type flight struct {
	store  *Store
	key    flightKey
	open   Opener
	ctx    context.Context
	cancel context.CancelCauseFunc

	// ready is closed when the upstream has answered or the flight has failed;
	// spool is set before, unless err is.
	ready chan struct{}
	spool *spool
	err   error

	// Guarded by store.mu.
	refs     int         // who waits or reads
	idle     *time.Timer // runs while nobody does
	verified bool        // from now on it is committed, read or not
	ended    bool        // no longer joined; the last reader closes the file
}

// release gives one reference back.
func (f *flight) release() {
	f.store.mu.Lock()
	f.refs--
	last, ended := f.refs == 0, f.ended
	if last && !f.verified && !ended {
		f.idle = time.AfterFunc(linger, f.abandon)
	}
	f.store.mu.Unlock()
	if last && ended {
		f.closeSpool()
	}
}

// abandon cancels the flight if it has no reader and is not verified.
func (f *flight) abandon() {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	if f.refs == 0 && !f.verified {
		f.store.drop(f)
		f.cancel(errAbandoned)
	}
}

// acquire takes one more reference; store.mu is held.
func (f *flight) acquire() {
	f.refs++
	if f.idle != nil {
		f.idle.Stop()
		f.idle = nil
	}
}

func (f *flight) closeSpool() {
	if f.spool != nil {
		_ = f.spool.file.Close() // read-only by now: nothing to lose
	}
}

// run carries out the flight. It ends when the content is committed or the
// transfer has failed; Store.Close waits for it.
func (f *flight) run() {
	defer f.store.running.Done()
	defer f.cancel(nil)
	ctx, cancel := context.WithTimeout(f.ctx, maxTransfer)
	defer cancel()
	err := f.prepare(ctx)
	if err == nil {
		err = f.transfer(ctx)
	}
	f.settle(err)
	if err == nil && !f.key.stored {
		f.store.commitFlight(f)
	}
	f.end()
}

// prepare looks whether there is anything to do, and room for it.
func (f *flight) prepare(ctx context.Context) error {
	if !f.key.stored {
		// A flight that ended just before this one began has committed.
		if _, err := f.store.Stat(ctx, f.key.digest); err == nil {
			return errStored
		}
	}
	if err := checkSpace(f.store.spool.path, f.key.size); err != nil {
		return err
	}
	sp, err := createSpool(f.store.spool.path, f.key.size)
	if err != nil {
		return err
	}
	f.spool = sp
	return nil
}

// settle tells everybody how the transfer ended.
func (f *flight) settle(err error) {
	s := f.store
	var bad *DigestError
	if errors.As(err, &bad) {
		s.condemn(f, bad)
	}
	s.mu.Lock()
	f.verified = err == nil
	if err != nil {
		s.drop(f) // a new caller starts anew
	}
	s.mu.Unlock()
	if f.spool != nil {
		if err != nil || f.key.stored {
			f.spool.remove()
		}
		f.spool.finish(err)
	}
	if err != nil {
		f.answer(err)
	}
}

// answer lets the callers of Fetch go on. Only run's goroutine calls it.
func (f *flight) answer(err error) {
	select {
	case <-f.ready:
	default:
		f.err = err
		close(f.ready)
	}
}

func (f *flight) end() {
	s := f.store
	s.mu.Lock()
	f.ended = true
	if f.idle != nil {
		f.idle.Stop()
	}
	s.drop(f)
	closing := f.refs == 0
	s.mu.Unlock()
	if closing {
		f.closeSpool()
	}
}

// transfer fills the spool and checks what came.
func (f *flight) transfer(ctx context.Context) error {
	h := newHash(f.key.digest)
	buf := make([]byte, transferBuffer)
	for resumes := 0; ; resumes++ {
		from := f.spool.written
		err := f.attempt(ctx, h, buf)
		if err == nil {
			return f.check(h)
		}
		if f.spool.written-from >= resumeProgress {
			resumes = 0
		}
		if resumes == maxResumes || !f.resumable(ctx, err) {
			return f.failure(err)
		}
		select {
		case <-time.After(resumeBackoff << resumes):
		case <-ctx.Done():
			return f.failure(context.Cause(ctx))
		}
	}
}

// resumable reports whether the upstream may do better next time. One that
// never answered has been asked often enough: its Opener retries by itself.
func (f *flight) resumable(ctx context.Context, err error) bool {
	var bad *DigestError
	var disk *spoolError
	select {
	case <-f.ready:
	default:
		return false
	}
	return ctx.Err() == nil && !errors.As(err, &bad) && !errors.As(err, &disk) && !errors.Is(err, fs.ErrNotExist)
}

func (f *flight) failure(err error) error {
	var bad *DigestError
	if errors.As(err, &bad) {
		return err
	}
	return fmt.Errorf("fetch %s from %s: %w", f.key.digest, f.key.source, err)
}

// attempt reads on from where the spool ends until the announced size is
// there and the upstream has no more.
func (f *flight) attempt(ctx context.Context, h hash.Hash, buf []byte) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(idleTimeout, func() { cancel(ErrStalled) })
	defer idle.Stop()
	body, err := f.open(ctx, f.spool.written)
	if err != nil {
		return because(ctx, err)
	}
	closeBody := sync.OnceFunc(func() { _ = body.Close() }) // an upstream's complaint at the end changes nothing
	defer closeBody()
	// A reader that does not watch its context is woken by closing it.
	stop := context.AfterFunc(ctx, closeBody)
	defer stop()
	f.answer(nil)
	for {
		n, err := body.Read(buf)
		if n > 0 {
			idle.Reset(idleTimeout)
		}
		full, err := f.take(h, buf[:n], err)
		if full {
			return err
		}
		if err != nil {
			return because(ctx, err)
		}
		if ctx.Err() != nil { // a reader of neither bytes nor errors
			return context.Cause(ctx)
		}
	}
}

// take adds p, which came with readErr, to the spool. It reports true if the
// transfer is over, for good or bad.
func (f *flight) take(h hash.Hash, p []byte, readErr error) (over bool, err error) {
	room := f.key.size - f.spool.written
	if int64(len(p)) > room {
		return true, f.sizeError(f.key.size + 1)
	}
	_, _ = h.Write(p) // a hash.Hash never fails
	if _, err := f.spool.Write(p); err != nil {
		return true, err
	}
	switch {
	case readErr == nil:
		return false, nil
	case f.spool.written == f.key.size:
		return true, nil // also if the line broke now: all there is to come is the end
	case errors.Is(readErr, io.EOF):
		return true, f.sizeError(f.spool.written)
	}
	return false, readErr
}

func (f *flight) sizeError(got int64) error {
	return &DigestError{Source: f.key.source, Want: f.key.digest, WantSize: f.key.size, GotSize: got}
}

func (f *flight) check(h hash.Hash) error {
	if got := sum(f.key.digest, h); got != f.key.digest {
		return &DigestError{Source: f.key.source, Want: f.key.digest, Got: got, WantSize: f.key.size, GotSize: f.spool.written}
	}
	return nil
}

// because prefers why ctx ended to what that made of a read.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
