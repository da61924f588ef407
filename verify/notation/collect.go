package notation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/verify"
)

const (
	// maxCandidates bounds the manifests examined for one image. Real images
	// have a handful of signatures; hundreds are an attack or a broken robot
	// (CVE-2023-33957).
	maxCandidates = 512
	// maxManifest bounds the manifest of a signature: they have 1 KiB. What is
	// larger is none.
	maxManifest = 256 << 10
	// maxEnvelope bounds an envelope: three certificates and a timestamp with
	// its own have 20 KiB.
	maxEnvelope = 128 << 10
	// maxTotal bounds what is read for one image.
	maxTotal = 32 << 20
	// readers is how many candidates are examined at once.
	readers = 8
)

// The media types of the format.
const (
	typeSignature = "application/vnd.cncf.notary.signature"
	typeJWS       = "application/jose+json"
	typeCOSE      = "application/cose"
)

// examined is one signature and what became of it.
type examined struct {
	verify.Finding
	signer   verify.Signer // set if it counts
	expires  time.Time     // when it has to be looked at again; zero for never
	warnings []string
	err      error // for the log
}

// collector reads and examines what may be a signature of one subject.
type collector struct {
	*Verifier
	subject verify.Subject
	left    atomic.Int64 // bytes that may still be read

	mu     sync.Mutex
	seen   map[digest.Digest]bool // envelopes
	found  []examined
	missed []error
}

// collect examines all candidates. The error is for those about which nothing
// could be found out.
func (v *Verifier) collect(ctx context.Context, s verify.Subject) ([]examined, error) {
	c := &collector{Verifier: v, subject: s, seen: map[digest.Digest]bool{}}
	c.left.Store(maxTotal)
	candidates, err := v.source.Referrers(ctx, s.Name(), s.Digest)
	if err != nil {
		c.missed = append(c.missed, err)
	}
	// What claims to be a signature is read first: it may lie, but what does not
	// claim it must not crowd out what does.
	candidates = slices.Clone(candidates)
	slices.SortStableFunc(candidates, func(a, b ocispec.Descriptor) int { return cmp.Compare(likelihood(a), likelihood(b)) })
	if len(candidates) > maxCandidates {
		c.missed = append(c.missed, fmt.Errorf("there are %d candidates: only %d are examined", len(candidates), maxCandidates))
		candidates = candidates[:maxCandidates]
	}
	var g errgroup.Group
	g.SetLimit(readers)
	for _, d := range candidates {
		g.Go(func() error {
			c.examine(ctx, d)
			return nil
		})
	}
	// The functions return no error: each notes its own.
	_ = g.Wait()
	slices.SortFunc(c.found, func(a, b examined) int { return cmp.Compare(a.Digest, b.Digest) })
	return c.found, errors.Join(c.missed...)
}

func likelihood(d ocispec.Descriptor) int {
	switch d.ArtifactType {
	case typeSignature:
		return 0
	case "":
		return 1
	}
	return 2
}

func (c *collector) add(x examined) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found = append(c.found, x)
}

func (c *collector) reject(d digest.Digest, format string, reason verify.Reason, message string) {
	c.add(examined{Finding: verify.Finding{Format: format, Digest: d, Reason: reason, Message: message}})
}

func (c *collector) miss(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed = append(c.missed, err)
}

// read reads within the limits. ok is false if there is nothing to examine;
// why has been noted.
func (c *collector) read(ctx context.Context, format string, d ocispec.Descriptor) (body []byte, ok bool) {
	if c.left.Add(-d.Size) < 0 {
		c.miss(fmt.Errorf("there are more than %d bytes of signatures", maxTotal))
		return nil, false
	}
	body, err := c.source.Read(ctx, c.subject.Name(), d)
	switch {
	case err == nil:
		return body, true
	case errors.Is(err, fs.ErrNotExist):
		c.reject(d.Digest, format, verify.Malformed, "it is listed but is not there")
	case errors.As(err, new(*verify.Refusal)):
		c.reject(d.Digest, format, verify.Malformed, "it is malformed")
	default:
		c.miss(err)
	}
	return nil, false
}

// examine tells by a candidate's own bytes whether it is a signature.
func (c *collector) examine(ctx context.Context, d ocispec.Descriptor) {
	if d.MediaType == "" {
		d.MediaType = ocispec.MediaTypeImageManifest
	}
	if !verify.IsManifestType(d.MediaType) || verify.CheckDigest(d.Digest) != nil || d.Size < 0 || d.Size > maxManifest {
		return
	}
	body, ok := c.read(ctx, "manifest", d)
	if !ok {
		return
	}
	m, err := verify.ParseManifest(body)
	if err != nil {
		c.reject(d.Digest, "manifest", verify.Malformed, "it is not a valid manifest")
		return
	}
	if m.IsIndex() || !isSignature(m) {
		return
	}
	if m.Subject == nil || m.Subject.Digest != c.subject.Digest {
		// Listed as a referrer, but of something else.
		return
	}
	if len(m.Layers) != 1 {
		c.reject(d.Digest, "notation signature", verify.Malformed, fmt.Sprintf("it has %d layers, not one", len(m.Layers)))
		return
	}
	c.envelope(ctx, m.Layers[0])
}

// isSignature knows both forms: with artifactType, and that of writers before
// image-spec 1.1, which mark the config.
func isSignature(m *verify.Manifest) bool {
	return m.ArtifactType == typeSignature || m.ArtifactType == "" && m.Config.MediaType == typeSignature
}

func (c *collector) envelope(ctx context.Context, layer ocispec.Descriptor) {
	format := "notation signature (JWS)"
	switch layer.MediaType {
	case typeJWS:
	case typeCOSE:
		format = "notation signature (COSE)"
	default:
		c.reject(layer.Digest, "notation signature", verify.Malformed, "its envelope is neither JWS nor COSE")
		return
	}
	if layer.Size > maxEnvelope {
		c.reject(layer.Digest, format, verify.Malformed, fmt.Sprintf("it has %d bytes; at most %d are read", layer.Size, maxEnvelope))
		return
	}
	c.mu.Lock()
	again := c.seen[layer.Digest]
	c.seen[layer.Digest] = true
	c.mu.Unlock()
	if again {
		return
	}
	body, ok := c.read(ctx, format, ocispec.Descriptor{MediaType: layer.MediaType, Digest: layer.Digest, Size: layer.Size})
	if !ok {
		return
	}
	x, err := c.judgeEnvelope(ctx, c.subject, layer.MediaType, body)
	if err != nil {
		c.miss(err)
		return
	}
	x.Format, x.Digest = format, layer.Digest
	c.add(x)
}
