package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/proxy/proxytest"
	"github.com/countersign/countersign/proxy/upstream"
	"github.com/countersign/countersign/sign"
	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/sigstore"
)

// world is an upstream, a key that the policy trusts, and a proxy before it.
type world struct {
	t        testing.TB
	upstream *proxytest.Registry
	key      *sign.Key
	dir      string
	records  *observer.ObservedLogs
	proxy    *Proxy
	server   *httptest.Server
	close    func()
	tagTTL   time.Duration
	warning  string
}

const (
	registryName = "upstream.test"
	app          = "lib/app"
)

func newWorld(t testing.TB, referrers bool) *world {
	key, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, upstream: proxytest.New(t, referrers), key: key, dir: t.TempDir(), tagTTL: time.Nanosecond}
	w.start()
	t.Cleanup(func() { w.close() })
	return w
}

func (w *world) start() {
	w.t.Helper()
	base, err := url.Parse(w.upstream.URL)
	w.must(err)
	ups, err := NewUpstreams([]UpstreamConfig{{Default: true, Config: upstream.Config{Name: registryName, URL: base}}})
	w.must(err)
	state, err := cache.OpenState(w.dir)
	w.must(err)
	root := filepath.Join(w.dir, "content")
	store, err := cache.OpenStore(w.t.Context(), cache.StoreConfig{Root: root, State: state,
		Driver: filesystem.New(filesystem.DriverParameters{RootDirectory: root, MaxThreads: 100})})
	w.must(err)
	core, logs := observer.New(zap.InfoLevel)
	w.records = logs
	public, err := w.key.PublicPEM()
	w.must(err)
	var gate *policy.Gate
	w.proxy, err = New(Config{Upstreams: ups, Store: store, State: state, Policy: testPolicy(w.t), TagTTL: w.tagTTL, MaxStale: time.Hour,
		Records: zap.New(core), Gate: func(src verify.Source) (*policy.Gate, error) {
			team, err := sigstore.New(sigstore.Config{Keys: []sigstore.Key{{Name: "team", PEM: public}}, TransparencyLog: "optional"}, src)
			if err != nil {
				return nil, err
			}
			gate, err = policy.NewGate(policy.GateConfig{Verifiers: map[string]verify.Verifier{"team": warning{team, w.warning}}, Decisions: 1000, Refusals: time.Nanosecond})
			return gate, err
		}})
	w.must(err)
	w.server = httptest.NewServer(w.proxy)
	w.close = func() {
		w.server.Close()
		gate.Close()
		w.must(store.Close())
		w.must(state.Close())
	}
}

func testPolicy(t testing.TB) policy.Policy {
	var match policy.Pattern
	if err := match.UnmarshalText([]byte(registryName + "/lib/*")); err != nil {
		t.Fatal(err)
	}
	var exempt policy.Pattern
	if err := exempt.UnmarshalText([]byte(registryName + "/exempt/*")); err != nil {
		t.Fatal(err)
	}
	return policy.New(&policy.Rule{Name: "lib", Match: match, Require: policy.Requirement{Verifier: "team"}, Fingerprint: "1"},
		&policy.Rule{Name: "exempt", Match: exempt, Exempt: &policy.Exemption{Why: "moving", Until: time.Now().Add(time.Hour)}, Fingerprint: "2"})
}

func (w *world) restart() {
	w.close()
	w.start()
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// signed stores a signed image with these layers.
func (w *world) signed(tag string, layers ...[]byte) ocispec.Descriptor {
	d := w.upstream.Image(w.t, app, layers, tag)
	w.upstream.SignLegacy(w.t, w.key, app, d.Digest, d.Digest)
	return d
}

type response struct {
	status int
	header http.Header
	body   []byte
	err    error
}

func (w *world) do(method, path string, header http.Header) response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.server.URL+path, nil)
	w.must(err)
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return response{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, body, err}
}

func (w *world) manifest(ref string) response { return w.do("GET", "/v2/"+app+"/manifests/"+ref, nil) }

func (w *world) blob(d digest.Digest) response {
	return w.do("GET", "/v2/"+app+"/blobs/"+d.String(), nil)
}

