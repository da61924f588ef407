package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
)

const (
	// defaultMaxBlob bounds one blob. Layers with machine learning models reach some tens of GiB.
	defaultMaxBlob = 64 << 30
	// badTTL and maxBad: how long, and for how many digests, it is remembered
	// that an upstream sent something else. Long enough to keep a retrying
	// client from downloading it again and again, short enough to heal.
	badTTL = time.Minute
	maxBad = 4096
	// removeTimeout bounds the removal of corrupt content from a remote driver.
	removeTimeout = 30 * time.Second
	// maxPuts bounds the Puts that wait for the disk, each with an open file.
	maxPuts = 64
	// maxFetchRounds is how often Fetch looks again when what it found stored
	// is gone a moment later.
	maxFetchRounds = 3
)

// StoreConfig configures a Store.
type StoreConfig struct {
	// Driver holds the content. Its content is not trusted.
	Driver storagedriver.StorageDriver
	// Root is the local root directory if Driver is the filesystem driver, else empty.
	Root string
	// Spool is a local directory for transfers in progress. With the filesystem
	// driver the default is Root/spool, and any directory below Root makes a
	// commit a rename. With other drivers it must be set.
	Spool string
	// State keeps the stamps of stored files. Without it each file is hashed
	// once more after a start, and what a remote driver holds is not counted.
	State *State
	// MaxBlob bounds the content that Fetch accepts, in bytes; zero is 64 GiB.
	MaxBlob int64
	// Limit is how many bytes are kept; what was used least recently is evicted
	// beyond it. Zero is no limit.
	Limit int64
	// Failed, if set, is told what no caller hears of: verified content could
	// not be stored (its readers were served nevertheless), or a corrupt copy
	// could not be removed. It must not block.
	Failed func(d digest.Digest, err error)
}

// Store keeps content by digest. Nothing that does not match its digest is
// committed to it or completed to a reader of it. Methods are safe for
// concurrent use.
type Store struct {
	driver  storagedriver.StorageDriver
	config  StoreConfig
	spool   *spoolDir
	stamps  *stamps
	locks   digestLocks
	bad     *Brief[flightKey, *DigestError]
	usage   usage
	stop    context.CancelFunc // ends upkeep
	running sync.WaitGroup     // flights, Puts and upkeep
	puts    chan struct{}      // a place for each Put whose file is not on the disk yet

	mu      sync.Mutex
	flights map[flightKey]*flight
	live    map[*flight]struct{} // including those that are not joined any more
	closed  bool
}

// OpenStore opens the store and removes unfinished transfers that a crash left.
// Several processes may share the storage, each with its own State.
func OpenStore(ctx context.Context, c StoreConfig) (*Store, error) {
	if c.Driver == nil {
		return nil, errors.New("open content store: no storage driver")
	}
	if c.MaxBlob <= 0 {
		c.MaxBlob = defaultMaxBlob
	}
	if err := setSpool(&c); err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	stamps, err := newStamps(c.State)
	if err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	dir, err := openSpoolDir(c.Spool)
	if err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	s := &Store{
		driver: c.Driver, config: c, spool: dir, stamps: stamps,
		locks:   digestLocks{held: make(map[digest.Digest]chan struct{})},
		bad:     NewBrief[flightKey, *DigestError](maxBad, badTTL),
		puts:    make(chan struct{}, maxPuts),
		flights: make(map[flightKey]*flight),
		live:    make(map[*flight]struct{}),
		usage:   usage{last: make(map[digest.Digest]time.Time)},
	}
	if err := s.prepareDriver(ctx); err != nil {
		return nil, fmt.Errorf("open content store: %w", errors.Join(err, dir.close()))
	}
	var upkeep context.Context
	upkeep, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.running.Go(func() { s.upkeep(upkeep) })
	return s, nil
}

func setSpool(c *StoreConfig) error {
	if c.Root == "" && c.Spool == "" {
		return errors.New("no spool directory: set one, since the driver has no local directory")
	}
	var err error
	if c.Root != "" {
		if c.Root, err = filepath.Abs(c.Root); err != nil {
			return err
		}
	}
	if c.Spool == "" {
		c.Spool = filepath.Join(c.Root, "spool")
	}
	c.Spool, err = filepath.Abs(c.Spool)
	return err
}

// local reports whether content is in files of this host.
func (s *Store) local() bool { return s.config.Root != "" }

// Stat returns the size in bytes of stored content. The error wraps
// fs.ErrNotExist if it is not stored. A local file that has changed since it
// was last hashed is hashed; remote content is not looked at.
func (s *Store) Stat(ctx context.Context, d digest.Digest) (int64, error) {
	if err := checkDigest(d); err != nil {
		return 0, err
	}
	if s.local() {
		c, err := s.openLocal(ctx, d)
		if err != nil {
			return 0, err
		}
		return c.Size(), c.Close()
	}
	return s.statRemote(ctx, d)
}

// Size returns how many bytes and blobs are stored, as far as this store
// knows: files without a stamp are found in the first moments after a start,
// what others put into a remote driver is not. It is cheap.
func (s *Store) Size(context.Context) (bytes, blobs int64) {
	return s.stamps.bytes.Load(), s.stamps.blobs.Load()
}

// Delete removes content. Those who read it go on. It is no error if it is not stored.
func (s *Store) Delete(ctx context.Context, d digest.Digest) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	unlock, err := s.locks.lock(ctx, d)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.deleteLocked(ctx, d); err != nil {
		return fmt.Errorf("delete %s: %w", d, err)
	}
	return nil
}

