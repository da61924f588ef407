package verify

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifestSize bounds manifests and indexes: registries must accept 4 MiB
// (distribution-spec v1.1.1, "Pushing Manifests"), and common clients refuse more.
const MaxManifestSize = 4 << 20

// maxManifestEntries bounds what one manifest may refer to. The largest real
// images have some hundreds of layers; a 4 MiB document has room for 50,000.
const maxManifestEntries = 10_000

// The media types of manifests, as they are told apart by their body.
const (
	MediaTypeImageManifest  = ocispec.MediaTypeImageManifest
	MediaTypeImageIndex     = ocispec.MediaTypeImageIndex
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Manifest is an image manifest or index, parsed strictly.
type Manifest struct {
	// MediaType is the body's own, or what its shape implies.
	MediaType string
	// ArtifactType is the body's artifactType, else empty.
	ArtifactType string
	// Config is zero for an index.
	Config ocispec.Descriptor
	// Layers are those of an image manifest, Manifests the children of an index.
	Layers    []ocispec.Descriptor
	Manifests []ocispec.Descriptor
	// Subject is what the manifest is about, if it is a referrer.
	Subject     *ocispec.Descriptor
	Annotations map[string]string
}

// IsIndex reports whether the manifest has children rather than layers.
func (m *Manifest) IsIndex() bool { return isIndexType(m.MediaType) }

func isIndexType(t string) bool { return t == MediaTypeImageIndex || t == MediaTypeDockerList }

// IsManifestType reports whether a descriptor of this media type is read from
// the manifests endpoint rather than as a blob.
func IsManifestType(t string) bool {
	return t == MediaTypeImageManifest || t == MediaTypeDockerManifest || isIndexType(t)
}

// ParseManifest parses an OCI image manifest or index (image-spec v1.1.1) or
// its Docker schema 2 twin. What kind it is follows from the body alone.
// Documents that two parsers could read differently are refused as Malformed:
// duplicate or differently cased keys, data after the document, both manifests
// and layers (CVE-2021-41190), malformed digests or sizes anywhere inside.
func ParseManifest(body []byte) (*Manifest, error) {
	if len(body) > MaxManifestSize {
		return nil, Refuse(Malformed, "the manifest has %d bytes; at most %d are allowed", len(body), MaxManifestSize)
	}
	m, err := parseManifest(body)
	if err != nil {
		return nil, &Refusal{Reason: Malformed, Message: "the manifest is not a valid image manifest or index: " + err.Error(), Err: err}
	}
	return m, nil
}

// manifestKeys are the keys that decide what a manifest means. encoding/json
// would take "Layers" for "layers"; other parsers would not.
var manifestKeys = []string{"schemaVersion", "mediaType", "artifactType", "config", "layers", "manifests", "subject",
	"annotations", "digest", "size", "urls", "data", "platform"}

func parseManifest(body []byte) (*Manifest, error) {
	if err := checkJSON(body, manifestKeys); err != nil {
		return nil, err
	}
	var doc struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		ArtifactType  string               `json:"artifactType"`
		Config        *ocispec.Descriptor  `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
		Manifests     []ocispec.Descriptor `json:"manifests"`
		Subject       *ocispec.Descriptor  `json:"subject"`
		Annotations   map[string]string    `json:"annotations"`
	}
	keys, err := topLevelKeys(body)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, errors.New("a field has the wrong type")
	}
	if doc.SchemaVersion != 2 {
		return nil, fmt.Errorf("schemaVersion is %d, want 2", doc.SchemaVersion)
	}
	index := keys["manifests"]
	if index == (keys["layers"] || keys["config"]) {
		return nil, errors.New("it must have either manifests, or config and layers")
	}
	if !index && doc.Config == nil {
		return nil, errors.New("it has no config")
	}
	m := &Manifest{MediaType: doc.MediaType, ArtifactType: doc.ArtifactType, Layers: doc.Layers,
		Manifests: doc.Manifests, Subject: doc.Subject, Annotations: doc.Annotations}
	if doc.Config != nil {
		m.Config = *doc.Config
	}
	switch {
	case m.MediaType == "" && index:
		m.MediaType = MediaTypeImageIndex
	case m.MediaType == "":
		m.MediaType = MediaTypeImageManifest
	case !IsManifestType(m.MediaType):
		return nil, errors.New("its mediaType is not that of an image manifest or index")
	case isIndexType(m.MediaType) != index:
		return nil, errors.New("its mediaType contradicts its content")
	}
	return m, m.checkDescriptors()
}

func (m *Manifest) checkDescriptors() error {
	if n := len(m.Layers) + len(m.Manifests); n > maxManifestEntries {
		return fmt.Errorf("it refers to %d things; at most %d are allowed", n, maxManifestEntries)
	}
	for _, d := range m.References() {
		if err := checkDescriptor(d); err != nil {
			return err
		}
	}
	if m.Subject != nil {
		return checkDescriptor(*m.Subject)
	}
	return nil
}

// checkDescriptor refuses digests that are not exactly "algorithm:lower-case
// hex of the right length": they become paths and request targets (CVE-2024-3727).
func checkDescriptor(d ocispec.Descriptor) error {
	if err := CheckDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return errors.New("a descriptor has a negative size")
	}
	return nil
}

// CheckDigest reports whether d is a well-formed sha256 or sha512 digest.
func CheckDigest(d digest.Digest) error {
	if d.Validate() != nil {
		return errors.New("a digest is malformed")
	}
	if alg := d.Algorithm(); alg != digest.SHA256 && alg != digest.SHA512 {
		return errors.New("a digest is neither sha256 nor sha512")
	}
	return nil
}

// References returns the descriptors of everything that the manifest consists
// of: config and layers, or children. The subject is not among them.
func (m *Manifest) References() []ocispec.Descriptor {
	if m.IsIndex() {
		return m.Manifests
	}
	return append([]ocispec.Descriptor{m.Config}, m.Layers...)
}

func topLevelKeys(body []byte) (map[string]bool, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, errors.New("it is not a JSON object")
	}
	keys := make(map[string]bool, len(doc))
	for k := range doc {
		keys[k] = true
	}
	return keys, nil
}