// refused checks a 403 with this reason, in message, detail and record.
func (w *world) refused(what string, got response, want verify.Reason) {
	w.t.Helper()
	var e struct {
		Errors []struct {
			Code, Message string
			Detail        detail
		}
	}
	if got.status != 403 || json.Unmarshal(got.body, &e) != nil || len(e.Errors) != 1 || e.Errors[0].Code != "DENIED" ||
		!strings.HasPrefix(e.Errors[0].Message, string(want)+": ") || e.Errors[0].Detail.Reason != want {
		w.t.Errorf("%s: got %d %s %v, want 403 %s", what, got.status, got.body, got.err, want)
		return
	}
	records := w.records.FilterField(zap.String("id", e.Errors[0].Detail.Decision)).FilterField(zap.String("reason", string(want)))
	if records.Len() != 1 {
		w.t.Errorf("%s: got %d records of decision %s, want 1", what, records.Len(), e.Errors[0].Detail.Decision)
	}
}

func (w *world) served(what string, got response, want []byte) {
	w.t.Helper()
	if got.err != nil || got.status != 200 || !bytes.Equal(got.body, want) {
		w.t.Errorf("%s: got %d, %d bytes, %v; want 200 and the upstream's %d bytes: %.300s", what, got.status, len(got.body), got.err, len(want), got.body)
	}
}

func TestSignedImageIsServed(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		w := newWorld(t, referrers)
		layer := bytes.Repeat([]byte("layer "), 100_000)
		image := w.signed("v1", layer)
		body := w.upstream.Manifest(app, image.Digest)
		w.served("by tag", w.manifest("v1"), body)
		w.served("by digest", w.manifest(image.Digest.String()), body)
		head := w.do("HEAD", "/v2/"+app+"/manifests/v1", nil)
		if head.status != 200 || head.header.Get("Docker-Content-Digest") != image.Digest.String() || head.header.Get("Content-Length") != fmt.Sprint(len(body)) {
			t.Errorf("HEAD: got %d %v", head.status, head.header)
		}
		d := digest.FromBytes(layer)
		w.served("cold blob", w.blob(d), layer)
		w.served("warm blob", w.blob(d), layer)
		if n := w.upstream.Count("GET", "/blobs/"+d.String()); n != 1 {
			t.Errorf("got %d upstream requests for the blob, want 1", n)
		}
		part := w.do("GET", "/v2/"+app+"/blobs/"+d.String(), http.Header{"Range": {"bytes=5-14"}})
		if part.status != 206 || !bytes.Equal(part.body, layer[5:15]) {
			t.Errorf("range: got %d %q", part.status, part.body)
		}
		same := w.do("GET", "/v2/"+app+"/blobs/"+d.String(), http.Header{"If-None-Match": {`"` + d.String() + `"`}})
		if same.status != 304 || len(same.body) != 0 {
			t.Errorf("conditional: got %d with %d bytes, want 304", same.status, len(same.body))
		}
	}
}

