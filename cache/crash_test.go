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
