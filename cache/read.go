package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
)

// copyBuffer is the size of reads when a file is hashed or copied.
const copyBuffer = 128 << 10

// Open returns stored content. The error wraps fs.ErrNotExist if it is not
// stored, or was stored corrupt and has been removed. ctx bounds this call
// and, for content of a remote driver, the reads of the Content.
func (s *Store) Open(ctx context.Context, d digest.Digest) (*Content, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	open := s.openRemote
	if s.local() {
		open = s.openLocal
	}
	c, err := open(ctx, d)
	if err == nil && s.config.Limit > 0 {
		s.usage.touch(d)
	}
	return c, err
}

// ReadAll returns stored content whole, hashed on the way out. A corrupt copy
// is removed and reads as fs.ErrNotExist. Content of more than max bytes is
// ErrTooLarge.
func (s *Store) ReadAll(ctx context.Context, d digest.Digest, max int64) ([]byte, error) {
	c, err := s.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if c.Size() > max {
		return nil, fmt.Errorf("%s: %w: %d bytes; at most %d are allowed", d, ErrTooLarge, c.Size(), max)
	}
	body := make([]byte, c.Size())
	_, err = io.ReadFull(c, body)
	var bad *DigestError
	switch {
	case errors.As(err, &bad):
		return nil, notExist(d)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		body = nil // cut since it was opened: as corrupt as any other
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", d, err)
	}
	if d.Algorithm().FromBytes(body) != d {
		return nil, s.discard(ctx, d)
	}
	return body, nil
}

// discard removes d and returns that it is not stored.
func (s *Store) discard(ctx context.Context, d digest.Digest) error {
	if err := s.Delete(ctx, d); err != nil {
		return fmt.Errorf("the stored copy is corrupt: %w", err)
	}
	return notExist(d)
}

// openLocal serves the file as it is only while its stamp says that it is what
// was hashed.
func (s *Store) openLocal(ctx context.Context, d digest.Digest) (*Content, error) {
	f, now, err := s.openFile(ctx, d)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.forget(ctx, d)
		return nil, err
	case errors.Is(err, errNotRegular):
		return nil, s.discard(ctx, d)
	case err != nil:
		return nil, err
	}
	if known, ok := s.stamps.get(d); ok && known == now {
		return fileContent(f, now.size), nil
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open %s: %w", d, err)
	}
	return s.recheck(ctx, d)
}

// forget drops the stamp of content that somebody else has removed.
func (s *Store) forget(ctx context.Context, d digest.Digest) {
	if _, ok := s.stamps.get(d); !ok {
		return
	}
	unlock, err := s.locks.lock(ctx, d)
	if err != nil {
		return // the next to ask does it
	}
	defer unlock()
	if _, err := s.driver.Stat(ctx, blobPath(d)); errors.Is(driverError(err), fs.ErrNotExist) {
		s.stamps.remove(d)
		s.usage.forget(d)
	}
}

// openFile opens the file of d, with its stamp, from the local driver.
func (s *Store) openFile(ctx context.Context, d digest.Digest) (*os.File, stamp, error) {
	r, err := s.driver.Reader(ctx, blobPath(d), 0)
	if err != nil {
		return nil, stamp{}, fmt.Errorf("open %s: %w", d, driverError(err))
	}
	f, ok := r.(*os.File)
	if !ok {
		return nil, stamp{}, errors.Join(fmt.Errorf("open %s: storage driver %s does not return files: Root must be empty", d, s.driver.Name()), r.Close())
	}
	now, err := stampOf(f)
	if err != nil {
		return nil, stamp{}, fmt.Errorf("open %s: %w", d, errors.Join(err, f.Close()))
	}
	return f, now, nil
}