func TestBundleIsServed(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		w := newWorld(t, referrers)
		image := w.upstream.Image(t, app, [][]byte{[]byte("x")}, "v1")
		w.upstream.SignBundle(t, w.key, app, image)
		w.served("bundle", w.manifest("v1"), w.upstream.Manifest(app, image.Digest))
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, false)
	good := w.signed("good", []byte("good"))
	unsigned := w.upstream.Image(t, app, [][]byte{[]byte("unsigned layer")}, "unsigned")
	stolen := w.upstream.Image(t, app, [][]byte{[]byte("stolen")}, "stolen")
	w.upstream.SignLegacy(t, w.key, app, stolen.Digest, good.Digest)
	wrong := w.upstream.Image(t, app, [][]byte{[]byte("wrong")}, "wrong")
	stranger, err := sign.NewKey()
	w.must(err)
	w.upstream.SignLegacy(t, stranger, app, wrong.Digest, wrong.Digest)

	w.refused("unsigned by tag", w.manifest("unsigned"), verify.Unsigned)
	w.refused("unsigned by digest", w.manifest(unsigned.Digest.String()), verify.Unsigned)
	w.refused("unsigned as cosign", w.do("GET", "/v2/"+app+"/manifests/unsigned", http.Header{"User-Agent": {"cosign/v3"}}), verify.Unsigned)
	if head := w.do("HEAD", "/v2/"+app+"/manifests/unsigned", nil); head.status != 403 || len(head.body) != 0 {
		t.Errorf("HEAD of unsigned: got %d", head.status)
	}
	w.refused("signature of another image", w.manifest("stolen"), verify.DigestMismatch)
	w.refused("stranger", w.manifest("wrong"), verify.UntrustedSigner)
	w.refused("blob of an unsigned image", w.blob(digest.FromString("unsigned layer")), verify.NotReferenced)
	w.refused("a refused manifest as a blob", w.blob(unsigned.Digest), verify.NotReferenced)
	w.served("the signed one", w.manifest("good"), w.upstream.Manifest(app, good.Digest))
	w.refused("an admitted manifest as a blob", w.blob(good.Digest), verify.NotReferenced)
	w.refused("an admitted blob in another repository", w.do("GET", "/v2/lib/other/blobs/"+digest.FromString("good").String(), nil), verify.NotReferenced)

	before := len(w.upstream.Requests())
	w.refused("no rule", w.do("GET", "/v2/free/app/manifests/v1", nil), verify.NoRule)
	w.refused("no rule for a blob", w.do("GET", "/v2/free/app/blobs/"+someDigest, nil), verify.NoRule)
	w.refused("unknown ns", w.do("GET", "/v2/"+app+"/manifests/good?ns=evil.example", nil), verify.UnknownUpstream)
	if n := len(w.upstream.Requests()); n != before {
		t.Errorf("the upstream was asked %d times for what no rule covers", n-before)
	}
	if got := w.do("GET", "/v2/lib/none/manifests/v1", nil); got.status != 404 || !bytes.Contains(got.body, []byte("MANIFEST_UNKNOWN")) {
		t.Errorf("absent: got %d %s", got.status, got.body)
	}
	if got := w.do("POST", "/v2/"+app+"/blobs/uploads/", nil); got.status != 405 || !bytes.Contains(got.body, []byte("UNSUPPORTED")) {
		t.Errorf("write: got %d %s", got.status, got.body)
	}
}

func TestMalformedManifests(t *testing.T) {
	w := newWorld(t, false)
	config := w.upstream.PutBlob(app, "a/b", []byte("{}")).Digest
	descriptor := fmt.Sprintf(`{"mediaType":"a/b","digest":%q,"size":2}`, config)
	for name, body := range map[string]string{
		"duplicate-key":   `{"schemaVersion":2,"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + descriptor + `,"layers":[]}`,
		"both":            `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + descriptor + `,"layers":[],"manifests":[]}`,
		"other-case":      `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + descriptor + `,"Layers":[]}`,
		"trailing":        `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + descriptor + `,"layers":[]}{}`,
		"bad-digest":      `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{"mediaType":"a/b","digest":"sha256:../../x","size":2},"layers":[]}`,
		"index-as-image":  `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","config":` + descriptor + `,"layers":[]}`,
		"schema-1":        `{"schemaVersion":1,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + descriptor + `,"layers":[]}`,
		"negative-size":   `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":{"mediaType":"a/b","digest":"` + config.String() + `","size":-2},"layers":[]}`,
		"not-json":        `<html>`,
		"unknown-subject": `{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","config":` + descriptor + `,"layers":[],"subject":{"digest":"md5:1"}}`,
	} {
		d := w.upstream.PutManifest(app, []byte(body), name)
		w.upstream.SignLegacy(t, w.key, app, d, d)
		w.refused(name, w.manifest(name), verify.Malformed)
		w.refused(name+" by digest", w.manifest(d.String()), verify.Malformed)
	}
}

