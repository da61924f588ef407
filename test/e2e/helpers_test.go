package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// children returns the digests that an index lists.
func (s *site) children(t *testing.T, repository string) []digest.Digest {
	t.Helper()
	var index ocispec.Index
	must(t, json.Unmarshal(s.upstream.Manifest(repository, digest.Digest(s.set.Tags[repository+":v1"])), &index))
	var ds []digest.Digest
	for _, m := range index.Manifests {
		ds = append(ds, m.Digest)
	}
	return ds
}

// copyInto puts an image of one repository into another.
func (s *site) copyInto(t *testing.T, from, to string) {
	t.Helper()
	body := s.upstream.Manifest(from, digest.Digest(s.set.Tags[from+":v1"]))
	var m ocispec.Manifest
	must(t, json.Unmarshal(body, &m))
	for _, d := range append(m.Layers, m.Config) {
		blob, _ := s.upstream.Blob(from, d.Digest)
		s.upstream.PutBlob(to, d.MediaType, blob)
	}
	s.upstream.PutManifest(to, body)
}

// waitTags waits until the proxy asks again what a tag means, and until a
// refusal is forgotten: a second each in this configuration.
func waitTags() { time.Sleep(1200 * time.Millisecond) }
