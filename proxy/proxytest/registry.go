// Package proxytest has an upstream registry for tests: honest unless told
// otherwise, in memory, with a log of every request. It is not used by the
// product.
package proxytest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/sign"
)

// Registry is an upstream. Change its contents through its methods only.
type Registry struct {
	// URL is where it listens, on loopback.
	URL string

	mu        sync.Mutex
	manifests map[string][]byte // "repository@digest"
	tags      map[string]digest.Digest
	blobs     map[string][]byte // "repository@digest"
	referrers bool
	fault     func(http.ResponseWriter, *http.Request) bool
	log       []string
	headers   []http.Header
}

// NewRegistry returns an empty registry that is served by nobody yet. With
// referrers set it has the referrers API; else clients find referrers at the
// fallback tag.
func NewRegistry(referrers bool) *Registry {
	return &Registry{manifests: map[string][]byte{}, tags: map[string]digest.Digest{}, blobs: map[string][]byte{}, referrers: referrers}
}

// New starts a registry that ends with the test.
func New(t testing.TB, referrers bool) *Registry {
	r := NewRegistry(referrers)
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	r.URL = s.URL
	return r
}

// Fault sets a function that may answer a request itself and return true; nil
// makes the registry honest again.
func (r *Registry) Fault(f func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = f
}

// Requests returns "METHOD /path" of every request so far, and Count how many
// contain all of the words.
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Headers returns the headers of every request so far.
func (r *Registry) Headers() []http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.headers)
}

// Count returns how many requests so far contain all of the words.
func (r *Registry) Count(words ...string) int {
	n := 0
	for _, line := range r.Requests() {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			n++
		}
	}
	return n
}

// ForgetRequests empties the log.
func (r *Registry) ForgetRequests() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log, r.headers = nil, nil
}

// ServeHTTP answers the reads of the registry API.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.log = append(r.log, req.Method+" "+req.URL.Path)
	r.headers = append(r.headers, req.Header.Clone())
	fault := r.fault
	r.mu.Unlock()
	if fault != nil && fault(w, req) {
		return
	}
	parts := strings.Split(strings.TrimPrefix(req.URL.Path, "/v2/"), "/")
	if len(parts) < 3 {
		w.WriteHeader(http.StatusOK)
		return
	}
	repository, verb, ref := strings.Join(parts[:len(parts)-2], "/"), parts[len(parts)-2], parts[len(parts)-1]
	switch verb {
	case "manifests":
		r.serveManifest(w, repository, ref)
	case "blobs":
		body, ok := r.Blob(repository, digest.Digest(ref))
		if !ok {
			notFound(w, "BLOB_UNKNOWN")
			return
		}
		serveRange(w, req, body)
	case "referrers":
		r.serveReferrers(w, repository, digest.Digest(ref))
	case "tags":
		r.serveTags(w, req, repository)
	default:
		notFound(w, "UNSUPPORTED")
	}
}

func notFound(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"not here"}]}`, code)
}

func (r *Registry) serveManifest(w http.ResponseWriter, repository, ref string) {
	r.mu.Lock()
	d := digest.Digest(ref)
	if !strings.Contains(ref, ":") {
		d = r.tags[repository+":"+ref]
	}
	body, ok := r.manifests[repository+"@"+d.String()]
	r.mu.Unlock()
	if !ok {
		notFound(w, "MANIFEST_UNKNOWN")
		return
	}
	var m struct{ MediaType string }
	_ = json.Unmarshal(body, &m) // tests serve malformed manifests too
	w.Header().Set("Content-Type", m.MediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

func serveRange(w http.ResponseWriter, req *http.Request, body []byte) {
	var from int
	if n, _ := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &from); n == 1 && from < len(body) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(body)))
		w.Header().Set("Content-Length", strconv.Itoa(len(body)-from))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(body[from:])
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body)
}

func (r *Registry) serveReferrers(w http.ResponseWriter, repository string, subject digest.Digest) {
	if !r.referrers {
		http.NotFound(w, nil)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for key, body := range r.manifests {
		var m ocispec.Manifest
		if json.Unmarshal(body, &m) == nil && strings.HasPrefix(key, repository+"@") && m.Subject != nil && m.Subject.Digest == subject {
			index.Manifests = append(index.Manifests, ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(body), Size: int64(len(body)), ArtifactType: m.ArtifactType})
		}
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_ = json.NewEncoder(w).Encode(index)
}

func (r *Registry) serveTags(w http.ResponseWriter, req *http.Request, repository string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	tags := []string{}
	for key := range r.tags {
		if t, ok := strings.CutPrefix(key, repository+":"); ok && t > req.URL.Query().Get("last") {
			tags = append(tags, t)
		}
	}
	slices.Sort(tags)
	if n, err := strconv.Atoi(req.URL.Query().Get("n")); err == nil && n < len(tags) {
		tags = tags[:n]
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?n=%d&last=%s>; rel="next"`, repository, n, tags[n-1]))
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repository, "tags": tags})
}

