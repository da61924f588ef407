package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
)

const (
	// maxReferrerPages and maxReferrers bound a listing: images have a handful
	// of referrers, and what lies beyond cannot be examined in bounded time.
	maxReferrerPages = 20
	maxReferrers     = 1000
)

// Referrers lists what refers to a digest, by the referrers API alone. Nothing
// in the descriptors can be relied on. If there are more than can be examined,
// those read so far are returned with an error.
func (c *Client) Referrers(ctx context.Context, repo string, d digest.Digest) ([]ocispec.Descriptor, error) {
	r := request{kind: "referrers", method: http.MethodGet, path: "/v2/" + repo + "/referrers/" + d.String(), repository: repo,
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}}}
	var all []ocispec.Descriptor
	for range maxReferrerPages {
		page, next, err := c.referrersPage(ctx, r)
		if err != nil {
			return all, err
		}
		all = append(all, page...)
		if len(all) > maxReferrers {
			return all[:maxReferrers], c.failed(r, http.StatusOK, fmt.Errorf("%w: there are more than %d referrers", errForbidden, maxReferrers))
		}
		if next == nil {
			return all, nil
		}
		if next.Path != r.path || next.Query().Encode() == r.query.Encode() {
			return all, c.failed(r, http.StatusOK, fmt.Errorf("%w: its next page is not another page of the same listing", errForbidden))
		}
		r.query = next.Query()
	}
	return all, c.failed(r, http.StatusOK, fmt.Errorf("%w: the referrers have more than %d pages", errForbidden, maxReferrerPages))
}

func (c *Client) referrersPage(ctx context.Context, r request) ([]ocispec.Descriptor, *url.URL, error) {
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK && mediaType(resp) == ocispec.MediaTypeImageIndex:
	case hasNoAPI(resp.StatusCode):
		resp.Body.Close()
		return nil, nil, ErrNoReferrersAPI
	default:
		return nil, nil, c.refused(r, resp)
	}
	next := nextLink(resp.Header)
	if next != nil && next.Host != "" && !c.guard.isUpstream(resp.Request.URL.ResolveReference(next)) {
		resp.Body.Close()
		return nil, nil, c.failed(r, resp.StatusCode, fmt.Errorf("%w: its next page is on another host", errForbidden))
	}
	b, err := body(resp, verify.MaxManifestSize)
	if err != nil {
		return nil, nil, c.failed(r, 0, err)
	}
	var index ocispec.Index
	if err := unmarshal(b, &index); err != nil {
		return nil, nil, c.failed(r, resp.StatusCode, err)
	}
	for _, m := range index.Manifests {
		if err := verify.CheckDigest(m.Digest); err != nil || m.Size < 0 {
			return nil, nil, c.failed(r, resp.StatusCode, fmt.Errorf("%w: a referrer has a malformed descriptor", errForbidden))
		}
	}
	return index.Manifests, next, nil
}

// hasNoAPI reports whether an answer means that there is no referrers API.
// Registries without one answer in many ways: 404, a redirect to a web page,
// 200 with something else. Only failures that may pass are none of them.
func hasNoAPI(status int) bool {
	switch status {
	case http.StatusOK, http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
		return true
	}
	return isRedirect(status)
}

// unmarshal reads a document of the upstream that every parser reads alike.
func unmarshal(b []byte, v any) error {
	if err := verify.CheckJSON(b); err != nil {
		return fmt.Errorf("%w: its answer is malformed: %w", errForbidden, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: its answer is malformed", errForbidden)
	}
	return nil
}

// nextLink returns the target of `Link: <…>; rel="next"` (RFC 8288), or nil.
func nextLink(h http.Header) *url.URL {
	for _, v := range h.Values("Link") {
		target, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(v), "<"), ">")
		if !ok || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			continue
		}
		if u, err := url.Parse(target); err == nil {
			return u
		}
	}
	return nil
}
