package verifytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
)

// Source is a verify.Source in memory. Like a real one it returns only what has
// its digest, and trusts nothing that is put into it.
type Source struct {
	mu      sync.Mutex
	content map[digest.Digest][]byte
	tags    map[string]digest.Digest // "repository:tag"
	listed  map[string][]ocispec.Descriptor
	down    error
	missing map[digest.Digest]error
	reads   int
}

// NewSource returns an empty source.
func NewSource() *Source {
	return &Source{content: map[digest.Digest][]byte{}, tags: map[string]digest.Digest{}, listed: map[string][]ocispec.Descriptor{}, missing: map[digest.Digest]error{}}
}

// Put stores a blob or manifest and returns its descriptor.
func (s *Source) Put(mediaType string, body []byte) ocispec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(body)
	s.content[d] = body
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(body))}
}

// PutManifest stores an image manifest.
func (s *Source) PutManifest(t testing.TB, m ocispec.Manifest) ocispec.Descriptor {
	t.Helper()
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	body, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return s.Put(m.MediaType, body)
}

// Tag lets a tag name a manifest.
func (s *Source) Tag(repository, tag string, d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags[repository+":"+tag] = d
}

// List lists a descriptor, which may lie, as a referrer of a subject.
func (s *Source) List(repository string, subject digest.Digest, d ocispec.Descriptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := repository + "@" + subject.String()
	s.listed[key] = append(s.listed[key], d)
}

// Forget removes all referrers of a subject.
func (s *Source) Forget(repository string, subject digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listed, repository+"@"+subject.String())
}

// Down makes every question fail; nil ends it.
func (s *Source) Down(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = err
}

// Fail makes reading one digest fail.
func (s *Source) Fail(d digest.Digest, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing[d] = err
}

// Reads returns how often content was read.
func (s *Source) Reads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reads
}

// Resolve implements verify.Source.
func (s *Source) Resolve(ctx context.Context, repository, tag string) (ocispec.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(ctx.Err(), s.down); err != nil {
		return ocispec.Descriptor{}, err
	}
	d, ok := s.tags[repository+":"+tag]
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("tag %s: %w", tag, fs.ErrNotExist)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(s.content[d]))}, nil
}

// Read implements verify.Source.
func (s *Source) Read(ctx context.Context, _ string, d ocispec.Descriptor) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	if err := errors.Join(ctx.Err(), s.down, s.missing[d.Digest]); err != nil {
		return nil, err
	}
	body, ok := s.content[d.Digest]
	switch {
	case !ok:
		return nil, fmt.Errorf("%s: %w", d.Digest, fs.ErrNotExist)
	case !verify.IsManifestType(d.MediaType) && int64(len(body)) != d.Size:
		return nil, fmt.Errorf("%s has %d bytes, not %d", d.Digest, len(body), d.Size)
	}
	return slices.Clone(body), nil
}

// Referrers implements verify.Source: what was listed, and the legacy tags.
func (s *Source) Referrers(ctx context.Context, repository string, subject digest.Digest) ([]ocispec.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(ctx.Err(), s.down); err != nil {
		return nil, err
	}
	all := slices.Clone(s.listed[repository+"@"+subject.String()])
	for _, suffix := range []string{".sig", ".att"} {
		tag := strings.Replace(subject.String(), ":", "-", 1) + suffix
		if d, ok := s.tags[repository+":"+tag]; ok {
			all = append(all, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(s.content[d]))})
		}
	}
	return all, nil
}

var _ verify.Source = (*Source)(nil)
