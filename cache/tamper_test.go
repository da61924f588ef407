package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
)

// TestTamperedFile: whatever somebody does to a stored file, other content is
// not served, and the next fetch heals the store.
func TestTamperedFile(t *testing.T) {
	body, d := blob(3*LastBlock, 1)
	for name, tamper := range map[string]func(path string) error{
		"flipped": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{body[100] ^ 1}, 100)
			return errors.Join(err, f.Close())
		},
		"flipped, with the old time": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			bad := bytes.Clone(body)
			bad[len(bad)-1] ^= 1
			return errors.Join(os.WriteFile(path, bad, 0o600), os.Chtimes(path, info.ModTime(), info.ModTime()))
		},
		"replaced": func(path string) error {
			other := path + ".other"
			return errors.Join(os.WriteFile(other, bytes.Repeat([]byte{1}, len(body)), 0o600), os.Rename(other, path))
		},
		"truncated": func(path string) error { return os.Truncate(path, 100) },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"longer":    func(path string) error { return os.WriteFile(path, append(bytes.Clone(body), 0), 0o600) },
		"directory": func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700), os.WriteFile(path+"/x", nil, 0o600))
		},
		"link": func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/dev/null", path)) },
		"gone": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			for _, use := range []string{"open", "read all", "stat", "fetch", "reopened"} {
				e := newEnv(t, withState(t))
				if err := e.Put(t.Context(), d, body); err != nil {
					t.Fatal(err)
				}
				if err := tamper(e.blobFile(d)); err != nil {
					t.Fatal(err)
				}
				var err error
				switch use {
				case "reopened":
					e.reopen()
					fallthrough
				case "open":
					_, err = e.Open(t.Context(), d)
				case "read all":
					_, err = e.ReadAll(t.Context(), d, 1<<20)
				case "stat":
					_, err = e.Stat(t.Context(), d)
				case "fetch":
					_, err = e.Fetch(t.Context(), "up", d, int64(len(body)), func(context.Context, int64) (io.ReadCloser, error) {
						return nil, fs.ErrNotExist // the upstream has been asked
					})
				}
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: got %v, want fs.ErrNotExist", use, err)
				}
				if n, blobs := e.Size(t.Context()); n != 0 || blobs != 0 {
					t.Errorf("%s: size %d, %d blobs, want none", use, n, blobs)
				}
				if got := readClose(t, mustFetchFrom(t, e.Store, "up", d, len(body), body)); !bytes.Equal(got, body) {
					t.Errorf("%s: not healed", use)
				}
				e.settled()
				if got, err := e.ReadAll(t.Context(), d, 1<<20); err != nil || !bytes.Equal(got, body) {
					t.Errorf("%s: after healing: %v", use, err)
				}
			}
		})
	}
}