func TestIndexAndChildren(t *testing.T) {
	w := newWorld(t, false)
	amd := w.upstream.Image(t, app, [][]byte{[]byte("amd layer")})
	arm := w.upstream.Image(t, app, [][]byte{[]byte("arm layer")})
	w.refused("child before its index", w.manifest(amd.Digest.String()), verify.Unsigned)
	index := w.upstream.Index(t, app, []ocispec.Descriptor{amd, arm}, "multi")
	w.upstream.SignLegacy(t, w.key, app, index.Digest, index.Digest)
	w.served("index", w.manifest("multi"), w.upstream.Manifest(app, index.Digest))
	before := w.upstream.Count(".sig")
	w.served("child", w.manifest(amd.Digest.String()), w.upstream.Manifest(app, amd.Digest))
	if n := w.upstream.Count(".sig"); n != before {
		t.Errorf("got %d searches for signatures of the child, want none", n-before)
	}
	w.served("blob of the child", w.blob(digest.FromString("amd layer")), []byte("amd layer"))
	w.refused("blob of a child not asked for", w.blob(digest.FromString("arm layer")), verify.NotReferenced)
	w.refused("child as a blob", w.blob(amd.Digest), verify.NotReferenced)
	w.restart()
	w.served("child after a restart", w.manifest(amd.Digest.String()), w.upstream.Manifest(app, amd.Digest))
	w.served("blob after a restart", w.blob(digest.FromString("amd layer")), []byte("amd layer"))
}

func TestMovedTag(t *testing.T) {
	w := newWorld(t, false)
	image := w.signed("v1", []byte("one"))
	w.served("before", w.manifest("v1"), w.upstream.Manifest(app, image.Digest))
	evil := w.upstream.Image(t, app, [][]byte{[]byte("evil")})
	w.upstream.Tag(app, "v1", evil.Digest)
	w.refused("after", w.manifest("v1"), verify.Unsigned)
	w.served("the old digest", w.manifest(image.Digest.String()), w.upstream.Manifest(app, image.Digest))
}

func TestBytesFlippedBetweenReads(t *testing.T) {
	w := newWorld(t, false)
	image := w.signed("v1", []byte("flip"))
	good := w.upstream.Manifest(app, image.Digest)
	evil := w.upstream.Image(t, app, [][]byte{[]byte("evil")})
	reads := 0
	w.upstream.Fault(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method != "GET" || !strings.Contains(r.URL.Path, "/manifests/v1") && !strings.Contains(r.URL.Path, image.Digest.String()) || strings.HasSuffix(r.URL.Path, ".sig") {
			return false
		}
		if reads++; reads == 1 {
			return false
		}
		rw.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		rw.Header().Set("Docker-Content-Digest", image.Digest.String())
		_, _ = rw.Write(w.upstream.Manifest(app, evil.Digest))
		return true
	})
	for range 3 {
		if got := w.manifest("v1"); got.status == 200 && !bytes.Equal(got.body, good) {
			t.Fatal("served bytes that were not verified")
		}
	}
	other := newWorld(t, false)
	other.upstream.Fault(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Method == "GET" && strings.HasSuffix(r.URL.Path, "/manifests/v1") {
			rw.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			rw.Header().Set("Docker-Content-Digest", someDigest)
			_, _ = rw.Write(good)
			return true
		}
		return false
	})
	other.refused("a digest header that is not the body's", other.manifest("v1"), verify.DigestMismatch)
}

func TestCorruptBlob(t *testing.T) {
	w := newWorld(t, false)
	layer := bytes.Repeat([]byte("corrupt"), 200_000)
	d := digest.FromBytes(layer)
	w.signed("v1", layer)
	w.upstream.Spoil(app, d, append(slices.Clone(layer[:len(layer)-1]), '!'))
	w.manifest("v1")
	if got := w.blob(d); got.status == 200 && got.err == nil && len(got.body) == len(layer) {
		t.Error("a corrupt blob was completed")
	}
	w.refused("asked again", w.blob(d), verify.DigestMismatch)
	w.upstream.Spoil(app, d, layer[:1000])
	w.restart()
	w.refused("a shorter one", w.blob(d), verify.DigestMismatch)
	w.upstream.Spoil(app, d, layer)
	w.restart()
	w.served("once it is whole", w.blob(d), layer)
}

