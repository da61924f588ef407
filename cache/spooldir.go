package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// spoolLive and spoolNew begin the names of processes' directories in the
	// spool directory: complete, and not yet locked.
	spoolLive = "transfers-"
	spoolNew  = "starting-"
	// spoolNewGrace is how long a process may take from creating its directory
	// to locking it, before the directory counts as left by a crash.
	spoolNewGrace = time.Hour
	// transferPrefix begins the name of one transfer's file, if it has one.
	transferPrefix = "transfer-"
)

// spoolDir is this process's own directory for transfers. It is locked for as
// long as the process lives, so that another process that starts on the same
// storage removes only what a crash left.
type spoolDir struct {
	path string
	lock *os.File
}

// openSpoolDir removes what earlier processes left in dir and makes a
// directory of its own there.
func openSpoolDir(dir string) (*spoolDir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool directory: %w", err)
	}
	if err := removeLitter(dir); err != nil {
		return nil, fmt.Errorf("spool directory: remove unfinished transfers: %w", err)
	}
	starting, err := os.MkdirTemp(dir, spoolNew) // mode 0700
	if err != nil {
		return nil, fmt.Errorf("spool directory: %w", err)
	}
	lock, err := lockDir(starting)
	if err != nil {
		return nil, fmt.Errorf("spool directory: %w", errors.Join(err, os.Remove(starting)))
	}
	path := filepath.Join(dir, spoolLive+strings.TrimPrefix(filepath.Base(starting), spoolNew))
	if err := os.Rename(starting, path); err != nil {
		return nil, fmt.Errorf("spool directory: %w", errors.Join(err, lock.Close(), os.Remove(starting)))
	}
	return &spoolDir{path: path, lock: lock}, nil
}

// close removes the directory with all that is in it.
func (d *spoolDir) close() error {
	return errors.Join(os.RemoveAll(d.path), d.lock.Close())
}

// removeLitter removes the directories of processes that are gone. It touches
// nothing else, should dir not be ours alone.
func removeLitter(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case !e.IsDir():
		case strings.HasPrefix(e.Name(), spoolLive):
			err = removeIfUnlocked(path)
		case strings.HasPrefix(e.Name(), spoolNew):
			err = removeIfOld(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func removeIfUnlocked(path string) error {
	lock, err := lockDir(path)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil // its process lives
	}
	if err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(path), lock.Close())
}

func removeIfOld(path string) error {
	info, err := os.Stat(path)
	if err != nil || time.Since(info.ModTime()) < spoolNewGrace {
		return err
	}
	return os.RemoveAll(path)
}

// lockDir takes the lock of a directory; the kernel lets go of it when the
// process ends, however it ends.
func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: path, Err: err}, f.Close())
	}
	return f, nil
}

// checkSpace reports early that size bytes do not fit, while a caller can
// still be answered. A transfer may fill the disk nevertheless.
func checkSpace(dir string, size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil // not every file system tells; writing will
	}
	if free := uint64(st.Bavail) * uint64(st.Bsize); uint64(size) > free {
		return fmt.Errorf("%w: %d bytes are needed and %d are free in %s", ErrNoSpace, size, free, dir)
	}
	return nil
}
