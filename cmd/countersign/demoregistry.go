package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/sign"
)

// demoRegistry is the demo's upstream: a registry in memory with one
// repository's worth of images, honest but for what the demo spoils on purpose.
type demoRegistry struct {
	manifests map[string][]byte // "repository@digest" or "repository:tag"
	blobs     map[digest.Digest][]byte
}

func newDemoRegistry() *demoRegistry {
	return &demoRegistry{manifests: map[string][]byte{}, blobs: map[digest.Digest][]byte{}}
}

// ServeHTTP answers the reads of the registry API.
func (d *demoRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
	if len(parts) < 3 {
		w.WriteHeader(http.StatusOK)
		return
	}
	repository, verb, ref := strings.Join(parts[:len(parts)-2], "/"), parts[len(parts)-2], parts[len(parts)-1]
	var body []byte
	mediaType := "application/octet-stream"
	switch verb {
	case "manifests":
		sep := ":"
		if strings.Contains(ref, ":") {
			sep = "@"
		}
		body = d.manifests[repository+sep+ref]
		var m struct{ MediaType string }
		if json.Unmarshal(body, &m) == nil {
			mediaType = m.MediaType
		}
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
	case "blobs":
		body = d.blobs[digest.Digest(ref)]
	}
	if body == nil {
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that left needs no answer
}

// put stores a manifest under its digest and, if given, tags.
func (d *demoRegistry) put(repository string, manifest any, tags ...string) (ocispec.Descriptor, error) {
	body, err := json.Marshal(manifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var m struct{ MediaType string }
	if err := json.Unmarshal(body, &m); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	d.manifests[repository+"@"+desc.Digest.String()] = body
	for _, t := range tags {
		d.manifests[repository+":"+t] = body
	}
	return desc, nil
}

func (d *demoRegistry) blob(mediaType string, body []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(body), Size: int64(len(body))}
	d.blobs[desc.Digest] = body
	return desc
}

// image stores an image whose one layer holds /hello.txt with the text.
func (d *demoRegistry) image(repository, arch, text string, tags ...string) (ocispec.Descriptor, error) {
	var layer, packed bytes.Buffer
	tw := tar.NewWriter(&layer)
	if err := tw.WriteHeader(&tar.Header{Name: "hello.txt", Mode: 0o644, Size: int64(len(text))}); err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := tw.Write([]byte(text)); err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := tw.Close(); err != nil {
		return ocispec.Descriptor{}, err
	}
	gz := gzip.NewWriter(&packed)
	if _, err := gz.Write(layer.Bytes()); err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := gz.Close(); err != nil {
		return ocispec.Descriptor{}, err
	}
	config, err := json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer.Bytes())}}})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := d.put(repository, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: d.blob(ocispec.MediaTypeImageConfig, config),
		Layers: []ocispec.Descriptor{d.blob(ocispec.MediaTypeImageLayerGzip, packed.Bytes())}}, tags...)
	desc.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return desc, err
}

// signLegacy signs as cosign up to v2 does: at the tag sha256-<hex>.sig.
func (d *demoRegistry) signLegacy(key *sign.Key, repository string, image digest.Digest) error {
	payload, signature, err := key.Legacy(repository, image)
	if err != nil {
		return err
	}
	layer := d.blob(sign.MediaTypeSimpleSigning, payload)
	layer.Annotations = map[string]string{sign.SignatureAnnotation: signature}
	_, err = d.put(repository, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: d.blob(ocispec.MediaTypeImageConfig, []byte("{}")), Layers: []ocispec.Descriptor{layer}},
		strings.Replace(image.String(), ":", "-", 1)+".sig")
	return err
}

// signBundle signs as cosign v3 does: a Sigstore bundle as a referrer, listed
// at the fallback tag because this registry has no referrers API.
func (d *demoRegistry) signBundle(key *sign.Key, repository string, image ocispec.Descriptor) error {
	bundle, err := key.Bundle(image.Digest)
	if err != nil {
		return err
	}
	subject := ocispec.Descriptor{MediaType: image.MediaType, Digest: image.Digest, Size: image.Size}
	desc, err := d.put(repository, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: sign.MediaTypeBundle, Config: d.blob(ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers: []ocispec.Descriptor{d.blob(sign.MediaTypeBundle, bundle)}, Subject: &subject})
	if err != nil {
		return err
	}
	desc.ArtifactType = sign.MediaTypeBundle
	_, err = d.put(repository, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{desc}}, strings.Replace(image.Digest.String(), ":", "-", 1))
	return err
}

// spoil changes the last byte of an image's layer, as a tampered registry would.
func (d *demoRegistry) spoil(repository string, image digest.Digest) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(d.manifests[repository+"@"+image.String()], &m); err != nil || len(m.Layers) == 0 {
		return fmt.Errorf("spoiling %s: it has no layer: %w", image, err)
	}
	body := bytes.Clone(d.blobs[m.Layers[0].Digest])
	body[len(body)-1] ^= 1
	d.blobs[m.Layers[0].Digest] = body
	return nil
}

// copySignature puts one image's signature at another's tag.
func (d *demoRegistry) copySignature(repository string, from, to digest.Digest) error {
	tag := func(d digest.Digest) string {
		return repository + ":" + strings.Replace(d.String(), ":", "-", 1) + ".sig"
	}
	body, ok := d.manifests[tag(from)]
	if !ok {
		return fmt.Errorf("copying the signature of %s: it has none", from)
	}
	d.manifests[tag(to)] = body
	return nil
}