// Blob returns a blob's bytes as they are now.
func (r *Registry) Blob(repository string, d digest.Digest) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	body, ok := r.blobs[repository+"@"+d.String()]
	return body, ok
}

// PutBlob stores a blob and returns its descriptor.
func (r *Registry) PutBlob(repository, mediaType string, body []byte) ocispec.Descriptor {
	d := digest.FromBytes(body)
	r.Spoil(repository, d, body)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

// Spoil stores bytes under a digest that need not be theirs.
func (r *Registry) Spoil(repository string, d digest.Digest, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[repository+"@"+d.String()] = body
}

// PutManifest stores a manifest's bytes, under its digest and the tags.
func (r *Registry) PutManifest(repository string, body []byte, tags ...string) digest.Digest {
	d := digest.FromBytes(body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[repository+"@"+d.String()] = body
	for _, t := range tags {
		r.tags[repository+":"+t] = d
	}
	return d
}

// Tag moves a tag.
func (r *Registry) Tag(repository, tag string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tags[repository+":"+tag] = d
}

// Manifest returns the bytes of a manifest.
func (r *Registry) Manifest(repository string, d digest.Digest) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.manifests[repository+"@"+d.String()]
}

// Image stores an image with these layers and returns its descriptor.
func (r *Registry) Image(t testing.TB, repository string, layers [][]byte, tags ...string) ocispec.Descriptor {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: r.PutBlob(repository, ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","tags":%q}`, tags))}
	for _, l := range layers {
		m.Layers = append(m.Layers, r.PutBlob(repository, ocispec.MediaTypeImageLayer, l))
	}
	return r.put(t, repository, m, m.MediaType, tags...)
}

// Index stores an index of these children.
func (r *Registry) Index(t testing.TB, repository string, children []ocispec.Descriptor, tags ...string) ocispec.Descriptor {
	return r.put(t, repository, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children},
		ocispec.MediaTypeImageIndex, tags...)
}

func (r *Registry) put(t testing.TB, repository string, m any, mediaType string, tags ...string) ocispec.Descriptor {
	t.Helper()
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: r.PutManifest(repository, body, tags...), Size: int64(len(body))}
}

// SignLegacy signs as cosign up to v2 does: at the tag sha256-<hex>.sig. The
// payload speaks of claim, which need not be the image.
func (r *Registry) SignLegacy(t testing.TB, key *sign.Key, repository string, image, claim digest.Digest) {
	t.Helper()
	payload, signature, err := key.Legacy(repository, claim)
	if err != nil {
		t.Fatal(err)
	}
	layer := r.PutBlob(repository, sign.MediaTypeSimpleSigning, payload)
	layer.Annotations = map[string]string{sign.SignatureAnnotation: signature}
	r.put(t, repository, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: r.PutBlob(repository, ocispec.MediaTypeImageConfig, []byte("{}")), Layers: []ocispec.Descriptor{layer}},
		ocispec.MediaTypeImageManifest, strings.Replace(image.String(), ":", "-", 1)+".sig")
}

// SignBundle signs as cosign v3 does: a Sigstore bundle as a referrer. It
// returns the referrer's descriptor.
func (r *Registry) SignBundle(t testing.TB, key *sign.Key, repository string, image ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	bundle, err := key.Bundle(image.Digest)
	if err != nil {
		t.Fatal(err)
	}
	d := r.put(t, repository, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: sign.MediaTypeBundle, Config: r.PutBlob(repository, ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers: []ocispec.Descriptor{r.PutBlob(repository, sign.MediaTypeBundle, bundle)}, Subject: &image}, ocispec.MediaTypeImageManifest)
	d.ArtifactType = sign.MediaTypeBundle
	if !r.referrers {
		r.Index(t, repository, []ocispec.Descriptor{d}, strings.Replace(image.Digest.String(), ":", "-", 1))
	}
	return d
}
