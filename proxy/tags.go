package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/proxy/upstream"
)

const (
	// outageMemory is how long an upstream that failed is not asked about the
	// same tag again while an admitted digest can be served instead.
	outageMemory = 5 * time.Second
	// resolvedWrites is how often the time of an unchanged resolution is
	// written down: max_stale is counted in hours, a write costs a disk flush.
	resolvedWrites = 10 * time.Minute
)

// tags turns tags into digests: from memory for a short time, else by asking
// the upstream, else, while the upstream is down, from what was last admitted.
type tags struct {
	content  *content
	fresh    *cache.Brief[string, digest.Digest]
	down     *cache.Brief[string, error]
	last     *cache.Table
	noted    *cache.Brief[string, digest.Digest]
	heads    singleflight.Group
	maxStale time.Duration
}

// lastTag is what a tag meant when it was last admitted.
type lastTag struct {
	Digest   digest.Digest `json:"digest"`
	Resolved time.Time     `json:"resolved"`
}

func newTags(c *content, state *cache.State, ttl, maxStale time.Duration) *tags {
	return &tags{content: c, last: state.Table("tags"), maxStale: maxStale,
		fresh: cache.NewBrief[string, digest.Digest](maxTags, ttl),
		noted: cache.NewBrief[string, digest.Digest](maxTags, resolvedWrites),
		down:  cache.NewBrief[string, error](maxTags, outageMemory)}
}

// resolve returns the manifest that the tag means. stale is set if the
// upstream could not be asked and the last admitted digest stands in.
func (t *tags) resolve(ctx context.Context, name, tag string) (o *object, stale bool, err error) {
	key := name + ":" + tag
	if d, ok := t.fresh.Get(key); ok {
		o, err := t.content.byDigest(ctx, name, d)
		return o, false, err
	}
	last, known := t.load(key)
	err, failed := t.down.Get(key)
	if !failed {
		o, err = t.ask(ctx, name, tag, last.Digest)
	}
	if err == nil {
		t.fresh.Set(key, o.digest)
		return o, false, nil
	}
	if !known || !isOutage(err) || time.Since(last.Resolved) > t.maxStale {
		return nil, false, err
	}
	t.down.Set(key, err)
	o, storeErr := t.content.byDigest(ctx, name, last.Digest)
	if storeErr != nil {
		return nil, false, err
	}
	return o, true, nil
}

// ask costs the upstream one request for a new tag, one HEAD for an unchanged
// one, and a HEAD and a GET for one that has moved.
func (t *tags) ask(ctx context.Context, name, tag string, last digest.Digest) (*object, error) {
	if last == "" {
		return t.content.byTag(ctx, name, tag)
	}
	d, err := t.head(ctx, name, tag)
	if err != nil {
		return nil, err
	}
	if d == "" {
		return t.content.byTag(ctx, name, tag)
	}
	return t.content.byDigest(ctx, name, d)
}

func (t *tags) head(ctx context.Context, name, tag string) (digest.Digest, error) {
	ch := t.heads.DoChan(name+":"+tag, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		defer cancel()
		return t.content.head(ctx, name, tag)
	})
	select {
	case r := <-ch:
		d, _ := r.Val.(digest.Digest)
		return d, r.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// admitted notes that the tag's digest was admitted: it is what max_stale serves.
func (t *tags) admitted(name, tag string, d digest.Digest) error {
	key := name + ":" + tag
	if noted, ok := t.noted.Get(key); ok && noted == d {
		return nil
	}
	value, err := json.Marshal(lastTag{Digest: d, Resolved: time.Now()})
	if err != nil {
		return err
	}
	if err := t.last.Put(map[string][]byte{key: value}); err != nil {
		return err
	}
	t.noted.Set(key, d)
	return nil
}

func (t *tags) load(key string) (lastTag, bool) {
	var last lastTag
	value, err := t.last.Load(key)
	if err != nil || json.Unmarshal(value, &last) != nil {
		return lastTag{}, false
	}
	return last, true
}

// isOutage reports whether an upstream failed to answer, rather than answering
// that there is nothing or that it must not be read.
func isOutage(err error) bool {
	var up *upstream.Error
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, context.Canceled):
		return false
	case !errors.As(err, &up):
		return false
	}
	return up.Status == 0 || up.Status == http.StatusTooManyRequests || up.Status >= http.StatusInternalServerError
}
