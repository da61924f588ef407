package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// adopt lists local files that have no stamp: a crash came between their commit
// and their stamp, State is new, or somebody else put them there. Unlisted they
// would neither count nor ever be evicted. They are not hashed: what they get
// fits no file, so the first reader does that.
func (s *Store) adopt(ctx context.Context) {
	root := filepath.Join(s.config.Root, filepath.FromSlash(blobsPath))
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			return nil // an empty store, or deleted meanwhile
		case err != nil:
			return err
		case e.IsDir() || e.Name() != "data":
			return nil
		}
		return s.adoptFile(ctx, path)
	})
	if err != nil && ctx.Err() == nil {
		s.report("", fmt.Errorf("list stored content: %w", err))
	}
}

func (s *Store) adoptFile(ctx context.Context, path string) error {
	dir := filepath.Dir(path) // root/algorithm/ab/hex
	alg := filepath.Base(filepath.Dir(filepath.Dir(dir)))
	d := digest.NewDigestFromEncoded(digest.Algorithm(alg), filepath.Base(dir))
	if checkDigest(d) != nil || filepath.Join(s.config.Root, filepath.FromSlash(blobPath(d))) != path {
		return nil // not ours
	}
	if _, ok := s.stamps.get(d); ok {
		return nil
	}
	unlock, err := s.locks.lock(ctx, d)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := s.stamps.get(d); ok {
		return nil // committed just now
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.stamps.set(d, stamp{size: info.Size(), mtime: info.ModTime().UnixNano()})
	return nil
}
