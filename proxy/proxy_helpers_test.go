package proxy

import (
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/cache"
)

// waitStored waits until a transfer has been committed: that happens after the
// client has its last byte.
func (w *world) waitStored(d digest.Digest) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := w.proxy.content.store.Stat(w.t.Context(), d); err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s was not stored", d)
		}
		time.Sleep(time.Millisecond)
	}
}

// tamper changes a byte of stored content behind the store's back.
func (w *world) tamper(d digest.Digest) {
	w.t.Helper()
	path := filepath.Join(w.dir, "content/docker/registry/v2/blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
	body, err := os.ReadFile(path)
	w.must(err)
	body[len(body)/2] ^= 1
	w.must(os.WriteFile(path, body, 0o600))
}

func longLived() *cache.Brief[string, digest.Digest] {
	return cache.NewBrief[string, digest.Digest](100, time.Hour)
}
