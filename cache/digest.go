package cache

import (
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"syscall"

	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
)

// Errors that callers tell apart.
var (
	// ErrNoSpace is wrapped if the disk or a quota is full.
	ErrNoSpace = errors.New("no space left for content")
	// ErrTooLarge is wrapped if content is larger than the caller or the store allows.
	ErrTooLarge = errors.New("content is too large")
	// ErrClosed is wrapped by what a Store does after Close, and by transfers that Close cuts.
	ErrClosed = errors.New("the content store is closed")
	// ErrStalled is wrapped if an upstream sent nothing for a minute.
	ErrStalled = errors.New("the upstream sent nothing for a minute")
)

// DigestError says that content is not what its digest or its size says. It is
// never stored and never completed to a reader.
type DigestError struct {
	// Source is the upstream's name; empty for content handed to Put or found in the store.
	Source string
	// Want and Got are the expected and the computed digest. Got is empty if
	// the size alone shows the mismatch.
	Want, Got digest.Digest
	// WantSize and GotSize count bytes; both are zero where no size was
	// expected. GotSize is WantSize+1 for content of any greater length.
	WantSize, GotSize int64
}

// Error says what differs.
func (e *DigestError) Error() string {
	from := ""
	if e.Source != "" {
		from = " from " + e.Source
	}
	switch {
	case e.GotSize < e.WantSize:
		return fmt.Sprintf("content%s for %s ends after %d bytes; want %d", from, e.Want, e.GotSize, e.WantSize)
	case e.GotSize > e.WantSize:
		return fmt.Sprintf("content%s for %s is longer than %d bytes", from, e.Want, e.WantSize)
	}
	return fmt.Sprintf("content%s has digest %s; want %s", from, e.Got, e.Want)
}

// checkDigest accepts exactly what may become a path: CVE-2024-3727 was a
// digest that was not looked at before it did.
func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if alg := d.Algorithm(); alg != digest.SHA256 && alg != digest.SHA512 {
		return fmt.Errorf("digest %q: %w", d, digest.ErrDigestUnsupported)
	}
	return nil
}

// newHash returns the hash for a digest that passed checkDigest.
func newHash(d digest.Digest) hash.Hash {
	if d.Algorithm() == digest.SHA512 {
		return sha512.New()
	}
	return sha256.New()
}

// sum returns the digest of what was written to h, in d's algorithm.
func sum(d digest.Digest, h hash.Hash) digest.Digest {
	return digest.NewDigest(d.Algorithm(), h)
}

const (
	// blobsPath and uploadsPath are the driver paths of content and of uploads in progress.
	blobsPath   = "/docker/registry/v2/blobs"
	uploadsPath = "/docker/registry/v2/transfers"
)

// blobDir is the driver path of the directory that holds d alone.
func blobDir(d digest.Digest) string {
	hex := d.Encoded()
	return blobsPath + "/" + d.Algorithm().String() + "/" + hex[:2] + "/" + hex
}

func blobPath(d digest.Digest) string { return blobDir(d) + "/data" }

// notExist is the error for content that is not stored.
func notExist(d digest.Digest) error { return fmt.Errorf("%s: %w", d, fs.ErrNotExist) }

// driverError makes errors of storage drivers answer to errors.Is:
// the drivers' own types do not unwrap.
func driverError(err error) error {
	var absent driver.PathNotFoundError
	var other driver.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &absent):
		return fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	case errors.As(err, &other) && other.Detail != nil:
		return fmt.Errorf("storage driver %s: %w", other.DriverName, asNoSpace(other.Detail))
	}
	return err
}

// asNoSpace marks the errors of a full disk, quota or file size limit.
func asNoSpace(err error) error {
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) {
			return fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
	}
	return err
}
