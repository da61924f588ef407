package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/opencontainers/go-digest"
)

// env is one store and what it stands on.
type env struct {
	*Store
	t      *testing.T
	root   string
	driver storagedriver.StorageDriver
	config StoreConfig
	mu     sync.Mutex
	failed []error
}

func newEnv(t *testing.T, change func(*StoreConfig)) *env {
	t.Helper()
	e := &env{t: t, root: t.TempDir()}
	e.config = StoreConfig{Root: e.root, Driver: filesystem.New(filesystem.DriverParameters{RootDirectory: e.root, MaxThreads: 100})}
	e.config.Failed = func(_ digest.Digest, err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.failed = append(e.failed, err)
	}
	if change != nil {
		change(&e.config)
	}
	if e.config.Spool == "" {
		e.config.Spool = filepath.Join(e.config.Root, "spool")
	}
	e.driver = e.config.Driver
	e.open()
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return e
}

func (e *env) open() {
	e.t.Helper()
	s, err := OpenStore(e.t.Context(), e.config)
	if err != nil {
		e.t.Fatal(err)
	}
	e.Store = s
}

func (e *env) reopen() {
	e.t.Helper()
	if err := e.Close(); err != nil {
		e.t.Fatal(err)
	}
	e.open()
}

func remote(t *testing.T) func(*StoreConfig) {
	return func(c *StoreConfig) {
		c.Driver, c.Root, c.Spool = inmemory.New(), "", t.TempDir()
	}
}

func withState(t *testing.T) func(*StoreConfig) {
	t.Helper()
	st, err := OpenState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return func(c *StoreConfig) { c.State = st }
}

// blob returns n bytes that are the same in each run, and their digest.
func blob(n int, seed uint64) ([]byte, digest.Digest) {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b, digest.FromBytes(b)
}

// opener serves body, counting.
func opener(body []byte, opens *atomic.Int64) Opener {
	return func(_ context.Context, offset int64) (io.ReadCloser, error) {
		opens.Add(1)
		return io.NopCloser(bytes.NewReader(body[offset:])), nil
	}
}

func mustFetch(t *testing.T, s *Store, d digest.Digest, size int, open Opener) *Content {
	t.Helper()
	c, err := s.Fetch(t.Context(), "up", d, int64(size), open)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func readClose(t *testing.T, c *Content) []byte {
	t.Helper()
	body, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return body
}

// settled waits for transfers and commits in progress.
func (e *env) settled() { e.running.Wait() }

func (e *env) wantAbsent(d digest.Digest) {
	e.t.Helper()
	e.settled()
	if _, err := e.Stat(e.t.Context(), d); !errors.Is(err, fs.ErrNotExist) {
		e.t.Errorf("stat %s: got %v, want fs.ErrNotExist", d, err)
	}
	if e.local() {
		if _, err := os.Stat(e.blobFile(d)); !errors.Is(err, fs.ErrNotExist) {
			e.t.Errorf("the file of %s: got %v, want fs.ErrNotExist", d, err)
		}
	}
}

func (e *env) blobFile(d digest.Digest) string { return filepath.Join(e.root, blobPath(d)) }

// transfers returns the files below the spool directory.
func (e *env) transfers() (files []string) {
	_ = filepath.WalkDir(e.config.Spool, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return nil
	})
	return files
}

func eachDriver(t *testing.T, f func(t *testing.T, e *env)) {
	t.Run("filesystem", func(t *testing.T) { f(t, newEnv(t, withState(t))) })
	t.Run("spool elsewhere", func(t *testing.T) {
		f(t, newEnv(t, func(c *StoreConfig) { c.Spool = t.TempDir() }))
	})
	t.Run("remote", func(t *testing.T) { f(t, newEnv(t, remote(t))) })
}

func TestPutReadDelete(t *testing.T) {
	eachDriver(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			body := []byte("a manifest hashed with " + alg)
			d := alg.FromBytes(body)
			e.wantAbsent(d)
			for range 2 { // the second is a no-op
				if err := e.Put(ctx, d, body); err != nil {
					t.Fatal(err)
				}
			}
			if n, err := e.Stat(ctx, d); n != int64(len(body)) || err != nil {
				t.Errorf("Stat: got %d, %v, want %d", n, err, len(body))
			}
			if got, err := e.ReadAll(ctx, d, 1<<20); string(got) != string(body) || err != nil {
				t.Errorf("ReadAll: got %q, %v", got, err)
			}
			if _, err := e.ReadAll(ctx, d, 3); !errors.Is(err, ErrTooLarge) {
				t.Errorf("ReadAll of 3: got %v, want ErrTooLarge", err)
			}
			c, err := e.Open(ctx, d)
			if err != nil {
				t.Fatal(err)
			}
			if (c.File() != nil) != e.local() || !c.FromStore() || c.Size() != int64(len(body)) {
				t.Errorf("Open: file %v, from store %v, size %d", c.File(), c.FromStore(), c.Size())
			}
			if got := readClose(t, c); string(got) != string(body) {
				t.Errorf("Open: got %q", got)
			}
		}
		if e.config.Spool == filepath.Join(e.root, "spool") {
			if n, blobs := e.Size(ctx); blobs != 2 || n == 0 {
				t.Errorf("Size: got %d, %d, want two blobs", n, blobs)
			}
		}
		d := digest.FromString("a manifest hashed with sha256")
		for range 2 {
			if err := e.Delete(ctx, d); err != nil {
				t.Error(err)
			}
			e.wantAbsent(d)
		}
		if len(e.transfers()) != 0 {
			t.Errorf("left in the spool: %v", e.transfers())
		}
	})
}