// TestUntouchedFileIsNotHashed: the stamp is what makes the hot path cheap, and
// it survives a restart. A file that is good but has another stamp is served.
func TestStamp(t *testing.T) {
	e := newEnv(t, withState(t))
	body, d := blob(1000, 1)
	if err := e.Put(t.Context(), d, body); err != nil {
		t.Fatal(err)
	}
	before, ok := e.stamps.get(d)
	if !ok {
		t.Fatal("no stamp after Put")
	}
	e.reopen()
	if after, ok := e.stamps.get(d); !ok || after != before {
		t.Errorf("after reopening: got %v, %v, want %v", after, ok, before)
	}
	if n, blobs := e.Size(t.Context()); n != 1000 || blobs != 1 {
		t.Errorf("after reopening: size %d, %d, want 1000, 1", n, blobs)
	}
	// A wrong stamp that fits the file shows that the file is not hashed …
	bad := bytes.Clone(body)
	bad[0] ^= 1
	if err := os.WriteFile(e.blobFile(d), bad, 0o600); err != nil {
		t.Fatal(err)
	}
	f, now, err := e.openFile(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	e.stamps.set(d, now)
	c, err := e.Open(t.Context(), d)
	if err != nil {
		t.Fatalf("with a fitting stamp: %v", err)
	}
	_ = c.Close()
	// … but ReadAll always hashes.
	if _, err := e.ReadAll(t.Context(), d, 1<<20); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadAll: got %v, want fs.ErrNotExist", err)
	}
	// Touched, but good: served, with a new stamp.
	if err := e.Put(t.Context(), d, body); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(e.blobFile(d), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	old, _ := e.stamps.get(d)
	if c, err = e.Open(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if got := readClose(t, c); !bytes.Equal(got, body) {
		t.Error("touched: got other content")
	}
	if now, ok := e.stamps.get(d); !ok || now == old {
		t.Error("touched: the stamp was not renewed")
	}
}

// TestForeignFile: what others put into the layout is hashed before it is served.
func TestForeignFile(t *testing.T) {
	e := newEnv(t, withState(t))
	body, d := blob(1000, 1)
	if err := os.MkdirAll(filepath.Dir(e.blobFile(d)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(e.blobFile(d), body, 0o600); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if c, err := e.Open(t.Context(), d); err != nil || !bytes.Equal(readClose(t, c), body) {
				t.Errorf("got %v, want the content", err)
			}
		})
	}
	wg.Wait()
	if n, blobs := e.Size(t.Context()); n != 1000 || blobs != 1 {
		t.Errorf("size %d, %d, want 1000, 1", n, blobs)
	}
}

// TestAdopt: files without a stamp, as a crash leaves them, count and can be
// evicted, and are hashed before they are served.
func TestAdopt(t *testing.T) {
	root := t.TempDir()
	good, g := blob(1000, 1)
	bad, b := blob(2000, 2)
	bad[0] ^= 1
	for path, body := range map[string][]byte{blobPath(g): good, blobPath(b): bad, blobsPath + "/sha256/zz/data": good} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, path), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(root, blobPath(b)), old, old); err != nil {
		t.Fatal(err)
	}
	e := newEnv(t, func(c *StoreConfig) {
		c.Root, c.Driver = root, filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100})
		withState(t)(c)
	})
	e.root = root
	e.settled()
	if n, blobs := e.Size(t.Context()); n != 3000 || blobs != 2 {
		t.Errorf("size %d, %d blobs, want 3000, 2", n, blobs)
	}
	if got, err := e.ReadAll(t.Context(), g, 1000); err != nil || !bytes.Equal(got, good) {
		t.Errorf("the good one: %v", err)
	}
	if _, err := e.Open(t.Context(), b); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the corrupt one: got %v, want fs.ErrNotExist", err)
	}
	if n, blobs := e.Size(t.Context()); n != 1000 || blobs != 1 {
		t.Errorf("then: size %d, %d blobs, want 1000, 1", n, blobs)
	}
}

