package cache

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// LastBlock is how much of a transfer's end is withheld from every reader until
// the digest of the whole holds. A client without the last block cannot
// complete the content, whatever it has read before. Content of at most this
// size is withheld whole.
const LastBlock = 64 << 10

// spool is one transfer's local file: one writer, any number of readers that
// follow it.
type spool struct {
	file *os.File
	path string
	// named is set if the file had its name from the start, so that others
	// may have written to it; else it gets the name at its commit.
	named bool
	size  int64 // announced

	mu       sync.Mutex
	changed  chan struct{} // closed at the next change; nil while nobody waits
	written  int64
	verified bool
	err      error // why the transfer failed; readers get it
}

// createSpool creates the file of a transfer of size bytes: without a name if
// the file system can, so that a crash leaves nothing.
func createSpool(dir string, size int64) (*spool, error) {
	if f, err := unnamedFile(dir); err == nil {
		return &spool{file: f, path: filepath.Join(dir, transferPrefix+rand.Text()), size: size}, nil
	}
	f, err := os.CreateTemp(dir, transferPrefix) // mode 0600
	if err != nil {
		return nil, fmt.Errorf("spool: %w", asNoSpace(err))
	}
	return &spool{file: f, path: f.Name(), named: true, size: size}, nil
}

// Write appends p. Only the transfer calls it.
func (sp *spool) Write(p []byte) (int, error) {
	n, err := sp.file.Write(p)
	sp.mu.Lock()
	sp.written += int64(n)
	sp.wake()
	sp.mu.Unlock()
	if err != nil {
		return n, &spoolError{asNoSpace(err)}
	}
	return n, nil
}

// spoolError is a failure of the local disk: fetching again would not help.
type spoolError struct{ err error }

func (e *spoolError) Error() string { return "spool: " + e.err.Error() }
func (e *spoolError) Unwrap() error { return e.err }

// finish lets the readers have the rest, or, with an error, nothing more.
func (sp *spool) finish(err error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.verified, sp.err = err == nil, err
	sp.wake()
}

// wake is called with mu held.
func (sp *spool) wake() {
	if sp.changed != nil {
		close(sp.changed)
		sp.changed = nil
	}
}

// remove deletes the file's name, if it has one. Readers that have it open go on.
func (sp *spool) remove() { _ = os.Remove(sp.path) }

// reader reads the whole file anew, whoever else reads it.
func (sp *spool) reader() io.Reader { return io.NewSectionReader(sp.file, 0, sp.size) }

// look returns how far the file may be read now, and what to wait for if that
// does not suffice.
func (sp *spool) look() (limit int64, verified bool, changed <-chan struct{}, err error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.changed == nil {
		sp.changed = make(chan struct{})
	}
	limit = max(0, min(sp.written, sp.size-LastBlock))
	if sp.verified {
		limit = sp.size
	}
	return limit, sp.verified, sp.changed, sp.err
}

// wait blocks until the byte at pos may be read and returns how far it may be.
// At the end of verified content the error is io.EOF.
func (sp *spool) wait(ctx context.Context, closed <-chan struct{}, pos int64) (limit int64, err error) {
	for {
		limit, verified, changed, err := sp.look()
		switch {
		case err != nil:
			return 0, err
		case pos < limit:
			return limit, nil
		case verified:
			return limit, io.EOF
		}
		select {
		case <-changed:
		case <-closed:
			return 0, fs.ErrClosed
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}
