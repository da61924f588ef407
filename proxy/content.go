package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/proxy/upstream"
	"github.com/countersign/countersign/verify"
)

const (
	// hotManifests is how many manifests are kept parsed in memory, each at
	// most hotManifestSize: 32 MiB at the very most.
	hotManifests    = 1024
	hotManifestSize = 32 << 10
	// maxLocated and locatedMemory bound what is known of which repository has
	// which manifest; beyond them the upstream is asked again.
	maxLocated    = 100_000
	locatedMemory = 24 * time.Hour
	// maxTags bounds remembered tag resolutions; beyond it the oldest are asked again.
	maxTags = 100_000
	// fetchTimeout bounds reading one manifest or signature from an upstream.
	fetchTimeout = 60 * time.Second
)

// content reads manifests and blobs from the store, or else from the upstream
// into the store. Everything it returns has been hashed; what does not have
// its digest is a *cache.DigestError. It decides nothing.
type content struct {
	upstreams *Upstreams
	store     *cache.Store
	hot       *cache.Memo[digest.Digest, *object]
	flights   singleflight.Group
	// located holds the manifests that are known to lie in a repository, and
	// recorded asks about those that were admitted in it before.
	located  *cache.Brief[location, struct{}]
	recorded func(name string, d digest.Digest) bool
}

// location is a manifest in a repository. The store keeps content by digest
// alone; what one repository has is not another's.
type location struct {
	name   string
	digest digest.Digest
}

// object is a manifest or index in hand: its bytes, what they hash to and what
// they say.
type object struct {
	body   []byte
	digest digest.Digest
	*verify.Manifest
	header http.Header // what is sent with it
	// fetched is set if the upstream was asked for the bytes.
	fetched bool
}

func (o *object) subject(name route) verify.Subject {
	return verify.Subject{Registry: name.registry, Repository: name.repository, Tag: name.tag,
		MediaType: o.MediaType, Digest: o.digest, Size: int64(len(o.body))}
}

func newContent(ups *Upstreams, store *cache.Store) (*content, error) {
	hot, err := cache.NewMemo[digest.Digest, *object](hotManifests)
	if err != nil {
		return nil, fmt.Errorf("starting the manifest cache: %w", err)
	}
	return &content{upstreams: ups, store: store, hot: hot,
		located:  cache.NewBrief[location, struct{}](maxLocated, locatedMemory),
		recorded: func(string, digest.Digest) bool { return false }}, nil
}

// byDigest returns the manifest with this digest, from the store or from the
// repository. Many callers cost one fetch.
func (c *content) byDigest(ctx context.Context, name string, d digest.Digest) (*object, error) {
	if c.isLocated(location{name, d}) {
		if o, ok := c.hot.Get(d); ok {
			return o, nil
		}
		body, err := c.store.ReadAll(ctx, d, verify.MaxManifestSize)
		if err == nil {
			return c.parse(body, d)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading manifest %s from the store: %w", d, err)
		}
	}
	return c.once(ctx, name+"@"+d.String(), func(ctx context.Context) (*object, error) {
		return c.fetch(ctx, name, d.String(), d)
	})
}

// isLocated reports whether the manifest is known to lie in the repository. If
// not, the upstream has to be asked even though the store has the bytes: an
// image that was refused in one repository must not come out of another, where
// less is required, only because somebody knows its digest.
func (c *content) isLocated(l location) bool {
	if _, ok := c.located.Get(l); ok {
		return true
	}
	if !c.recorded(l.name, l.digest) {
		return false
	}
	c.located.Set(l, struct{}{})
	return true
}

// byTag asks the upstream for the manifest that the tag names now.
func (c *content) byTag(ctx context.Context, name, tag string) (*object, error) {
	return c.once(ctx, name+":"+tag, func(ctx context.Context) (*object, error) {
		return c.fetch(ctx, name, tag, "")
	})
}

// head asks the upstream which digest the tag names now, without its bytes; ""
// if the upstream does not say.
func (c *content) head(ctx context.Context, name, tag string) (digest.Digest, error) {
	up, repo, err := c.upstreams.client(name)
	if err != nil {
		return "", err
	}
	d, err := up.Head(ctx, repo, tag)
	if err != nil {
		return "", fmt.Errorf("resolving %s:%s: %w", name, tag, err)
	}
	if verify.CheckDigest(d.Digest) != nil {
		return "", nil
	}
	return d.Digest, nil
}

// once shares one fetch among simultaneous callers and lets it outlive any of them.
func (c *content) once(ctx context.Context, key string, fetch func(context.Context) (*object, error)) (*object, error) {
	ch := c.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		return fetch(ctx)
	})
	select {
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*object), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("reading %s: %w", key, ctx.Err())
	}
}