func TestPutRefuses(t *testing.T) {
	e := newEnv(t, nil)
	d := digest.FromString("right")
	var bad *DigestError
	if err := e.Put(t.Context(), d, []byte("wrong")); !errors.As(err, &bad) || bad.Want != d || bad.Got != digest.FromString("wrong") {
		t.Errorf("wrong content: got %v, want *DigestError", err)
	}
	e.wantAbsent(d)
	hex := strings.Repeat("a", 64)
	for _, d := range []digest.Digest{"", "sha256:", "sha256:../../../../etc/passwd", digest.Digest("sha256:" + strings.ToUpper(hex)), digest.Digest("sha384:" + strings.Repeat("a", 96)), digest.Digest("md5:" + hex[:32]), digest.Digest(hex)} {
		_, openErr := e.Open(t.Context(), d)
		_, statErr := e.Stat(t.Context(), d)
		_, readErr := e.ReadAll(t.Context(), d, 1)
		_, fetchErr := e.Fetch(t.Context(), "up", d, 1, nil)
		for verb, err := range map[string]error{"open": openErr, "stat": statErr, "read": readErr, "fetch": fetchErr,
			"put": e.Put(t.Context(), d, nil), "delete": e.Delete(t.Context(), d)} {
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s %q: got %v, want it refused", verb, d, err)
			}
		}
	}
}

func TestFetchThenStored(t *testing.T) {
	eachDriver(t, func(t *testing.T, e *env) {
		for i, n := range []int{0, 1, LastBlock - 1, LastBlock, LastBlock + 1, 5<<20 + 3} {
			var opens atomic.Int64
			body, d := blob(n, uint64(i))
			for round := range 3 {
				c := mustFetch(t, e.Store, d, n, opener(body, &opens))
				if got := readClose(t, c); !bytes.Equal(got, body) {
					t.Fatalf("%d bytes, round %d: got other content, %d bytes", n, round, len(got))
				}
				e.settled()
				if round > 0 && !c.FromStore() {
					t.Errorf("%d bytes, round %d: not from the store", n, round)
				}
			}
			if opens.Load() != 1 {
				t.Errorf("%d bytes: got %d upstream transfers, want 1", n, opens.Load())
			}
		}
		if len(e.failed) != 0 || len(e.transfers()) != 0 {
			t.Errorf("failed: %v, left in the spool: %v", e.failed, e.transfers())
		}
		e.reopen()
		body, d := blob(LastBlock, 3)
		if got, err := e.ReadAll(t.Context(), d, 1<<20); !bytes.Equal(got, body) || err != nil {
			t.Errorf("after reopening: %v", err)
		}
	})
}

func TestFetchRefusesSizes(t *testing.T) {
	e := newEnv(t, func(c *StoreConfig) { c.MaxBlob = 100 })
	body, d := blob(50, 1)
	if _, err := e.Fetch(t.Context(), "up", d, 101, nil); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: got %v", err)
	}
	if _, err := e.Fetch(t.Context(), "up", d, -1, nil); err == nil {
		t.Error("negative: got nil")
	}
	if err := e.Put(t.Context(), d, body); err != nil {
		t.Fatal(err)
	}
	var bad *DigestError
	if _, err := e.Fetch(t.Context(), "up", d, 51, nil); !errors.As(err, &bad) || bad.GotSize != 50 || bad.WantSize != 51 {
		t.Errorf("stored with another size: got %v, want *DigestError", err)
	}
}

func TestOpenStoreRefuses(t *testing.T) {
	root := t.TempDir()
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100})
	for name, c := range map[string]StoreConfig{
		"no driver":    {Root: root},
		"no spool":     {Driver: inmemory.New()},
		"another root": {Driver: driver, Root: t.TempDir()},
	} {
		if s, err := OpenStore(t.Context(), c); err == nil {
			t.Errorf("%s: got a store", name)
			_ = s.Close()
		}
	}
}

func TestClosedStore(t *testing.T) {
	e := newEnv(t, nil)
	body, d := blob(10, 1)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Fetch(t.Context(), "up", d, 10, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("fetch: got %v, want ErrClosed", err)
	}
	if err := e.Put(t.Context(), d, body); !errors.Is(err, ErrClosed) {
		t.Errorf("put: got %v, want ErrClosed", err)
	}
	if entries, err := os.ReadDir(e.config.Spool); err != nil || len(entries) != 0 {
		t.Errorf("spool after Close: got %v, %v, want it empty", entries, err)
	}
}

func TestOpenStoreRemovesLitter(t *testing.T) {
	root := t.TempDir()
	e := newEnv(t, func(c *StoreConfig) {
		c.Root, c.Spool = root, filepath.Join(root, "spool")
		c.Driver = filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100})
		dead := filepath.Join(c.Spool, spoolLive+"1234")
		if err := os.MkdirAll(dead, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{filepath.Join(dead, "transfer-1"), filepath.Join(c.Spool, "not-ours")} {
			if err := os.WriteFile(f, []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	})
	e.root = root
	second, err := OpenStore(t.Context(), e.config) // another process on the same storage
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, "spool"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if len(names) != 3 { // two live ones, one that is not ours
		t.Errorf("got %v, want two directories and not-ours", names)
	}
	body, d := blob(100, 1)
	if err := errors.Join(e.Put(t.Context(), d, body), second.Close()); err != nil {
		t.Errorf("the first store after the second was opened: %v", err)
	}
}