// TestNamedSpool: without unnamed files, a spool file that somebody else
// changes before the commit is not committed.
func TestNamedSpool(t *testing.T) {
	e := newEnv(t, nil)
	body, d := blob(1000, 1)
	for _, changed := range []bool{false, true} {
		f, err := os.CreateTemp(e.spool.path, transferPrefix)
		if err != nil {
			t.Fatal(err)
		}
		sp := &spool{file: f, path: f.Name(), named: true, size: 1000}
		if _, err := sp.Write(body); err != nil {
			t.Fatal(err)
		}
		if changed {
			if err := os.WriteFile(sp.path, make([]byte, 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		save, err := e.commit(t.Context(), d, sp)
		if err == nil {
			err = save()
		}
		sp.remove()
		_ = f.Close()
		if changed != errors.Is(err, errChanged) || !changed && err != nil {
			t.Errorf("changed %v: got %v", changed, err)
		}
		if changed {
			e.wantAbsent(d)
		} else if got, err := e.ReadAll(t.Context(), d, 1000); err != nil || !bytes.Equal(got, body) {
			t.Errorf("committed: %v", err)
		}
		if err := e.Delete(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
}

// TestChangedBetweenNameAndStamp: an unnamed file that somebody changes as soon
// as it has a name gets no stamp, and so is hashed before it is served.
func TestChangedBetweenNameAndStamp(t *testing.T) {
	e := newEnv(t, nil)
	body, d := blob(1000, 1)
	sp, err := createSpool(e.spool.path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	defer sp.file.Close()
	if _, err := sp.Write(body); err != nil {
		t.Fatal(err)
	}
	written, err := stampOf(sp.file)
	if err != nil {
		t.Fatal(err)
	}
	if !sp.named {
		if err := nameFile(sp.file, sp.path); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(20 * time.Millisecond) // the clock of file systems is coarse
	if err := os.WriteFile(sp.path, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	path, ok := e.spoolDriverPath(sp.path)
	if !ok {
		t.Fatal("the spool is not below the root")
	}
	save, err := e.rename(t.Context(), d, sp, path, written)
	if err != nil {
		t.Fatal(err)
	}
	if err := save(); err != nil {
		t.Fatal(err)
	}
	e.wantAbsent(d)
}

// TestCorruptRemote: remote content is hashed while it streams; a corrupt copy
// is never completed, and removed.
func TestCorruptRemote(t *testing.T) {
	for _, n := range []int{1000, 5 * LastBlock} {
		e := newEnv(t, remote(t))
		body, d := blob(n, 1)
		bad := bytes.Clone(body)
		bad[n-1] ^= 1
		if err := e.driver.PutContent(t.Context(), blobPath(d), bad); err != nil {
			t.Fatal(err)
		}
		c, err := e.Open(t.Context(), d)
		if n <= LastBlock {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%d bytes: got %v, want fs.ErrNotExist", n, err)
			}
		} else {
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(c)
			var bad *DigestError
			if !errors.As(err, &bad) || len(got) > n-LastBlock || !errors.As(c.Err(), &bad) {
				t.Errorf("%d bytes: got %d bytes and %v, want *DigestError", n, len(got), err)
			}
			_ = c.Close()
		}
		e.wantAbsent(d)
		if err := e.driver.PutContent(t.Context(), blobPath(d), bad); err != nil {
			t.Fatal(err)
		}
		if _, err := e.ReadAll(t.Context(), d, 1<<20); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d bytes: ReadAll: got %v, want fs.ErrNotExist", n, err)
		}
		if got := readClose(t, mustFetchFrom(t, e.Store, "up", d, n, body)); !bytes.Equal(got, body) {
			t.Errorf("%d bytes: not healed", n)
		}
		e.settled()
		if got, err := e.ReadAll(t.Context(), d, 1<<20); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes: after healing: %v", n, err)
		}
	}
}

// TestRemoteUploads: large content goes through a temporary name, and stale
// ones are removed at the start.
func TestRemoteUploads(t *testing.T) {
	e := newEnv(t, remote(t))
	body, d := blob(maxSmallUpload+1, 1)
	if got := readClose(t, mustFetchFrom(t, e.Store, "up", d, len(body), body)); !bytes.Equal(got, body) {
		t.Fatal("got other content")
	}
	e.settled()
	if list, err := e.driver.List(t.Context(), uploadsPath); err != nil || len(list) != 0 || len(e.failed) != 0 {
		t.Errorf("uploads left: %v, %v; failed: %v", list, err, e.failed)
	}
	if got, err := e.driver.GetContent(t.Context(), blobPath(d)); err != nil || !bytes.Equal(got, body) {
		t.Errorf("in the driver: %d bytes, %v", len(got), err)
	}
	var opens atomic.Int64
	c := mustFetch(t, e.Store, d, len(body), opener(nil, &opens))
	if _, err := c.Seek(-10, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	if got := readClose(t, c); !bytes.Equal(got, body[len(body)-10:]) || opens.Load() != 0 {
		t.Errorf("a range of stored content: %d bytes, %d upstream transfers", len(got), opens.Load())
	}
	if digest.FromBytes(body) != d {
		t.Error("the test changed its content")
	}
}