// deleteLocked removes the directory of d: an empty one would stay for ever.
// The stamp goes first: one without content would be counted for ever if the
// process ended in between, content without one is hashed and counted again.
func (s *Store) deleteLocked(ctx context.Context, d digest.Digest) error {
	s.stamps.remove(d)
	s.usage.forget(d)
	if err := driverError(s.driver.Delete(ctx, blobDir(d))); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Close cuts the transfers that are not verified, waits until the others are
// committed, and releases the spool directory. Stored content that is open
// stays readable.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	for f := range s.live {
		if !f.verified {
			f.cancel(ErrClosed)
		}
	}
	s.mu.Unlock()
	s.stop()
	s.running.Wait()
	if again {
		return nil
	}
	if err := s.spool.close(); err != nil {
		return fmt.Errorf("close content store: %w", err)
	}
	return nil
}

// Fetch returns the content d of size bytes: from the store, or from an
// upstream, which open reads and source names. It returns as soon as the
// upstream has answered, and then the Content grows; content that would be
// withheld whole it returns when it is verified.
//
// Simultaneous calls with the same source, digest and size share one transfer.
// It outlives the caller that started it, and is cancelled when for 10 s no
// Content of it has been open. ctx bounds this call and the reads of its Content.
//
// Errors: *DigestError if the content is not d, at once for a minute after
// that; ErrNoSpace; ErrTooLarge; ErrClosed; ErrStalled; or what open returned.
func (s *Store) Fetch(ctx context.Context, source string, d digest.Digest, size int64, open Opener) (*Content, error) {
	if err := s.checkFetch(d, size); err != nil {
		return nil, err
	}
	key := flightKey{source: source, digest: d, size: size}
	for range maxFetchRounds {
		c, err := s.Open(ctx, d)
		if err == nil {
			return ofSize(c, key)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if bad, ok := s.bad.Get(key); ok {
			return nil, bad
		}
		if c, err = s.fly(ctx, key, open); !errors.Is(err, errStored) {
			return c, err
		}
	}
	return nil, fmt.Errorf("fetch %s: it is deleted as fast as it is stored", d)
}

func (s *Store) checkFetch(d digest.Digest, size int64) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	if size < 0 {
		return fmt.Errorf("fetch %s: negative size %d", d, size)
	}
	if size > s.config.MaxBlob {
		return fmt.Errorf("fetch %s: %w: %d bytes; at most %d are allowed", d, ErrTooLarge, size, s.config.MaxBlob)
	}
	return nil
}

// ofSize refuses stored content under a size that is not its own: whoever
// announced that size is wrong.
func ofSize(c *Content, key flightKey) (*Content, error) {
	if c.Size() == key.size {
		return c, nil
	}
	got := c.Size()
	return nil, errors.Join(&DigestError{Source: key.source, Want: key.digest, WantSize: key.size, GotSize: got}, c.Close())
}

// fly joins the flight of key, or starts it, and waits for the upstream.
func (s *Store) fly(ctx context.Context, key flightKey, open Opener) (*Content, error) {
	f, err := s.join(ctx, key, open)
	if err != nil {
		return nil, err
	}
	select {
	case <-f.ready:
	case <-ctx.Done():
		f.release()
		return nil, fmt.Errorf("fetch %s: %w", key.digest, context.Cause(ctx))
	}
	if f.err != nil {
		f.release()
		return nil, f.err
	}
	c := flightContent(ctx, f)
	// Nothing could be read before that, and now an error still has an answer.
	if key.size <= LastBlock {
		if _, err := f.spool.wait(ctx, c.closed, key.size); !errors.Is(err, io.EOF) {
			f.release()
			return nil, fmt.Errorf("fetch %s: %w", key.digest, err)
		}
	}
	return c, nil
}

// join returns the flight of key with one more reference.
func (s *Store) join(ctx context.Context, key flightKey, open Opener) (*flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("fetch %s: %w", key.digest, ErrClosed)
	}
	f, ok := s.flights[key]
	if !ok {
		f = &flight{store: s, key: key, open: open, ready: make(chan struct{})}
		f.ctx, f.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
		s.flights[key] = f
		s.live[f] = struct{}{}
		s.running.Add(1)
		go f.run()
	}
	f.acquire()
	return f, nil
}

// condemn acts on content of f that is not what its digest says.
func (s *Store) condemn(f *flight, bad *DigestError) {
	if !f.key.stored {
		s.bad.Set(f.key, bad)
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), removeTimeout)
	defer cancel()
	if err := s.Delete(ctx, f.key.digest); err != nil {
		s.report(f.key.digest, fmt.Errorf("the stored copy is corrupt and cannot be removed: %w", err))
	}
}

// report tells the owner about a failure that no caller hears of.
func (s *Store) report(d digest.Digest, err error) {
	if s.config.Failed != nil {
		s.config.Failed(d, err)
	}
}

// drop takes f out of what may be joined; mu is held.
func (s *Store) drop(f *flight) {
	if s.flights[f.key] == f {
		delete(s.flights, f.key)
	}
	if f.ended {
		delete(s.live, f)
	}
}

// spoolDriverPath returns the driver's path of a local file below its root.
func (s *Store) spoolDriverPath(path string) (string, bool) {
	rel, err := filepath.Rel(s.config.Root, path)
	if !s.local() || err != nil || strings.HasPrefix(rel, "..") {
		return "", false
	}
	p := "/" + filepath.ToSlash(rel)
	return p, storagedriver.PathRegexp.MatchString(p)
}
