package sigstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/countersign/countersign/verify"
)

const (
	// maxCandidates bounds the manifests examined for one image. Real images
	// have a handful of signatures; hundreds are an attack or a broken robot.
	maxCandidates = 512
	// maxLayers bounds the signatures of one legacy manifest: cosign appends a
	// layer each time that somebody signs.
	maxLayers = 256
	// maxPayload bounds a simple signing payload: they have 300 bytes.
	maxPayload = 64 << 10
	// maxBundle bounds a bundle: a signature has some KiB; an attestation with a
	// bill of materials, which has to be read to know that it is none, some MiB.
	maxBundle = 16 << 20
	// maxTotal bounds what is read for one image.
	maxTotal = 64 << 20
	// readers is how many candidates are read at once.
	readers = 8
)

// The media types of layers, as the tools write them.
const (
	typeSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	typeBundlePrefix  = "application/vnd.dev.sigstore.bundle"
	typeDSSE          = "application/vnd.dsse.envelope.v1+json"
)

// examined is one signature or attestation and what became of it.
type examined struct {
	verify.Finding
	// key is the trusted key that made it, if one did.
	key *key
}

// collector reads and examines everything that may be a signature of one
// subject.
type collector struct {
	*Verifier
	subject verify.Subject
	left    atomic.Int64 // bytes that may still be read

	mu     sync.Mutex
	found  []examined
	missed []error
}

// collect examines all candidates. The error is for those that could not be
// read: what was found may not be all there is.
func (v *Verifier) collect(ctx context.Context, s verify.Subject) ([]examined, error) {
	c := &collector{Verifier: v, subject: s}
	c.left.Store(maxTotal)
	candidates, err := v.source.Referrers(ctx, s.Name(), s.Digest)
	if err != nil {
		c.missed = append(c.missed, err)
	}
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
	return c.found, errors.Join(c.missed...)
}

func (c *collector) add(x examined) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found = append(c.found, x)
}

func (c *collector) miss(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed = append(c.missed, err)
}

// read reads a manifest or blob within the limits. ok is false if it cannot be
// examined; why has been noted.
func (c *collector) read(ctx context.Context, format string, d ocispec.Descriptor, most int64) (body []byte, ok bool) {
	note := func(reason verify.Reason, message string) {
		c.add(examined{Finding: verify.Finding{Format: format, Digest: d.Digest, Reason: reason, Message: message}})
	}
	if err := verify.CheckDigest(d.Digest); err != nil || d.Size < 0 {
		note(verify.Malformed, "its descriptor is malformed")
		return nil, false
	}
	if d.Size > most {
		note(verify.Malformed, fmt.Sprintf("it has %d bytes; at most %d are read", d.Size, most))
		return nil, false
	}
	if c.left.Add(-d.Size) < 0 {
		c.miss(fmt.Errorf("there are more than %d bytes of signatures and attestations", maxTotal))
		return nil, false
	}
	body, err := c.source.Read(ctx, c.subject.Name(), d)
	switch {
	case err == nil:
		return body, true
	case errors.Is(err, fs.ErrNotExist):
		note(verify.Malformed, "it is listed but is not there")
	case errors.As(err, new(*verify.Refusal)):
		note(verify.Malformed, "it is malformed")
	default:
		c.miss(err)
	}
	return nil, false
}

// examine tells by a candidate's own bytes what it is.
func (c *collector) examine(ctx context.Context, d ocispec.Descriptor) {
	if d.MediaType == "" {
		d.MediaType = ocispec.MediaTypeImageManifest
	}
	if !verify.IsManifestType(d.MediaType) {
		return
	}
	body, ok := c.read(ctx, "manifest", d, verify.MaxManifestSize)
	if !ok {
		return
	}
	m, err := verify.ParseManifest(body)
	switch {
	case err != nil:
		c.add(examined{Finding: verify.Finding{Format: "manifest", Digest: d.Digest, Reason: verify.Malformed, Message: "it is not a valid manifest"}})
		return
	case m.IsIndex():
		return
	case m.Subject != nil && m.Subject.Digest != c.subject.Digest:
		// Listed as a referrer, but of something else.
		return
	case len(m.Layers) > maxLayers:
		c.add(examined{Finding: verify.Finding{Format: "manifest", Digest: d.Digest, Reason: verify.Malformed,
			Message: fmt.Sprintf("it has %d layers; at most %d are examined", len(m.Layers), maxLayers)}})
		return
	}
	for _, layer := range m.Layers {
		switch {
		case layer.MediaType == typeSimpleSigning:
			c.legacy(ctx, layer)
		case layer.MediaType == typeDSSE:
			c.attestation("cosign attestation", layer, layer.Annotations["predicateType"])
		case strings.HasPrefix(layer.MediaType, typeBundlePrefix):
			c.bundleLayer(ctx, m, layer)
		}
	}
}

// attestation notes a signed statement about the image that is not a signature
// of it. Its predicate type is only what its label says: it is not read.
func (c *collector) attestation(format string, d ocispec.Descriptor, predicate string) {
	c.add(examined{Finding: verify.Finding{Format: format, Digest: d.Digest, Reason: verify.Unsigned,
		Message: "it is an attestation, not a signature", Details: map[string]string{"predicate type": clip(predicate)}}})
}

// maxShown bounds text of others' choice in findings.
const maxShown = 200

func clip(s string) string {
	if len(s) > maxShown {
		return strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}