// fetch reads a manifest from the upstream. Its digest is computed here; the
// upstream's own claim, where it makes one, must agree, and so must want.
func (c *content) fetch(ctx context.Context, name, reference string, want digest.Digest) (*object, error) {
	up, repo, err := c.upstreams.client(name)
	if err != nil {
		return nil, err
	}
	m, err := up.Manifest(ctx, repo, reference)
	if err != nil {
		return nil, fmt.Errorf("reading manifest %s of %s: %w", reference, name, err)
	}
	claimed := want
	if claimed == "" {
		claimed = m.Digest
	}
	if verify.CheckDigest(claimed) != nil {
		claimed = digest.FromBytes(m.Body)
	}
	if got := claimed.Algorithm().FromBytes(m.Body); got != claimed {
		return nil, &cache.DigestError{Want: claimed, Got: got}
	}
	o, err := c.parse(m.Body, claimed)
	if err != nil {
		return nil, err
	}
	if verify.IsManifestType(m.MediaType) && m.MediaType != o.MediaType {
		return nil, verify.Refuse(verify.Malformed, "the upstream calls the manifest %s; its body says otherwise", m.MediaType)
	}
	if err := c.store.Put(ctx, claimed, m.Body); err != nil {
		return nil, fmt.Errorf("storing manifest %s: %w", claimed, err)
	}
	c.located.Set(location{name, claimed}, struct{}{})
	fetched := *o
	fetched.fetched = true
	return &fetched, nil
}

func (c *content) parse(body []byte, d digest.Digest) (*object, error) {
	m, err := verify.ParseManifest(body)
	if err != nil {
		return nil, err
	}
	o := &object{body: body, digest: d, Manifest: m, header: manifestHeader(m.MediaType, d, len(body))}
	if len(body) <= hotManifestSize {
		c.hot.Add(d, o, time.Time{})
	}
	return o, nil
}

// blob returns the content of a blob that something admitted refers to with
// this size. Simultaneous cold requests share one transfer.
func (c *content) blob(ctx context.Context, name string, d digest.Digest, size int64) (*cache.Content, error) {
	found, err := c.store.Open(ctx, d)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	up, repo, err := c.upstreams.client(name)
	if err != nil {
		return nil, err
	}
	return c.store.Fetch(ctx, name, d, size, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		body, whole, err := up.Blob(ctx, repo, d, offset)
		if err != nil {
			return nil, err
		}
		if whole >= 0 && whole != size {
			body.Close()
			return nil, &cache.DigestError{Want: d}
		}
		return body, nil
	})
}

// hasBlob reports whether the blob can be had, without reading it.
func (c *content) hasBlob(ctx context.Context, name string, d digest.Digest) (stored bool, err error) {
	if _, err := c.store.Stat(ctx, d); err == nil {
		return true, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	up, repo, err := c.upstreams.client(name)
	if err != nil {
		return false, err
	}
	_, err = up.HeadBlob(ctx, repo, d)
	return false, err
}

// Resolve implements verify.Source: what the tag means now, past every tag cache.
func (c *content) Resolve(ctx context.Context, name, tag string) (ocispec.Descriptor, error) {
	o, err := c.byTag(ctx, name, tag)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return o.descriptor(), nil
}

func (o *object) descriptor() ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: o.MediaType, Digest: o.digest, Size: int64(len(o.body)), ArtifactType: o.ArtifactType, Annotations: o.Annotations}
	if d.ArtifactType == "" && !o.IsIndex() {
		d.ArtifactType = o.Config.MediaType
	}
	return d
}

// Read implements verify.Source.
func (c *content) Read(ctx context.Context, name string, d ocispec.Descriptor) ([]byte, error) {
	if verify.IsManifestType(d.MediaType) {
		o, err := c.byDigest(ctx, name, d.Digest)
		if err != nil {
			return nil, err
		}
		return o.body, nil
	}
	if body, err := c.store.ReadAll(ctx, d.Digest, d.Size); err == nil {
		return body, nil
	}
	blob, err := c.blob(ctx, name, d.Digest, d.Size)
	if err != nil {
		return nil, fmt.Errorf("reading blob %s of %s: %w", d.Digest, name, err)
	}
	defer blob.Close()
	body, err := io.ReadAll(io.LimitReader(blob, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("reading blob %s of %s: %w", d.Digest, name, err)
	}
	if int64(len(body)) != d.Size {
		return nil, fmt.Errorf("reading blob %s of %s: %d bytes, want %d", d.Digest, name, len(body), d.Size)
	}
	return body, nil
}

var _ verify.Source = (*content)(nil)

// dialed is how the upstream client is used here, so that the file reads
// without the package.
var _ interface {
	Head(ctx context.Context, repo, ref string) (ocispec.Descriptor, error)
	Manifest(ctx context.Context, repo, ref string) (upstream.Manifest, error)
	HeadBlob(ctx context.Context, repo string, d digest.Digest) (int64, error)
} = (*upstream.Client)(nil)