func TestStampede(t *testing.T) {
	w := newWorld(t, false)
	layer := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	d := digest.FromBytes(layer)
	w.signed("v1", layer)
	w.manifest("v1")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if got := w.blob(d); got.err != nil || digest.FromBytes(got.body) != d {
				t.Errorf("got %d, %d bytes, %v", got.status, len(got.body), got.err)
			}
		})
	}
	wg.Wait()
	if n := w.upstream.Count("GET", "/blobs/"+d.String()); n != 1 {
		t.Errorf("16 clients cost the upstream %d fetches, want 1", n)
	}
}

func TestUndecided(t *testing.T) {
	w := newWorld(t, false)
	image := w.signed("v1", []byte("x"))
	w.upstream.Fault(func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".sig") {
			rw.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	})
	got := w.manifest("v1")
	if got.status != 503 || got.header.Get("Retry-After") == "" || bytes.Contains(got.body, []byte("500")) {
		t.Errorf("signatures out of reach: got %d %s", got.status, got.body)
	}
	w.upstream.Fault(nil)
	w.served("once they are back", w.manifest("v1"), w.upstream.Manifest(app, image.Digest))
}

func TestUpstreamDown(t *testing.T) {
	w := newWorld(t, false)
	image := w.signed("v1", []byte("x"))
	w.served("before", w.manifest("v1"), w.upstream.Manifest(app, image.Digest))
	w.upstream.Fault(func(rw http.ResponseWriter, _ *http.Request) bool {
		rw.Header().Set("Retry-After", "7")
		rw.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	w.served("the last admitted digest", w.manifest("v1"), w.upstream.Manifest(app, image.Digest))
	if w.records.FilterField(zap.Bool("stale", true)).Len() == 0 {
		t.Error("no record says that a stale tag was served")
	}
	if got := w.manifest("other"); got.status != 429 || got.header.Get("Retry-After") != "7" {
		t.Errorf("a tag never seen: got %d, Retry-After %q, want 429 and 7", got.status, got.header.Get("Retry-After"))
	}
}

// The cheapest proof that a proxy adds no round trips: both lists of requests.
func TestUpstreamRequestsOfAColdPull(t *testing.T) {
	w := newWorld(t, false)
	image := w.signed("v1", []byte("only layer"))
	w.manifest("v1")
	w.blob(digest.FromString("only layer"))
	hex := image.Digest.Encoded()
	got := w.upstream.Requests()
	slices.Sort(got)
	var sig ocispec.Manifest
	w.must(json.Unmarshal(w.do("GET", "/v2/"+app+"/manifests/sha256-"+hex+".sig", nil).body, &sig))
	want := []string{
		"GET /v2/lib/app/blobs/" + digest.FromString("only layer").String(),
		"GET /v2/lib/app/blobs/" + sig.Layers[0].Digest.String(),
		"GET /v2/lib/app/manifests/sha256-" + hex,
		"GET /v2/lib/app/manifests/sha256-" + hex + ".att",
		"GET /v2/lib/app/manifests/sha256-" + hex + ".sig",
		"GET /v2/lib/app/manifests/v1",
		"GET /v2/lib/app/referrers/" + image.Digest.String(),
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("a cold pull asked\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	before := len(w.upstream.Requests())
	w.manifest("v1")
	w.manifest(image.Digest.String())
	w.blob(digest.FromString("only layer"))
	if got := w.upstream.Requests()[before:]; !slices.Equal(got, []string{"HEAD /v2/lib/app/manifests/v1"}) {
		t.Errorf("a warm pull asked %v, want one HEAD of the tag", got)
	}
}

func TestSignatureMaterial(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		w := newWorld(t, referrers)
		image := w.signed("v1", []byte("x"))
		bundled := w.upstream.Image(t, app, [][]byte{[]byte("y")}, "v2")
		referrer := w.upstream.SignBundle(t, w.key, app, bundled)
		unsigned := w.upstream.Image(t, app, [][]byte{[]byte("z")}, "v3")

		sigTag := "sha256-" + image.Digest.Encoded() + ".sig"
		sig := w.manifest(sigTag)
		if sig.status != 200 {
			t.Fatalf("legacy signature of an admissible image: got %d %s", sig.status, sig.body)
		}
		var m ocispec.Manifest
		w.must(json.Unmarshal(sig.body, &m))
		payload, _ := w.upstream.Blob(app, m.Layers[0].Digest)
		w.served("its payload", w.blob(m.Layers[0].Digest), payload)

		var index ocispec.Index
		list := w.do("GET", "/v2/"+app+"/referrers/"+bundled.Digest.String()+"?artifactType="+url.QueryEscape(sign.MediaTypeBundle), nil)
		w.must(json.Unmarshal(list.body, &index))
		if list.status != 200 || len(index.Manifests) != 1 || index.Manifests[0].Digest != referrer.Digest || list.header.Get("OCI-Filters-Applied") != "artifactType" {
			t.Errorf("referrers: got %d %s", list.status, list.body)
		}
		w.served("the bundle's manifest", w.manifest(referrer.Digest.String()), w.upstream.Manifest(app, referrer.Digest))
		empty := w.do("GET", "/v2/"+app+"/referrers/"+image.Digest.String()+"?artifactType=none/such", nil)
		if empty.status != 200 || !bytes.Contains(empty.body, []byte(`"manifests":[]`)) {
			t.Errorf("no referrers: got %d %s", empty.status, empty.body)
		}
		absent := w.do("GET", "/v2/"+app+"/referrers/"+someDigest, nil)
		if absent.status != 200 || !bytes.Contains(absent.body, []byte(`"manifests":[]`)) {
			t.Errorf("referrers of what is not there: got %d %s, want an empty index", absent.status, absent.body)
		}
		w.refused("referrers of an unsigned image", w.do("GET", "/v2/"+app+"/referrers/"+unsigned.Digest.String(), nil), verify.Unsigned)
		w.refused("material of an unsigned image", w.manifest("sha256-"+unsigned.Digest.Encoded()+".sig"), verify.Unsigned)
	}
}

// An attacker who can push attaches an image to a signed one, in every way
// that signatures are attached.
func TestImageDressedAsSignature(t *testing.T) {
	w := newWorld(t, false)
	image := w.signed("v1", []byte("x"))
	evilLayer := w.upstream.PutBlob(app, ocispec.MediaTypeImageLayerGzip, []byte("evil"))
	config := w.upstream.PutBlob(app, ocispec.MediaTypeImageConfig, []byte(`{"os":"linux"}`))
	evil := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: sign.MediaTypeBundle, Config: config, Layers: []ocispec.Descriptor{evilLayer}, Subject: &image}
	evil.SchemaVersion = 2
	body, err := json.Marshal(evil)
	w.must(err)
	d := w.upstream.PutManifest(app, body, "sha256-"+image.Digest.Encoded()+".att", "sha256-"+image.Digest.Encoded()+".sbom")
	w.manifest("v1")
	w.refused("by digest", w.manifest(d.String()), verify.Unsigned)
	w.refused("at the .att tag", w.manifest("sha256-"+image.Digest.Encoded()+".att"), verify.Unsigned)
	w.refused("at the .sbom tag", w.manifest("sha256-"+image.Digest.Encoded()+".sbom"), verify.Unsigned)
	w.refused("its layer", w.blob(evilLayer.Digest), verify.NotReferenced)
	w.upstream.Index(t, app, []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: int64(len(body))}}, "sha256-"+image.Digest.Encoded())
	if got := w.manifest("sha256-" + image.Digest.Encoded()); got.status != 200 {
		t.Errorf("the referrers index: got %d %s", got.status, got.body)
	}
	w.refused("listed in the referrers index", w.manifest(d.String()), verify.Unsigned)
}

