package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
)

// Content is one reader of content: of a stored file, or of a transfer while
// it grows. It implements io.ReadSeekCloser; like a file it has one position
// and is for one goroutine, but Close may be called from any and ends a Read
// that waits. The context it was opened with ends such a Read, too.
type Content struct {
	size   int64
	file   *os.File // a complete local file, else nil
	flight *flight  // else the transfer
	ctx    context.Context
	pos    int64
	err    error

	once   sync.Once
	closed chan struct{}
}

func fileContent(f *os.File, size int64) *Content { return &Content{size: size, file: f} }

// flightContent takes over the caller's reference to f.
func flightContent(ctx context.Context, f *flight) *Content {
	return &Content{size: f.key.size, flight: f, ctx: ctx, closed: make(chan struct{})}
}

// Size returns the number of bytes of the whole content.
func (c *Content) Size() int64 { return c.size }

// File returns the complete local file, so that it can be sent without copying
// (sendfile); nil if the content is, or was at the call that opened it, in
// transfer. Its position is the Content's, and Close closes it.
func (c *Content) File() *os.File { return c.file }

// FromStore reports whether the content was stored before it was asked for.
func (c *Content) FromStore() bool { return c.file != nil || c.flight.key.stored }

// Err returns the error that cut the content short for this reader, if any:
// *DigestError, ErrNoSpace, or what the upstream failed with. What has been
// passed on is then not the content, and must not be made to look complete.
func (c *Content) Err() error { return c.err }

// Read reads the next bytes, and waits for them if they are still in transfer
// or withheld. At the end of content that is not yet verified it waits, too.
func (c *Content) Read(p []byte) (int, error) {
	if c.file != nil {
		n, err := c.file.Read(p)
		return n, c.keep(err)
	}
	if c.err != nil {
		return 0, c.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	limit, err := c.flight.spool.wait(c.ctx, c.closed, c.pos)
	if err != nil {
		return 0, c.keep(err)
	}
	n, err := c.flight.spool.file.ReadAt(p[:min(int64(len(p)), limit-c.pos)], c.pos)
	c.pos += int64(n)
	if errors.Is(err, io.EOF) { // below limit: somebody has cut the file
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		err = fmt.Errorf("spool: %w", err)
	}
	return n, c.keep(err)
}

// keep remembers what cut the content. Neither its end nor the reader's own
// Close did.
func (c *Content) keep(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrClosed) {
		c.err = err
	}
	return err
}

// Seek sets the position of the next Read. It does not wait.
func (c *Content) Seek(offset int64, whence int) (int64, error) {
	if c.file != nil {
		return c.file.Seek(offset, whence)
	}
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += c.pos
	case io.SeekEnd:
		offset += c.size
	default:
		return 0, fmt.Errorf("seek: whence %d: %w", whence, fs.ErrInvalid)
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek: negative position: %w", fs.ErrInvalid)
	}
	c.pos = offset
	return offset, nil
}

// Close releases the content. A transfer that nobody reads any more and whose
// digest does not hold yet is cancelled.
func (c *Content) Close() error {
	if c.file != nil {
		return c.file.Close()
	}
	c.once.Do(func() {
		close(c.closed)
		c.flight.release()
	})
	return nil
}
