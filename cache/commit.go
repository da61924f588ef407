package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// maxSmallUpload is up to where content is uploaded to a remote driver in
	// one piece, in memory: one request on S3, where an upload and a move are many.
	maxSmallUpload = 4 << 20
	// staleUpload is the age at which an unfinished upload counts as left by a
	// crash. Other hosts may be uploading to the same storage.
	staleUpload = 24 * time.Hour
)

// prepareDriver checks that Root is the driver's, and removes what crashes
// have left of uploads.
func (s *Store) prepareDriver(ctx context.Context) error {
	if path, ok := s.spoolDriverPath(s.spool.path); ok {
		if _, err := s.driver.Stat(ctx, path); err != nil {
			return fmt.Errorf("%s is not the root directory of storage driver %s: %w", s.config.Root, s.driver.Name(), driverError(err))
		}
	}
	uploads, err := s.driver.List(ctx, uploadsPath)
	if err = driverError(err); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list unfinished uploads: %w", err)
	}
	for _, path := range uploads {
		if err := s.removeStale(ctx, path); err != nil {
			return fmt.Errorf("remove unfinished upload %s: %w", path, err)
		}
	}
	return nil
}

func (s *Store) removeStale(ctx context.Context, path string) error {
	info, err := s.driver.Stat(ctx, path)
	if err == nil && time.Since(info.ModTime()) > staleUpload {
		err = s.driver.Delete(ctx, path)
	}
	if err = driverError(err); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// commitFlight stores what a flight brought. Its readers do not wait for that,
// and do not hear if it fails.
func (s *Store) commitFlight(f *flight) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(f.ctx), maxTransfer)
	defer cancel()
	save, err := s.commit(ctx, f.key.digest, f.spool)
	f.spool.remove()
	if err == nil {
		err = save()
	}
	if err != nil {
		s.report(f.key.digest, err)
	}
}

// commit stores verified content: others find it on return, and a kill does
// not undo it. Only save, which the caller must call, makes it durable against
// a power failure. The spool file's name may be gone then; if it is not, the
// caller removes it.
func (s *Store) commit(ctx context.Context, d digest.Digest, sp *spool) (save func() error, err error) {
	written, err := stampOf(sp.file)
	if err != nil {
		return nil, err
	}
	if written.size != sp.size {
		return nil, fmt.Errorf("the spool file has %d bytes; %d were written", written.size, sp.size)
	}
	unlock, err := s.locks.lock(ctx, d)
	if err != nil {
		return nil, err
	}
	path, ok := s.spoolDriverPath(sp.path)
	if ok {
		ok, err = s.nameSpool(ctx, d, sp)
	}
	settle := func() error { return nil }
	if ok && err == nil {
		settle, err = s.rename(ctx, d, sp, path, written)
	} else if err == nil {
		err = s.copy(ctx, d, sp)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return func() error { defer unlock(); return settle() }, nil
}

// nameSpool makes sure that a spool file has a name and is what was written to
// it. It returns false if it cannot be named.
func (s *Store) nameSpool(ctx context.Context, d digest.Digest, sp *spool) (bool, error) {
	if !sp.named {
		return nameFile(sp.file, sp.path) == nil, nil // no /proc: it is copied instead
	}
	h := newHash(d)
	if err := copyContext(ctx, h, sp.reader()); err != nil {
		return false, fmt.Errorf("read back: %w", err)
	}
	if sum(d, h) != d {
		return false, errChanged
	}
	return true, nil
}

// rename commits a spool file of the local driver. It gets a stamp only if
// nobody has written to it since it was verified; else it is hashed when it is
// first read. The stamp becomes durable after the file: were it the other way
// round, a power failure could leave a stamp that fits a file of zeros.
func (s *Store) rename(ctx context.Context, d digest.Digest, sp *spool, path string, written stamp) (save func() error, err error) {
	if err := s.driver.Move(ctx, path, blobPath(d)); err != nil {
		return nil, fmt.Errorf("commit: %w", driverError(err))
	}
	now, err := stampOf(sp.file)
	if err != nil {
		return nil, err
	}
	untouched := now.size == written.size && now.mtime == written.mtime
	if untouched {
		s.stamps.note(d, now)
	}
	return func() error {
		if err := sp.file.Sync(); err != nil { // the disk has not taken it after all
			err = fmt.Errorf("sync: %w", asNoSpace(err))
			return errors.Join(err, s.deleteLocked(context.WithoutCancel(ctx), d))
		}
		if untouched {
			s.stamps.save(d, now)
		}
		return nil
	}, nil
}

// copy commits a spool file that cannot be renamed into place. It hashes again
// what it sends.
func (s *Store) copy(ctx context.Context, d digest.Digest, sp *spool) error {
	h := newHash(d)
	body := io.TeeReader(sp.reader(), h)
	intact := func() bool { return sum(d, h) == d }
	var err error
	if sp.size <= maxSmallUpload && !s.local() {
		err = s.uploadSmall(ctx, d, body, intact)
	} else {
		err = s.upload(ctx, d, body, filepath.Base(sp.path), intact)
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if !s.local() {
		s.stamps.set(d, stamp{size: sp.size, mtime: time.Now().UnixNano()})
	}
	return nil // a local copy gets its stamp when it is first read
}

// errChanged says that a spool file is not what was written to it.
var errChanged = errors.New("the spool file was changed by somebody else")

func (s *Store) uploadSmall(ctx context.Context, d digest.Digest, r io.Reader, intact func() bool) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if !intact() {
		return errChanged
	}
	return driverError(s.driver.PutContent(ctx, blobPath(d), body))
}

// upload writes under a temporary name: with some drivers what is written is
// seen before it is complete.
func (s *Store) upload(ctx context.Context, d digest.Digest, r io.Reader, name string, intact func() bool) error {
	path := uploadsPath + "/" + filepath.Base(s.spool.path) + "-" + name
	w, err := s.driver.Writer(ctx, path, false)
	if err != nil {
		return driverError(err)
	}
	err = copyContext(ctx, w, r)
	if err == nil && !intact() {
		err = errChanged
	}
	if err == nil {
		err = w.Commit(ctx)
	}
	if err != nil {
		return driverError(errors.Join(err, w.Cancel(ctx)))
	}
	if err := w.Close(); err != nil {
		return driverError(err)
	}
	if err := s.driver.Move(ctx, path, blobPath(d)); err != nil {
		return driverError(errors.Join(err, s.driver.Delete(ctx, path)))
	}
	return nil
}
