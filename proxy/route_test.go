package proxy

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/registry/api/errcode"

	"github.com/countersign/countersign/verify"
)

// names is a Registries of fixed names.
type names struct {
	known    []string
	standard string
}

func (n names) Canonical(host string) (string, bool) {
	for _, k := range n.known {
		if k == strings.ToLower(host) {
			return k, true
		}
	}
	return "", false
}

func (n names) Default() string { return n.standard }

var hub = names{known: []string{"docker.io", "ghcr.io", "registry.internal:5000"}, standard: "docker.io"}

const someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func parse(method, target string, regs Registries) (route, error) {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return route{}, err
	}
	return parseRoute(method, u, regs)
}

func TestParseRoute(t *testing.T) {
	for _, test := range []struct {
		target     string
		kind       kind
		name       string
		reference  string
		namespaced bool
	}{
		{"/v2/", kindPing, "", "", false},
		{"/v2", kindPing, "", "", false},
		{"/v2/alpine/manifests/latest", kindManifest, "docker.io/library/alpine", "latest", false},
		{"/v2/library/alpine/manifests/" + someDigest, kindManifest, "docker.io/library/alpine", someDigest, false},
		{"/v2/org/app/manifests/v1?ns=ghcr.io", kindManifest, "ghcr.io/org/app", "v1", true},
		{"/v2/alpine/manifests/v1?ns=docker.io", kindManifest, "docker.io/library/alpine", "v1", true},
		{"/v2/app/manifests/v1?ns=ghcr.io", kindManifest, "ghcr.io/app", "v1", true},
		{"/v2/ghcr.io/org/app/blobs/" + someDigest, kindBlob, "ghcr.io/org/app", someDigest, false},
		{"/v2/registry.internal:5000/a/b/tags/list?n=5&last=x", kindTags, "registry.internal:5000/a/b", "", false},
		{"/v2/a/manifests/manifests/manifests", kindManifest, "docker.io/a/manifests", "manifests", false},
		{"/v2/a/b/referrers/" + someDigest + "?artifactType=x/y", kindReferrers, "docker.io/a/b", someDigest, false},
		{"/v2/evil.example/x/manifests/v1", kindManifest, "docker.io/evil.example/x", "v1", false},
	} {
		r, err := parse("GET", test.target, hub)
		if err != nil {
			t.Errorf("%s: got %v", test.target, err)
			continue
		}
		if r.kind != test.kind || r.name() != test.name || r.tag+r.digest.String() != test.reference || r.namespaced != test.namespaced {
			t.Errorf("%s: got %+v", test.target, r)
		}
	}
}

func TestParseRouteRefuses(t *testing.T) {
	for _, test := range []struct {
		method, target string
		status         int
	}{
		{"POST", "/v2/a/b/blobs/uploads/", 405},
		{"PUT", "/v2/a/b/manifests/v1", 405},
		{"DELETE", "/v2/a/b/manifests/v1", 405},
		{"PATCH", "/v2/", 405},
		{"GET", "/", 404},
		{"GET", "/v1/a", 404},
		{"GET", "/v2/_catalog", 404},
		{"GET", "/v2/a/b", 404},
		{"GET", "/v2/a/tags/other", 404},
		{"GET", "/v2/a%2fb/manifests/v1", 400},
		{"GET", "/v2/lib/..%2f..%2fapp/manifests/v1", 400},
		{"GET", "/v2/lib/../app/manifests/v1", 400},
		{"GET", "/v2/lib//app/manifests/v1", 400},
		{"GET", "/v2//manifests/v1", 400},
		{"GET", "/v2/Lib/manifests/v1", 400},
		{"GET", "/v2/a/manifests/.v1", 400},
		{"GET", "/v2/a/manifests/" + strings.Repeat("x", 129), 400},
		{"GET", "/v2/a/manifests/sha256:xyz", 400},
		{"GET", "/v2/a/manifests/sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709", 400},
		{"GET", "/v2/a/blobs/" + strings.ToUpper(someDigest), 400},
		{"GET", "/v2/a/blobs/sha256:../../etc", 404},
		{"GET", "/v2/a/blobs/v1", 400},
		{"GET", "/v2/" + strings.Repeat("a/", 200) + "a/manifests/v1", 400},
		{"GET", "/v2/a/tags/list?n=-1", 400},
		{"GET", "/v2/a/tags/list?n=x", 400},
		{"GET", "/v2/a/tags/list?last=../x", 400},
		{"GET", "/v2/a/manifests/v1?ns=ghcr.io&ns=docker.io", 400},
		{"GET", "/v2/a/manifests/v1?ns=%zz", 400},
	} {
		_, err := parse(test.method, test.target, hub)
		var coded errcode.Error
		if !errors.As(err, &coded) || coded.Code.Descriptor().HTTPStatusCode != test.status {
			t.Errorf("%s %s: got %v, want status %d", test.method, test.target, err, test.status)
		}
	}
	for _, target := range []string{"/v2/a/manifests/v1?ns=169.254.169.254", "/v2/a/manifests/v1?ns=", "/v2/a/manifests/v1?ns=evil.example"} {
		_, err := parse("GET", target, hub)
		var refusal *verify.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != verify.UnknownUpstream {
			t.Errorf("%s: got %v, want unknown-upstream", target, err)
		}
	}
	if _, err := parse("GET", "/v2/a/manifests/v1", names{known: []string{"ghcr.io"}}); !errors.As(err, new(*verify.Refusal)) {
		t.Errorf("no default upstream: got %v, want unknown-upstream", err)
	}
}

func FuzzParseRoute(f *testing.F) {
	for _, s := range []string{"/v2/", "/v2/a/manifests/v1", "/v2/ghcr.io/a/b/blobs/" + someDigest, "/v2/a/tags/list?n=1&last=x&ns=ghcr.io", "/v2/a//b/manifests/%2e"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		r, err := parse(http.MethodGet, target, hub)
		if err != nil || r.kind == kindPing {
			return
		}
		// What is accepted is a name that is safe as a path, of a known registry.
		if _, known := hub.Canonical(r.registry); !known {
			t.Fatalf("%q: registry %q", target, r.registry)
		}
		if !nameGrammar.MatchString(r.repository) || strings.Contains(r.repository, "..") || len(r.name()) > maxName {
			t.Fatalf("%q: repository %q", target, r.repository)
		}
		if r.kind == kindManifest && (r.tag == "") == (r.digest == "") {
			t.Fatalf("%q: tag %q and digest %q", target, r.tag, r.digest)
		}
	})
}
