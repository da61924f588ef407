package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/verify"
)

// Signature material passes so that clients can verify end to end. It is not
// itself signed, so it passes only with its subject, and only if it cannot be
// run: an attacker who can push must not be able to dress an image up as a
// signature of a signed one.

// materialTags are the tags that name signature material by its subject: the
// referrers tag schema and cosign's legacy tags.
var materialTags = regexp.MustCompile(`^(sha256)-([0-9a-f]{64})(\.sig|\.att|\.sbom)?$`)

// materialTag returns the subject whose signature material the tag names.
func materialTag(tag string) (digest.Digest, bool) {
	m := materialTags.FindStringSubmatch(tag)
	if m == nil {
		return "", false
	}
	return digest.NewDigestFromEncoded(digest.Algorithm(m[1]), m[2]), true
}

// materialTypes are the media types of signatures, attestations and bills of
// materials, by prefix. No runtime unpacks any of them.
var materialTypes = []string{
	"application/vnd.dev.cosign.simplesigning.v1+json",
	"application/vnd.dsse.envelope.v1+json",
	"application/vnd.dev.sigstore.bundle",
	"application/vnd.in-toto",
	"application/jose+json",
	"application/cose",
	"application/pkix-cert",
	"application/spdx+json", "text/spdx", "application/vnd.cyclonedx", "application/vnd.syft+json",
	"application/vnd.countersign.",
}

// isMaterial reports whether every layer of the manifest is signature material.
// artifactType and config say nothing: they are labels of the pusher's choice.
func isMaterial(m *verify.Manifest) bool {
	if m.IsIndex() || len(m.Layers) == 0 {
		return false
	}
	for _, l := range m.Layers {
		if !isMaterialType(l.MediaType) {
			return false
		}
	}
	return true
}

func isMaterialType(mediaType string) bool {
	for _, t := range materialTypes {
		if strings.HasPrefix(mediaType, t) {
			return true
		}
	}
	return false
}

// admissible asks the gate about the subject of signature material, which need
// not have been pulled yet.
func (p *Proxy) admissible(ctx context.Context, rt route, rule *policy.Rule, subject digest.Digest) (policy.Decision, error) {
	if g, err := p.admitted.child(ctx, rt.name(), subject); err == nil {
		return g.decision, nil
	}
	o, err := p.content.byDigest(ctx, rt.name(), subject)
	if err != nil {
		return policy.Decision{}, err
	}
	s := o.subject(rt)
	s.Tag = ""
	d, err := p.gate.Admit(ctx, rule, s)
	if err != nil {
		return d, err
	}
	return d, p.admitted.add(s, d, o)
}

// material answers for a tag that names signature material. If it names
// something that could be run, that has to pass the gate like any image.
func (p *Proxy) material(w http.ResponseWriter, r *http.Request, rt route, rule *policy.Rule, subject digest.Digest, ev *event) error {
	ctx := r.Context()
	d, err := p.admissible(ctx, rt, rule, subject)
	ev.decision = d
	if err != nil {
		return err
	}
	// Past the tag cache: a stale answer would hide a new signature.
	o, err := p.content.byTag(ctx, rt.name(), rt.tag)
	if err != nil {
		return err
	}
	ev.Digest = o.digest
	switch {
	case o.IsIndex():
		// The referrers index. What it lists is not admitted by being listed:
		// each manifest is judged when it is asked for.
		return writeManifest(w, r, o)
	case isMaterial(o.Manifest):
		if err := p.admitted.addBelow(rt.name(), o, subject); err != nil {
			return err
		}
		return writeManifest(w, r, o)
	}
	ev.decision, err = p.gate.Admit(ctx, rule, o.subject(rt))
	if err != nil {
		return err
	}
	if err := p.admitted.add(o.subject(rt), ev.decision, o); err != nil {
		return err
	}
	return writeManifest(w, r, o)
}

// referrers answers natively, whether or not the upstream has the API: the
// listing is what the upstream's API and the fallback tag say together.
func (p *Proxy) referrers(w http.ResponseWriter, r *http.Request, rt route, rule *policy.Rule, ev *event) error {
	ctx := r.Context()
	d, err := p.admissible(ctx, rt, rule, rt.digest)
	ev.decision = d
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The API must not answer 404: nothing refers to what is not there.
	case err != nil:
		return err
	default:
		part := p.content.listed(ctx, rt.name(), rt.digest)
		if part.err != nil {
			return fmt.Errorf("listing referrers of %s@%s: %w", rt.name(), rt.digest, part.err)
		}
		for _, m := range part.found {
			if rt.artifactType == "" || m.ArtifactType == rt.artifactType {
				index.Manifests = append(index.Manifests, m)
			}
		}
	}
	if rt.artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	body, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return writeJSON(w, ocispec.MediaTypeImageIndex, body)
}

// trust passes verified trust metadata on, so that `notary` and `docker trust`
// behind the choke point keep working. They verify it themselves.
func (p *Proxy) trust(w http.ResponseWriter, r *http.Request, rt route, rule *policy.Rule) error {
	body, err := p.gate.Metadata(r.Context(), rule, rt.name(), rt.file)
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", body)
}

// tagList passes one page of tags through. A list admits nothing.
func (p *Proxy) tagList(w http.ResponseWriter, r *http.Request, rt route) error {
	up, repo, err := p.content.upstreams.client(rt.name())
	if err != nil {
		return err
	}
	tags, next, err := up.Tags(r.Context(), repo, rt.n, rt.last)
	if err != nil {
		return err
	}
	if tags == nil {
		tags = []string{}
	}
	if next != "" {
		q := url.Values{"last": {next}}
		if rt.n >= 0 {
			q.Set("n", strconv.Itoa(rt.n))
		}
		if rt.namespaced {
			q.Set("ns", rt.registry)
		}
		w.Header().Set("Link", fmt.Sprintf(`</v2/%s/tags/list?%s>; rel="next"`, rt.path, q.Encode()))
	}
	body, err := json.Marshal(map[string]any{"name": rt.path, "tags": tags})
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", body)
}
