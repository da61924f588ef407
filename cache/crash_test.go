package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
)

const (
	kills   = 20
	crashIn = "COUNTERSIGN_TEST_CRASH_IN" // the directory in which the child works until it is killed
)

// TestKill kills a process that fetches, stores and deletes, at random moments:
// afterwards everything stored is what its digest says, the state opens, and
// the spool directory is empty.
func TestKill(t *testing.T) {
	if dir := os.Getenv(crashIn); dir != "" {
		workUntilKilled(t, dir)
		return
	}
	dir, stored := t.TempDir(), 0
	for range kills {
		child := exec.Command(os.Args[0], "-test.run=^TestKill$")
		child.Env = append(os.Environ(), crashIn+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1)); err != nil { // it has begun
			t.Fatalf("the child: %v", err)
		}
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		_ = child.Process.Kill()
		_ = child.Wait()
		stored += checkAfterCrash(t, dir)
	}
	if stored == 0 {
		t.Error("nothing was ever stored: the test shows nothing")
	}
}

func openAt(t *testing.T, dir string) (*Store, *State) {
	t.Helper()
	st, err := OpenState(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "content")
	s, err := OpenStore(t.Context(), StoreConfig{
		Driver: filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100}), Root: root, State: st})
	if err != nil {
		t.Fatal(err)
	}
	return s, st
}

func workUntilKilled(t *testing.T, dir string) {
	s, _ := openAt(t, dir)
	fmt.Print("!")
	for i := rand.Uint64(); ; i++ {
		size := []int{0, 100, 3000, LastBlock + 1, 2 << 20}[i%5]
		body, d := blob(size, i%1000)
		if i%3 == 0 {
			_ = s.Put(t.Context(), d, body)
			continue
		}
		c, err := s.Fetch(t.Context(), "up", d, int64(size), func(context.Context, int64) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(body)), nil
		})
		if err != nil {
			panic(err)
		}
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
		if i%11 == 0 {
			_ = s.Delete(t.Context(), d)
		}
	}
}

func checkAfterCrash(t *testing.T, dir string) (stored int) {
	t.Helper()
	s, st := openAt(t, dir)
	defer st.Close()
	defer s.Close()
	blobs := filepath.Join(dir, "content", blobsPath)
	err := filepath.WalkDir(blobs, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == blobs || err == nil && e.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		stored++
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		want := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(filepath.Dir(path)))
		if got := digest.FromBytes(body); got != want || filepath.Base(path) != "data" {
			t.Errorf("%s: got %s, %d bytes", path, got, len(body))
		}
		c, err := s.Open(t.Context(), want)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		t.Error(err)
	}
	if _, n := s.Size(t.Context()); n != int64(stored) {
		t.Errorf("Size counts %d blobs, want %d", n, stored)
	}
	var left []string
	_ = filepath.WalkDir(filepath.Join(dir, "content", "spool"), func(path string, e fs.DirEntry, _ error) error {
		left = append(left, path)
		return nil
	})
	if len(left) != 2 { // the spool directory and the one of this process
		t.Errorf("litter: %v", left)
	}
	return stored
}

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
