package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/proxy/upstream"
)

// maxReferrers bounds how many candidates are returned for one subject. Real
// images have a handful; what lies beyond cannot be examined in bounded time.
const maxReferrers = 1000

// signatureTags are the tags next to the referrers at which cosign and its
// kin keep signatures and attestations (cosign SIGNATURE_SPEC.md).
var signatureTags = []string{".sig", ".att"}

// Referrers implements verify.Source: the union of the referrers API, the
// fallback tag (distribution-spec v1.1.1, "Referrers Tag Schema") and the
// legacy tags, all asked at once.
func (c *content) Referrers(ctx context.Context, name string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	parts := make([]part, 1+len(signatureTags))
	var wg sync.WaitGroup
	wg.Go(func() { parts[0] = c.listed(ctx, name, subject) })
	for i, suffix := range signatureTags {
		wg.Go(func() { parts[i+1] = c.tagged(ctx, name, fallbackTag(subject)+suffix) })
	}
	wg.Wait()
	return union(parts)
}

// part is one source's share of the referrers.
type part struct {
	found []ocispec.Descriptor
	err   error
}

// listed is what the registry lists as referrers: by its API, and at the
// fallback tag, which older writers keep even where the API exists.
func (c *content) listed(ctx context.Context, name string, subject digest.Digest) part {
	up, repo, err := c.upstreams.client(name)
	if err != nil {
		return part{err: err}
	}
	var api, tag part
	var wg sync.WaitGroup
	wg.Go(func() { api.found, api.err = up.Referrers(ctx, repo, subject) })
	wg.Go(func() { tag = c.fallback(ctx, name, subject) })
	wg.Wait()
	if errors.Is(api.err, upstream.ErrNoReferrersAPI) || errors.Is(api.err, fs.ErrNotExist) {
		api.err = nil
	}
	found, err := union([]part{api, tag})
	return part{found, err}
}

func (c *content) fallback(ctx context.Context, name string, subject digest.Digest) part {
	index, err := c.byTag(ctx, name, fallbackTag(subject))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return part{}
	case err != nil:
		return part{err: err}
	}
	return part{found: index.Manifests}
}

// tagged is a tag that names one signature manifest, or nothing.
func (c *content) tagged(ctx context.Context, name, tag string) part {
	o, err := c.byTag(ctx, name, tag)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return part{}
	case err != nil:
		return part{err: err}
	}
	return part{found: []ocispec.Descriptor{o.descriptor()}}
}

// union joins the parts, each digest once, bounded.
func union(parts []part) ([]ocispec.Descriptor, error) {
	var all []ocispec.Descriptor
	var errs []error
	seen := map[digest.Digest]bool{}
	for _, p := range parts {
		if p.err != nil {
			errs = append(errs, p.err)
		}
		for _, d := range p.found {
			if len(all) == maxReferrers {
				errs = append(errs, fmt.Errorf("more than %d referrers", maxReferrers))
				return all, errors.Join(errs...)
			}
			if !seen[d.Digest] {
				seen[d.Digest] = true
				all = append(all, d)
			}
		}
	}
	return all, errors.Join(errs...)
}

// fallbackTag is "<algorithm>-<hex>", cut to 64 characters of hex as the tag
// schema demands.
func fallbackTag(d digest.Digest) string {
	hex := d.Encoded()
	return d.Algorithm().String() + "-" + hex[:min(len(hex), 64)]
}