// recheck hashes the file of d, one caller at a time, and serves the very file
// that it hashed. A corrupt one is removed.
func (s *Store) recheck(ctx context.Context, d digest.Digest) (*Content, error) {
	unlock, err := s.locks.lock(ctx, d)
	if err != nil {
		return nil, err
	}
	defer unlock()
	f, before, err := s.openFile(ctx, d)
	if err != nil {
		return nil, err
	}
	if known, ok := s.stamps.get(d); ok && known == before {
		return fileContent(f, before.size), nil // another caller has hashed it meanwhile
	}
	after, err := hashFile(ctx, d, f)
	if err == nil && after == before {
		s.stamps.set(d, after)
		return fileContent(f, after.size), nil
	}
	closeErr := f.Close()
	var bad *DigestError
	switch {
	case errors.As(err, &bad):
		if err := s.deleteLocked(ctx, d); err != nil {
			return nil, fmt.Errorf("remove corrupt %s: %w", d, err)
		}
		return nil, notExist(d)
	case err == nil:
		err = errors.New("the file changes while it is read")
	}
	return nil, fmt.Errorf("check %s: %w", d, errors.Join(err, closeErr))
}

// hashFile returns the stamp of f after hashing it, with its position at the
// start. The error is a *DigestError if f is not d.
func hashFile(ctx context.Context, d digest.Digest, f *os.File) (stamp, error) {
	h := newHash(d)
	if err := copyContext(ctx, h, f); err != nil {
		return stamp{}, err
	}
	if got := sum(d, h); got != d {
		return stamp{}, &DigestError{Want: d, Got: got}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return stamp{}, err
	}
	return stampOf(f)
}

// copyContext copies r to w until ctx ends.
func copyContext(ctx context.Context, w io.Writer, r io.Reader) error {
	buf := make([]byte, copyBuffer)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (s *Store) statRemote(ctx context.Context, d digest.Digest) (int64, error) {
	info, err := s.driver.Stat(ctx, blobPath(d))
	if err != nil {
		return 0, fmt.Errorf("stat %s: %w", d, driverError(err))
	}
	if info.IsDir() {
		return 0, notExist(d)
	}
	return info.Size(), nil
}

// openRemote checks remote content as if it came from an upstream. The flight
// removes what turns out corrupt, so that the next caller fetches it.
func (s *Store) openRemote(ctx context.Context, d digest.Digest) (*Content, error) {
	size, err := s.statRemote(ctx, d)
	if errors.Is(err, fs.ErrNotExist) {
		s.forget(ctx, d)
	}
	if err != nil {
		return nil, err
	}
	key := flightKey{source: s.driver.Name(), digest: d, size: size, stored: true}
	c, err := s.fly(ctx, key, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		r, err := s.driver.Reader(ctx, blobPath(d), offset)
		return r, driverError(err)
	})
	var bad *DigestError
	if errors.As(err, &bad) {
		return nil, notExist(d)
	}
	return c, err
}

// Put stores body, which must be d; everybody finds it on return. It is for
// content that was read whole, like manifests. It survives the process at
// once, and a power failure as soon as the disk has it, which Put does not wait
// for. The error is a *DigestError if body is not d.
func (s *Store) Put(ctx context.Context, d digest.Digest, body []byte) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	if got := d.Algorithm().FromBytes(body); got != d {
		return &DigestError{Want: d, Got: got}
	}
	if _, err := s.Stat(ctx, d); err == nil {
		return nil
	}
	if err := s.enter(ctx); err != nil {
		return fmt.Errorf("put %s: %w", d, err)
	}
	sp, save, err := s.put(ctx, d, body)
	if err != nil {
		s.leave()
		return fmt.Errorf("put %s: %w", d, err)
	}
	go func() { // ends when the disk has the file; Close waits for it
		defer s.leave()
		if err := errors.Join(save(), sp.file.Close()); err != nil {
			s.report(d, err)
		}
	}()
	return nil
}

func (s *Store) put(ctx context.Context, d digest.Digest, body []byte) (sp *spool, save func() error, err error) {
	if sp, err = createSpool(s.spool.path, int64(len(body))); err != nil {
		return nil, nil, err
	}
	if _, err = sp.Write(body); err == nil {
		save, err = s.commit(ctx, d, sp)
	}
	sp.remove()
	if err != nil {
		return nil, nil, errors.Join(err, sp.file.Close())
	}
	return sp, save, nil
}

// enter waits for one of the places of Puts in progress. The caller leaves.
func (s *Store) enter(ctx context.Context) error {
	select {
	case s.puts <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		<-s.puts
		return ErrClosed
	}
	s.running.Add(1)
	return nil
}

func (s *Store) leave() {
	<-s.puts
	s.running.Done()
}
