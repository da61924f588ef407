package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

// smallDisk makes a file system of 1 MiB, which only root can.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func TestDiskFull(t *testing.T) {
	dir := smallDisk(t)
	e := newEnv(t, func(c *StoreConfig) {
		c.Root = dir
		c.Driver = filesystem.New(filesystem.DriverParameters{RootDirectory: dir, MaxThreads: 100})
	})
	e.root = dir
	kept, k := blob(100_000, 1)
	if err := e.Put(t.Context(), k, kept); err != nil {
		t.Fatal(err)
	}
	// The announced size does not fit: nobody is asked.
	_, d := blob(10, 2)
	if _, err := e.Fetch(t.Context(), "up", d, 2<<20, nil); !errors.Is(err, ErrNoSpace) {
		t.Errorf("too large for the disk: got %v, want ErrNoSpace", err)
	}
	// The disk fills up during the transfer.
	body, d := blob(800_000, 3)
	filler := filepath.Join(dir, "filler")
	c, err := e.Fetch(t.Context(), "up", d, int64(len(body)), func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(body)), os.WriteFile(filler, make([]byte, 600_000), 0o600)
	})
	if err == nil {
		_, err = io.ReadAll(c)
		if !errors.Is(c.Err(), ErrNoSpace) {
			t.Errorf("Err: got %v, want ErrNoSpace", c.Err())
		}
		_ = c.Close()
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Errorf("full in transfer: got %v, want ErrNoSpace", err)
	}
	large, l := blob(500_000, 4)
	if err := e.Put(t.Context(), l, large); !errors.Is(err, ErrNoSpace) {
		t.Errorf("put: got %v, want ErrNoSpace", err)
	}
	e.settled()
	if got, err := e.ReadAll(t.Context(), k, 1<<20); err != nil || !bytes.Equal(got, kept) {
		t.Errorf("what was stored before: %v", err)
	}
	// And all is well once there is room: nothing holds the space.
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	var opens atomic.Int64
	if got := readClose(t, mustFetch(t, e.Store, d, len(body), opener(body, &opens))); !bytes.Equal(got, body) {
		t.Error("afterwards: got other content")
	}
}
