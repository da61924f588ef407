package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
)

// Content beyond the limit goes, least recently used first; what was just read
// stays, and so does what is being read.
func TestEvict(t *testing.T) {
	root := t.TempDir()
	state, err := OpenState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	s, err := OpenStore(t.Context(), StoreConfig{Root: root, State: state, Limit: 10_000,
		Driver: filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100})})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var ds []digest.Digest
	for i := range 20 {
		body := fmt.Appendf(nil, "%0999d", i)
		ds = append(ds, digest.FromBytes(body))
		if err := s.Put(t.Context(), ds[i], body); err != nil {
			t.Fatal(err)
		}
	}
	s.evict(t.Context())
	if bytes, _ := s.Size(t.Context()); bytes < 19_000 {
		t.Errorf("got %d bytes: what was just stored is evicted", bytes)
	}
	// Make all but the even ones old, the first the oldest.
	s.usage.mu.Lock()
	for i, d := range ds {
		s.usage.last[d] = time.Now().Add(-time.Hour + time.Duration(i)*time.Second)
	}
	s.usage.mu.Unlock()
	open, err := s.Open(t.Context(), ds[0])
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	reading, err := s.Open(t.Context(), ds[1])
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	s.usage.mu.Lock()
	s.usage.last[ds[1]] = time.Now().Add(-2 * time.Hour)
	s.usage.mu.Unlock()
	s.evict(t.Context())
	if bytes, _ := s.Size(t.Context()); bytes > 9_000 || bytes < 8_000 {
		t.Errorf("got %d bytes, want a little less than 9000", bytes)
	}
	for i, d := range ds {
		_, err := s.Stat(t.Context(), d)
		stays := i == 0 || i >= 12
		if stays && err != nil || !stays && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("blob %d: got %v, want it to stay: %v", i, err, stays)
		}
	}
	body := make([]byte, 999)
	if n, err := reading.Read(body); n != 999 || err != nil {
		t.Errorf("what was being read when it was evicted: got %d bytes, %v", n, err)
	}
	if _, err := os.Stat(root); err != nil {
		t.Fatal(err)
	}
}
