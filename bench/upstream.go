package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/sign"
)

// repository is where all images live: one component below library, so that
// distribution's proxy and ours name it alike.
const repository = "bench/app"

// upstream is a registry that makes large blobs as they are read, so that it
// costs no memory, and counts what it is asked.
type upstream struct {
	server *http.Server
	addr   string
	key    *sign.Key

	mu        sync.Mutex
	manifests map[string][]byte // by digest or tag
	blobs     map[digest.Digest]source
	gets      map[digest.Digest]int
}

// source is a blob: bytes, or a seed and a size.
type source struct {
	body []byte
	seed byte
	size int64
}

// open returns a reader of the blob.
func (s source) open() io.Reader {
	if s.body != nil {
		return strings.NewReader(string(s.body))
	}
	return io.LimitReader(rand.NewChaCha8([32]byte{s.seed}), s.size)
}

func newUpstream() (*upstream, error) {
	key, err := sign.NewKey()
	if err != nil {
		return nil, err
	}
	u := &upstream{key: key, manifests: map[string][]byte{}, blobs: map[digest.Digest]source{}, gets: map[digest.Digest]int{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u.addr, u.server = l.Addr().String(), &http.Server{Handler: u}
	go u.server.Serve(l)
	return u, nil
}

func (u *upstream) close() { u.server.Close() }

// ServeHTTP answers the reads of the registry API.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	verb, ref := parts[max(0, len(parts)-2)], parts[len(parts)-1]
	switch {
	case r.URL.Path == "/v2/":
		w.WriteHeader(http.StatusOK)
	case verb == "manifests":
		u.mu.Lock()
		body := u.manifests[ref]
		u.mu.Unlock()
		if body == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // net/http leaves the body of HEAD out
	case verb == "blobs":
		u.serveBlob(w, r, digest.Digest(ref))
	default:
		http.NotFound(w, r)
	}
}

func (u *upstream) serveBlob(w http.ResponseWriter, r *http.Request, d digest.Digest) {
	u.mu.Lock()
	s, ok := u.blobs[d]
	if r.Method == http.MethodGet {
		u.gets[d]++
	}
	u.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", strconv.FormatInt(s.size, 10))
	if r.Method == http.MethodGet {
		_, _ = io.Copy(w, s.open()) // a proxy that hangs up is seen by its client
	}
}

func (u *upstream) fetched(d digest.Digest) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.gets[d]
}

func (u *upstream) blob(s source) (ocispec.Descriptor, error) {
	h := sha256.New()
	n, err := io.Copy(h, s.open())
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	s.size = n
	d := digest.NewDigest(digest.SHA256, h)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.blobs[d] = s
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: n}, nil
}

func (u *upstream) manifest(m ocispec.Manifest, tag string) (digest.Digest, []byte, error) {
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	body, err := json.Marshal(m)
	if err != nil {
		return "", nil, err
	}
	d := digest.FromBytes(body)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.manifests[d.String()], u.manifests[tag] = body, body
	return d, body, nil
}

// image stores a signed image with one layer and returns its digest, bytes and
// layer.
func (u *upstream) image(tag string, layer source) (digest.Digest, []byte, digest.Digest, error) {
	config, err := u.blob(source{body: fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","tag":%q}`, tag)})
	if err != nil {
		return "", nil, "", err
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	l, err := u.blob(layer)
	if err != nil {
		return "", nil, "", err
	}
	d, body, err := u.manifest(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{l}}, tag)
	if err != nil {
		return "", nil, "", err
	}
	payload, signature, err := u.key.Legacy(repository, d)
	if err != nil {
		return "", nil, "", err
	}
	p, err := u.blob(source{body: payload})
	if err != nil {
		return "", nil, "", err
	}
	p.MediaType, p.Annotations = sign.MediaTypeSimpleSigning, map[string]string{sign.SignatureAnnotation: signature}
	_, _, err = u.manifest(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{p}}, "sha256-"+d.Encoded()+".sig")
	return d, body, l.Digest, err
}
