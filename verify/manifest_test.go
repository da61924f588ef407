package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var (
	descriptor = fmt.Sprintf(`{"mediaType":"a/b","digest":%q,"size":2}`, someDigest)
	imageBody  = `{"schemaVersion":2,"mediaType":"` + MediaTypeImageManifest + `","config":` + descriptor + `,"layers":[` + descriptor + `]}`
	indexBody  = `{"schemaVersion":2,"mediaType":"` + MediaTypeImageIndex + `","manifests":[` + descriptor + `]}`
)

func TestParseManifest(t *testing.T) {
	for _, test := range []struct {
		name, body, mediaType string
		index                 bool
		references            int
	}{
		{"image", imageBody, MediaTypeImageManifest, false, 2},
		{"index", indexBody, MediaTypeImageIndex, true, 1},
		{"image without media type", strings.Replace(imageBody, `"mediaType":"`+MediaTypeImageManifest+`",`, "", 1), MediaTypeImageManifest, false, 2},
		{"index without media type", strings.Replace(indexBody, `"mediaType":"`+MediaTypeImageIndex+`",`, "", 1), MediaTypeImageIndex, true, 1},
		{"docker image", strings.Replace(imageBody, MediaTypeImageManifest, MediaTypeDockerManifest, 1), MediaTypeDockerManifest, false, 2},
		{"docker list", strings.Replace(indexBody, MediaTypeImageIndex, MediaTypeDockerList, 1), MediaTypeDockerList, true, 1},
		{"annotations of any case", strings.Replace(imageBody, `"schemaVersion"`, `"annotations":{"Layers":"x","layers":"y"},"schemaVersion"`, 1), MediaTypeImageManifest, false, 2},
		{"space around it", "\n " + imageBody + " \n", MediaTypeImageManifest, false, 2},
		{"empty index", `{"schemaVersion":2,"manifests":[]}`, MediaTypeImageIndex, true, 0},
	} {
		m, err := ParseManifest([]byte(test.body))
		if err != nil {
			t.Errorf("%s: got %v", test.name, err)
			continue
		}
		if m.MediaType != test.mediaType || m.IsIndex() != test.index || len(m.References()) != test.references {
			t.Errorf("%s: got %+v", test.name, m)
		}
	}
}

