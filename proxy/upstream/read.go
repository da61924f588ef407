package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
)

// accept is sent for every manifest, whatever the client accepts: some
// registries answer with another digest, or 404, if their kind is not listed.
var accept = strings.Join([]string{verify.MediaTypeImageIndex, verify.MediaTypeImageManifest, verify.MediaTypeDockerList,
	verify.MediaTypeDockerManifest, "*/*"}, ", ")

// Manifest is a manifest as the upstream sent it.
type Manifest struct {
	// MediaType is the Content-Type without parameters.
	MediaType string
	Body      []byte
	// Digest is what the upstream claims, "" if nothing.
	Digest digest.Digest
}

func manifestRequest(method, repo, ref string) request {
	return request{kind: "manifests", method: method, path: "/v2/" + repo + "/manifests/" + ref, repository: repo,
		header: http.Header{"Accept": {accept}}}
}

// Head asks what a reference means without its bytes. Digest is "" if the
// upstream does not say, or does not answer HEAD.
func (c *Client) Head(ctx context.Context, repo, ref string) (ocispec.Descriptor, error) {
	r := manifestRequest(http.MethodHead, repo, ref)
	resp, err := c.send(ctx, r)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return ocispec.Descriptor{MediaType: mediaType(resp), Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")), Size: resp.ContentLength}, nil
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return ocispec.Descriptor{}, nil
	}
	return ocispec.Descriptor{}, c.refused(r, resp)
}

// Manifest reads a manifest or index of at most verify.MaxManifestSize.
func (c *Client) Manifest(ctx context.Context, repo, ref string) (Manifest, error) {
	r := manifestRequest(http.MethodGet, repo, ref)
	r.follow = elsewhere
	resp, err := c.send(ctx, r)
	if err != nil {
		return Manifest{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return Manifest{}, c.refused(r, resp)
	}
	if err := checkIdentity(resp); err != nil {
		return Manifest{}, c.failed(r, resp.StatusCode, err)
	}
	b, err := body(resp, verify.MaxManifestSize)
	if err != nil {
		return Manifest{}, c.failed(r, 0, err)
	}
	return Manifest{MediaType: mediaType(resp), Body: b, Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest"))}, nil
}

// Blob reads a blob from an offset. size is that of the whole blob, -1 if the
// upstream does not say. The body is not bounded: the caller knows the size.
func (c *Client) Blob(ctx context.Context, repo string, d digest.Digest, offset int64) (content io.ReadCloser, size int64, err error) {
	r := request{kind: "blobs", method: http.MethodGet, path: "/v2/" + repo + "/blobs/" + d.String(), repository: repo, follow: elsewhere, header: http.Header{}}
	if offset > 0 {
		r.header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		size = resp.ContentLength
	case http.StatusPartialContent:
		size, err = wholeSize(resp.Header.Get("Content-Range"), offset)
	default:
		return nil, 0, c.refused(r, resp)
	}
	if err = errors.Join(err, checkIdentity(resp)); err != nil {
		resp.Body.Close()
		return nil, 0, c.failed(r, resp.StatusCode, err)
	}
	if resp.StatusCode == http.StatusOK && offset > 0 {
		// The upstream ignores Range: what is known already is read again.
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			resp.Body.Close()
			return nil, 0, c.failed(r, resp.StatusCode, fmt.Errorf("skipping to where the transfer broke off: %w", err))
		}
	}
	return resp.Body, size, nil
}

// HeadBlob returns a blob's size, -1 if the upstream does not say.
func (c *Client) HeadBlob(ctx context.Context, repo string, d digest.Digest) (int64, error) {
	r := request{kind: "blobs", method: http.MethodHead, path: "/v2/" + repo + "/blobs/" + d.String(), repository: repo, follow: elsewhere}
	resp, err := c.send(ctx, r)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return 0, c.refused(r, resp)
	}
	resp.Body.Close()
	return resp.ContentLength, nil
}

// Ping reports whether the upstream answers at all.
func (c *Client) Ping(ctx context.Context) error {
	r := request{kind: "ping", method: http.MethodGet, path: "/v2/"}
	resp, err := c.exchange(ctx, c.guard, r, c.config.URL.JoinPath("/v2/"))
	if err != nil {
		return c.failed(r, 0, err)
	}
	resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError {
		return &Error{Upstream: c.config.Name, Op: "GET ping", Status: resp.StatusCode}
	}
	return nil
}

// maxTagList bounds one page of tags: 10,000 tags of 128 bytes with room.
const maxTagList = 4 << 20

// Tags returns one page of tags after last and, if there are more, the last to
// continue from. n below 0 leaves the page's size to the upstream.
func (c *Client) Tags(ctx context.Context, repo string, n int, last string) (tags []string, next string, err error) {
	r := request{kind: "tags", method: http.MethodGet, path: "/v2/" + repo + "/tags/list", repository: repo, query: url.Values{}}
	if n >= 0 {
		r.query.Set("n", strconv.Itoa(n))
	}
	if last != "" {
		r.query.Set("last", last)
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, "", err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, "", c.refused(r, resp)
	}
	link := nextLink(resp.Header)
	b, err := body(resp, maxTagList)
	if err != nil {
		return nil, "", c.failed(r, 0, err)
	}
	var page struct{ Tags []string }
	if err := unmarshal(b, &page); err != nil {
		return nil, "", c.failed(r, resp.StatusCode, err)
	}
	if link == nil || len(page.Tags) == 0 {
		return page.Tags, "", nil
	}
	// Where the link leads does not matter, only from which tag on.
	next = link.Query().Get("last")
	if next == "" {
		next = page.Tags[len(page.Tags)-1]
	}
	return page.Tags, next, nil
}

func mediaType(resp *http.Response) string {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// checkIdentity refuses encoded bodies: none was asked for, and what is hashed
// must be what was signed.
func checkIdentity(resp *http.Response) error {
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return fmt.Errorf("%w: the body has the encoding %s, which was not asked for", errForbidden, printable(e))
	}
	return nil
}

// wholeSize reads "bytes FROM-TO/SIZE"; FROM must be the offset asked for.
func wholeSize(contentRange string, offset int64) (int64, error) {
	span, size, ok := strings.Cut(strings.TrimPrefix(contentRange, "bytes "), "/")
	from, _, _ := strings.Cut(span, "-")
	if start, err := strconv.ParseInt(from, 10, 64); !ok || err != nil || start != offset {
		return 0, fmt.Errorf("%w: it answers with another range than asked for", errForbidden)
	}
	if size == "*" {
		return -1, nil
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%w: its Content-Range is malformed", errForbidden)
	}
	return n, nil
}
