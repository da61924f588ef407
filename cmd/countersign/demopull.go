package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
)

// maxDemoBody bounds what the demo's client reads: its images have some
// hundred bytes.
const maxDemoBody = 1 << 20

// pulled is what the demo's client saw.
type pulled struct {
	status int
	// manifest and blob are the reason words of refusals.
	manifest, blob verify.Reason
	message        string
	err            error
}

// pull does what a client does: manifest by tag, a child of an index by digest,
// then every blob, checking each digest.
func pull(ctx context.Context, c *http.Client, proxy, reference string) (p pulled) {
	repository, tag, _ := strings.Cut(reference, ":")
	base := proxy + "/v2/" + repository
	body, refusal, err := p.get(ctx, c, base+"/manifests/"+tag)
	if refusal != "" || err != nil {
		p.manifest, p.err = refusal, err
		return p
	}
	var m struct {
		Config    ocispec.Descriptor
		Layers    []ocispec.Descriptor
		Manifests []ocispec.Descriptor
	}
	if p.err = json.Unmarshal(body, &m); p.err != nil {
		return p
	}
	if len(m.Manifests) > 0 {
		child := m.Manifests[0].Digest
		if body, p.manifest, p.err = p.get(ctx, c, base+"/manifests/"+child.String()); p.manifest != "" || p.err != nil {
			return p
		}
		if p.err = json.Unmarshal(body, &m); p.err != nil {
			return p
		}
	}
	count := 0
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if p.blob, p.err = p.getBlob(ctx, c, base, d.Digest); p.blob != "" || p.err != nil {
			return p
		}
		count++
	}
	p.message = fmt.Sprintf("pulled %s, %d blobs", digest.FromBytes(body).Encoded()[:12], count)
	return p
}

// getBlob reads a blob. If the proxy cuts the transfer, the client asks again,
// as real ones do, and is told why.
func (p *pulled) getBlob(ctx context.Context, c *http.Client, base string, d digest.Digest) (verify.Reason, error) {
	body, refusal, err := p.get(ctx, c, base+"/blobs/"+d.String())
	if err != nil {
		body, refusal, err = p.get(ctx, c, base+"/blobs/"+d.String())
	}
	if err == nil && refusal == "" && digest.FromBytes(body) != d {
		err = errors.New("the proxy served bytes that do not have their digest")
	}
	return refusal, err
}

func (p *pulled) get(ctx context.Context, c *http.Client, url string) ([]byte, verify.Reason, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	p.status = resp.StatusCode
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDemoBody))
	if err != nil {
		return nil, "", err
	}
	if resp.StatusCode == http.StatusOK {
		return body, "", nil
	}
	var e struct {
		Errors []struct {
			Message string
			Detail  struct{ Reason verify.Reason }
		}
	}
	if err := json.Unmarshal(body, &e); err != nil || len(e.Errors) == 0 {
		return nil, "", fmt.Errorf("the proxy answered %s", resp.Status)
	}
	p.message = e.Errors[0].Message
	if e.Errors[0].Detail.Reason == "" {
		return nil, "", fmt.Errorf("the proxy answered %s: %s", resp.Status, p.message)
	}
	return nil, e.Errors[0].Detail.Reason, nil
}