func TestTagList(t *testing.T) {
	w := newWorld(t, false)
	for _, tag := range []string{"a", "b", "c"} {
		w.upstream.Image(t, app, nil, tag)
	}
	got := w.do("GET", "/v2/upstream.test/"+app+"/tags/list?n=2", nil)
	if got.status != 200 || string(got.body) != `{"name":"upstream.test/lib/app","tags":["a","b"]}` || got.header.Get("Link") != `</v2/upstream.test/lib/app/tags/list?last=b&n=2>; rel="next"` {
		t.Errorf("got %d %s, Link %q", got.status, got.body, got.header.Get("Link"))
	}
	if got := w.do("GET", "/v2/"+app+"/tags/list?n=2&last=b&ns=upstream.test", nil); string(got.body) != `{"name":"lib/app","tags":["c"]}` || got.header.Get("Link") != "" || got.header.Get("OCI-Namespace") != "upstream.test" {
		t.Errorf("second page: got %d %s %v", got.status, got.body, got.header)
	}
}

// A store that somebody else wrote to is not believed.
func TestStoreIsNotTrusted(t *testing.T) {
	w := newWorld(t, false)
	layer := bytes.Repeat([]byte("trusted "), 50_000)
	image := w.signed("v1", layer)
	w.manifest("v1")
	w.served("before", w.blob(digest.FromBytes(layer)), layer)
	w.waitStored(digest.FromBytes(layer))
	w.restart()
	for _, d := range []digest.Digest{digest.FromBytes(layer), image.Digest} {
		w.tamper(d)
	}
	w.served("a manifest tampered with on disk", w.manifest("v1"), w.upstream.Manifest(app, image.Digest))
	w.served("a blob tampered with on disk", w.blob(digest.FromBytes(layer)), layer)
}

