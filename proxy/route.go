package proxy

import (
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/verify"
)

const (
	// maxName bounds host, slash and repository together, as clients do
	// (distribution-spec main, "Pulling manifests").
	maxName = 255
	// maxPage bounds what a client may ask for in one page of tags.
	maxPage = 10_000
)

// kind is what a request asks for. The numbers are the endpoints of the
// distribution-spec v1.1.1.
type kind int

const (
	kindNone      kind = iota
	kindPing           // end-1:  GET /v2/
	kindManifest       // end-3:  GET|HEAD /v2/<name>/manifests/<reference>
	kindBlob           // end-2:  GET|HEAD /v2/<name>/blobs/<digest>
	kindTags           // end-8:  GET /v2/<name>/tags/list
	kindReferrers      // end-12: GET /v2/<name>/referrers/<digest>
	kindTrust          // Notary v1: GET /v2/<gun>/_trust/tuf/<file>
)

// String returns the word that decision records and metrics use.
func (k kind) String() string {
	return [...]string{"none", "ping", "manifest", "blob", "tags", "referrers", "trust"}[k]
}

// route is a request, parsed once. Everything below works on it and never
// looks at the URL again: the parser that policy sees is the one that serves.
type route struct {
	kind kind
	head bool
	// registry is the origin's name; empty only if kind is kindPing.
	registry string
	// repository is the name within the registry, "library/alpine".
	repository string
	// full is both, as verify.Subject.Name returns it.
	full string
	// path is the repository as the client wrote it, for Link headers.
	path string
	// namespaced is set if the registry was chosen by ns.
	namespaced bool
	// One of tag and digest is set for a manifest, digest for blob and referrers.
	tag    string
	digest digest.Digest
	// n, last and artifactType are the query of lists; n is -1 if absent.
	n            int
	last         string
	artifactType string
	// file is the name of trust metadata, "targets/releases.json".
	file string
}

// name returns the full repository name.
func (r route) name() string { return r.full }

// Names are checked before anything else looks at them: they become storage
// paths and upstream URLs.
var (
	nameGrammar = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	fileGrammar = regexp.MustCompile(`^[a-z0-9_-]+(?:[/.][a-z0-9_-]+)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// Registries tells which upstream a request means.
type Registries interface {
	// Canonical returns the configured name of the registry that a client
	// calls host ("index.docker.io" is "docker.io"), or false.
	Canonical(host string) (string, bool)
	// Default returns the registry of names without one, or "".
	Default() string
}

// parseRoute parses a request. It is pure: nothing is contacted. Errors are
// errcode errors (400, 405) or a *verify.Refusal.
func parseRoute(method string, u *url.URL, regs Registries) (route, error) {
	r := route{head: method == http.MethodHead, n: -1}
	if method != http.MethodGet && method != http.MethodHead {
		return r, errcode.ErrorCodeUnsupported.WithMessage("this registry is read-only: push to the origin")
	}
	path := u.EscapedPath()
	if path == "/v2" || path == "/v2/" {
		r.kind = kindPing
		return r, nil
	}
	// No valid name, tag or digest needs an escape; two ways to write one
	// path are how policy and backend come to see different requests.
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return r, errNoEndpoint
	}
	if strings.Contains(path, "%") || len(path) > 4*maxName {
		return r, badName("the path has an escape, or is too long")
	}
	if err := r.parsePath(rest); err != nil {
		return r, err
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return r, badName("the query is malformed")
	}
	if err := r.parseQuery(query); err != nil {
		return r, err
	}
	return r, r.chooseUpstream(query["ns"], regs)
}

// errNoEndpoint is 404, as registries answer for endpoints that they lack.
var errNoEndpoint = errcode.ErrorCodeNameUnknown.WithMessage("the path is not one of the registry API")

func badName(why string) error { return errcode.ErrorCodeNameInvalid.WithMessage(why) }

func (r *route) parsePath(rest string) error {
	if gun, file, ok := strings.Cut(rest, "/_trust/tuf/"); ok {
		r.kind, r.path, r.file = kindTrust, gun, file
		if !fileGrammar.MatchString(file) {
			return badName("the name of the trust metadata is malformed")
		}
		return nil
	}
	parts := strings.Split(rest, "/")
	if len(parts) < 3 {
		return errNoEndpoint
	}
	verb, ref := parts[len(parts)-2], parts[len(parts)-1]
	r.path = strings.Join(parts[:len(parts)-2], "/")
	switch {
	case verb == "manifests":
		r.kind = kindManifest
		return r.parseReference(ref)
	case verb == "blobs":
		r.kind = kindBlob
		return r.parseDigest(ref)
	case verb == "referrers":
		r.kind = kindReferrers
		return r.parseDigest(ref)
	case verb == "tags" && ref == "list":
		r.kind = kindTags
		return nil
	}
	return errNoEndpoint
}

func (r *route) parseReference(ref string) error {
	if strings.Contains(ref, ":") {
		return r.parseDigest(ref)
	}
	if !tagGrammar.MatchString(ref) {
		return errcode.ErrorCodeTagInvalid.WithMessage("the tag is malformed")
	}
	r.tag = ref
	return nil
}

func (r *route) parseDigest(ref string) error {
	d := digest.Digest(ref)
	if err := verify.CheckDigest(d); err != nil {
		return errcode.ErrorCodeDigestInvalid.WithMessage("the digest is malformed, or neither sha256 nor sha512")
	}
	r.digest = d
	return nil
}

func (r *route) parseQuery(q url.Values) error {
	if n := q.Get("n"); n != "" {
		v, err := strconv.Atoi(n)
		if err != nil || v < 0 {
			return errcode.ErrorCodePaginationNumberInvalid.WithMessage("n is not a number")
		}
		r.n = min(v, maxPage)
	}
	r.last = q.Get("last")
	if r.last != "" && !tagGrammar.MatchString(r.last) {
		return errcode.ErrorCodeTagInvalid.WithMessage("last is not a tag")
	}
	r.artifactType = q.Get("artifactType")
	return nil
}

// chooseUpstream: ns, then the first path component if it names an upstream,
// then the default.
func (r *route) chooseUpstream(ns []string, regs Registries) error {
	r.repository = r.path
	switch {
	case len(ns) > 1:
		return badName("ns is given twice")
	case len(ns) == 1:
		name, ok := regs.Canonical(ns[0])
		if !ok {
			return verify.Refuse(verify.UnknownUpstream, "the registry named by ns is not configured as an upstream")
		}
		r.registry, r.namespaced = name, true
	default:
		host, below, found := strings.Cut(r.path, "/")
		if name, ok := regs.Canonical(host); ok && found {
			r.registry, r.repository = name, below
		} else if r.registry = regs.Default(); r.registry == "" {
			return verify.Refuse(verify.UnknownUpstream, "the path does not begin with a configured upstream, and none is the default")
		}
	}
	if r.registry == dockerHub && !strings.Contains(r.repository, "/") {
		r.repository = "library/" + r.repository
	}
	r.full = r.registry + "/" + r.repository
	if !nameGrammar.MatchString(r.repository) || len(r.full) > maxName {
		return badName("the repository name is malformed or too long")
	}
	return nil
}

// dockerHub is the name under which Docker Hub's repositories are known; its
// one-component names live in library/ (distribution/reference v0.6.0).
const dockerHub = "docker.io"
