package cache

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
)

func benchStore(b *testing.B) *Store {
	b.Helper()
	root := b.TempDir()
	st, err := OpenState(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	s, err := OpenStore(b.Context(), StoreConfig{Root: root, State: st,
		Driver: filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100})})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close(); _ = st.Close() })
	return s
}

// BenchmarkOpen is the hot path: stored content, untouched since it was hashed.
func BenchmarkOpen(b *testing.B) {
	s := benchStore(b)
	body, d := blob(2000, 1)
	if err := s.Put(b.Context(), d, body); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c, err := s.Open(b.Context(), d)
			if err != nil {
				b.Error(err)
				return
			}
			_ = c.Close()
		}
	})
}

// BenchmarkPut is one manifest, until others find it.
func BenchmarkPut(b *testing.B) {
	s := benchStore(b)
	body := make([]byte, 2000)
	for i := range b.N {
		body[0], body[1], body[2] = byte(i), byte(i>>8), byte(i>>16)
		if err := s.Put(b.Context(), digest.FromBytes(body), body); err != nil {
			b.Fatal(err)
		}
	}
}

// zeros is n zero bytes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// BenchmarkFetch is a cold blob of 256 MiB, read by eight clients, from the
// first byte to the commit.
func BenchmarkFetch(b *testing.B) {
	const size, clients = 256 << 20, 8
	h := digest.SHA256.Digester()
	if _, err := io.CopyN(h.Hash(), zeros{}, size); err != nil {
		b.Fatal(err)
	}
	d := h.Digest()
	open := func(_ context.Context, offset int64) (io.ReadCloser, error) {
		return io.NopCloser(io.LimitReader(zeros{}, size-offset)), nil
	}
	s := benchStore(b)
	b.SetBytes(size)
	for b.Loop() {
		var wg sync.WaitGroup
		for range clients {
			wg.Go(func() {
				c, err := s.Fetch(b.Context(), "up", d, size, open)
				if err != nil {
					b.Error(err)
					return
				}
				if n, err := io.Copy(io.Discard, c); n != size || err != nil {
					b.Errorf("got %d bytes, %v", n, err)
				}
				_ = c.Close()
			})
		}
		wg.Wait()
		s.running.Wait()
		if err := s.Delete(b.Context(), d); err != nil {
			b.Fatal(err)
		}
	}
	reportPeak(b)
}

// reportPeak adds the greatest resident memory of the whole process so far.
func reportPeak(b *testing.B) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return // not Linux
	}
	for line := range strings.Lines(string(status)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kib); n == 1 {
			b.ReportMetric(kib/1024, "peak-MiB")
		}
	}
}