// A warning of the evidence stands in the record of everything that is served
// because of it, blobs and after a restart too.
func TestWarningsAreInEveryRecord(t *testing.T) {
	w := newWorld(t, false)
	w.warning = "the trust metadata is frozen"
	w.restart()
	image := w.signed("v1", []byte("warned"))
	w.served("manifest", w.manifest("v1"), w.upstream.Manifest(app, image.Digest))
	w.served("blob", w.blob(digest.FromString("warned")), []byte("warned"))
	if n := w.records.FilterField(zap.Strings("warnings", []string{w.warning})).Len(); n != 2 {
		t.Errorf("got %d records with the warning, want 2", n)
	}
	w.restart()
	w.served("blob after a restart", w.blob(digest.FromString("warned")), []byte("warned"))
	if n := w.records.FilterField(zap.Strings("warnings", []string{w.warning})).Len(); n != 1 {
		t.Errorf("after a restart: got %d records with the warning, want 1", n)
	}
}

// warning adds a warning to another verifier's evidence.
type warning struct {
	verify.Verifier
	text string
}

func (v warning) Verify(ctx context.Context, s verify.Subject) (verify.Evidence, error) {
	e, err := v.Verifier.Verify(ctx, s)
	if v.text != "" && err == nil {
		e.Warnings = append(e.Warnings, v.text)
	}
	return e, err
}

// What was refused in one repository does not come out of another, where an
// exemption admits what is unsigned: the store has the bytes, but that
// repository does not.
func TestExemptionDoesNotReachOtherRepositories(t *testing.T) {
	w := newWorld(t, false)
	unsigned := w.upstream.Image(t, app, [][]byte{[]byte("refused")}, "v1")
	w.refused("where it lies", w.manifest("v1"), verify.Unsigned)
	elsewhere := w.do("GET", "/v2/exempt/app/manifests/"+unsigned.Digest.String(), nil)
	if elsewhere.status != 404 {
		t.Errorf("by its digest in an exempt repository: got %d %s, want 404", elsewhere.status, elsewhere.body)
	}
	w.refused("its layer there", w.do("GET", "/v2/exempt/app/blobs/"+digest.FromString("refused").String(), nil), verify.NotReferenced)
	own := w.upstream.Image(t, "exempt/app", [][]byte{[]byte("exempt")}, "v1")
	w.served("what the exempt repository has", w.do("GET", "/v2/exempt/app/manifests/v1", nil), w.upstream.Manifest("exempt/app", own.Digest))
	w.restart()
	before := len(w.upstream.Requests())
	w.served("after a restart, from the store", w.do("GET", "/v2/exempt/app/manifests/"+own.Digest.String(), nil), w.upstream.Manifest("exempt/app", own.Digest))
	if n := len(w.upstream.Requests()) - before; n != 0 {
		t.Errorf("after a restart the upstream was asked %d times for what was admitted, want 0", n)
	}
}