func TestParseManifestRefuses(t *testing.T) {
	change := func(old, new string) string { return strings.Replace(imageBody, old, new, 1) }
	for name, body := range map[string]string{
		"nothing":               "",
		"not JSON":              "<html>",
		"a list":                "[]",
		"null":                  "null",
		"schema 1":              change(`"schemaVersion":2`, `"schemaVersion":1`),
		"no schema":             change(`"schemaVersion":2,`, ""),
		"both kinds":            change(`"layers"`, `"manifests":[],"layers"`),
		"index with config":     strings.Replace(indexBody, `"manifests"`, `"config":`+descriptor+`,"manifests"`, 1),
		"layers without config": `{"schemaVersion":2,"layers":[]}`,
		"index called image":    strings.Replace(indexBody, MediaTypeImageIndex, MediaTypeImageManifest, 1),
		"image called index":    change(MediaTypeImageManifest, MediaTypeImageIndex),
		"unknown media type":    change(MediaTypeImageManifest, "text/plain"),
		"schema 1 media type":   change(MediaTypeImageManifest, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
		"duplicate key":         change(`"schemaVersion":2`, `"schemaVersion":2,"schemaVersion":2`),
		"duplicate key below":   change(`"size":2`, `"size":2,"size":3`),
		"another case":          change(`"layers"`, `"Layers"`),
		"both cases":            change(`"layers"`, `"LAYERS":[],"layers"`),
		"a long s":              change(`"layers"`, "\"layer\u017f\":[],\"layers\""),
		"trailing document":     imageBody + "{}",
		"trailing bytes":        imageBody + "x",
		"invalid UTF-8":         change("a/b", "a/\xff"),
		"path as digest":        change(someDigest, "sha256:../../etc/passwd"),
		"short digest":          change(someDigest, someDigest[:70]),
		"upper-case digest":     change(someDigest, strings.ToUpper(someDigest)),
		"md5":                   change(someDigest, "md5:d41d8cd98f00b204e9800998ecf8427e"),
		"sha384":                change(someDigest, "sha384:"+strings.Repeat("a", 96)),
		"negative size":         change(`"size":2`, `"size":-2`),
		"fractional size":       change(`"size":2`, `"size":2.5`),
		"size as text":          change(`"size":2`, `"size":"2"`),
		"bad subject":           change(`"schemaVersion"`, `"subject":{"digest":"x","size":1},"schemaVersion"`),
		"too deep":              change(`"schemaVersion"`, `"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`,"schemaVersion"`),
		"too many layers":       change(`"layers":[`, `"layers":[`+strings.Repeat(descriptor+",", maxManifestEntries)),
		"too long":              imageBody + strings.Repeat(" ", MaxManifestSize),
	} {
		_, err := ParseManifest([]byte(body))
		var r *Refusal
		if !errors.As(err, &r) || r.Reason != Malformed {
			t.Errorf("%s: got %v, want malformed", name, err)
		}
	}
}

func TestCheckJSON(t *testing.T) {
	for body, want := range map[string]bool{
		`{}`: true, `[1,2,{"a":1}]`: true, `"x"`: true, ` {"a":1} `: true, `{"a":{"b":1},"c":{"b":1}}`: true,
		`{"annotations":{"A":1,"a":2}}`: true, `{"annotations":{"a":1,"a":2}}`: false,
		``: false, `{`: false, `{"a":1,"a":2}`: false, `{"a":1,"A":2}`: false, `{"a":1}{}`: false, `{"a":1,}`: false,
		"{\"k\":1,\"\u212a\":2}": false, "{\"a\":\"\xff\"}": false, `{"a":{"b":1,"B":1}}`: false, `nul`: false, `1e333`: false, `{"a":-1e999}`: false, `1e300`: true,
	} {
		if err := CheckJSON([]byte(body)); (err == nil) != want {
			t.Errorf("%q: got %v, want it accepted: %v", body, err, want)
		}
	}
}

func TestReasonsAreComplete(t *testing.T) {
	seen := map[Reason]bool{}
	for _, r := range Reasons() {
		if seen[r] || r == "" {
			t.Errorf("reason %q is there twice or empty", r)
		}
		seen[r] = true
	}
	if len(seen) != 14 {
		t.Errorf("got %d reason words, want 14", len(seen))
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(imageBody))
	f.Add([]byte(indexBody))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := ParseManifest(body)
		if err != nil {
			return
		}
		for _, d := range m.References() {
			if CheckDigest(d.Digest) != nil || d.Size < 0 {
				t.Fatalf("accepted the descriptor %+v", d)
			}
		}
		if m.IsIndex() && (m.Config.Digest != "" || len(m.Layers) > 0) {
			t.Fatal("accepted an index that is an image as well")
		}
	})
}

// What is accepted means the same to a parser that knows nothing of this one.
func FuzzCheckJSON(f *testing.F) {
	f.Add([]byte(imageBody))
	f.Fuzz(func(t *testing.T, body []byte) {
		if CheckJSON(body) != nil {
			return
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatalf("accepted what is no JSON: %v", err)
		}
		again, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var w any
		if err := json.Unmarshal(again, &w); err != nil || !bytes.Equal(again, mustMarshal(t, w)) {
			t.Fatalf("%q does not survive a round trip", body)
		}
	})
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSubject(t *testing.T) {
	s := Subject{Registry: "docker.io", Repository: "library/alpine", Tag: "3.22", Digest: digest.Digest(someDigest)}
	if got, want := s.String(), "docker.io/library/alpine:3.22@"+someDigest; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
