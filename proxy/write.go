package proxy

import (
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/cache"
)

// manifestHeader is what goes with a manifest. It is worked out once: warm
// manifests are what a proxy answers most.
func manifestHeader(mediaType string, d digest.Digest, size int) http.Header {
	return http.Header{"Content-Type": {mediaType}, "Content-Length": {strconv.Itoa(size)}, "Docker-Content-Digest": {d.String()},
		"Etag": {etag(d)}, "X-Content-Type-Options": {"nosniff"}}
}

// writeManifest sends a manifest's bytes as they were hashed. The media type is
// that of the body. Range has no meaning here.
func writeManifest(w http.ResponseWriter, r *http.Request, o *object) error {
	h := w.Header()
	maps.Copy(h, o.header)
	if match := r.Header.Get("If-None-Match"); match != "" && match == o.header.Get("Etag") {
		h.Del("Content-Length")
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	_, err := w.Write(o.body)
	return err
}

func setBlobHeaders(w http.ResponseWriter, d digest.Digest, size int64) {
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Etag", etag(d))
	h.Set("Accept-Ranges", "bytes")
	h.Set("Cache-Control", "max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.FormatInt(size, 10))
}

// writeBlob sends a blob, or the range asked for. Complete local files go out
// by sendfile. A transfer that breaks off is an error after the headers: the
// caller cuts the connection.
func writeBlob(w http.ResponseWriter, r *http.Request, d digest.Digest, c *cache.Content) error {
	setBlobHeaders(w, d, c.Size())
	w.Header().Del("Content-Length")
	if f := c.File(); f != nil {
		http.ServeContent(w, r, "", time.Time{}, f)
		return nil
	}
	http.ServeContent(w, r, "", time.Time{}, c)
	return c.Err()
}

// etag is the digest: content under a digest never changes.
func etag(d digest.Digest) string { return `"` + d.String() + `"` }

func writeJSON(w http.ResponseWriter, mediaType string, body []byte) error {
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	_, err := w.Write(body)
	return err
}
