package upstream

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// secret is the canary: it must never appear in an error.
const secret = "canary-secret"

// registry is a server that logs what it is asked.
type registry struct {
	*httptest.Server
	mu  sync.Mutex
	log []string
}

func serve(t *testing.T, h func(http.ResponseWriter, *http.Request)) *registry {
	t.Helper()
	r := &registry{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.log = append(r.log, req.Method+" "+req.URL.Path)
		r.mu.Unlock()
		h(w, req)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *registry) requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

func client(t *testing.T, base string, change func(*Config)) *Client {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Name: "upstream.test", URL: u, UserAgent: "test"}
	if change != nil {
		change(&c)
	}
	got, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func login(c *Config) { c.Username, c.Password = "user", secret }

func checkNoSecret(t *testing.T, err error) {
	t.Helper()
	if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "Basic ") || strings.Contains(err.Error(), "Bearer ")) {
		t.Errorf("the error tells a secret: %v", err)
	}
}

var small = []byte(`{"schemaVersion":2}`)

func sendManifest(w http.ResponseWriter) {
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest+"; charset=utf-8")
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(small).String())
	_, _ = w.Write(small)
}

func TestOpenRegistryCostsNoLogin(t *testing.T) {
	r := serve(t, func(w http.ResponseWriter, req *http.Request) {
		if !strings.Contains(req.Header.Get("Accept"), ocispec.MediaTypeImageIndex) && strings.Contains(req.URL.Path, "manifests") {
			t.Errorf("got Accept %q, want all kinds of manifests", req.Header.Get("Accept"))
		}
		sendManifest(w)
	})
	c := client(t, r.URL, nil)
	m, err := c.Manifest(t.Context(), "lib/app", "v1")
	if err != nil || !bytes.Equal(m.Body, small) || m.MediaType != ocispec.MediaTypeImageManifest || m.Digest != digest.FromBytes(small) {
		t.Errorf("got %+v, %v", m, err)
	}
	if d, err := c.Head(t.Context(), "lib/app", "v1"); err != nil || d.Digest != m.Digest {
		t.Errorf("got %+v, %v", d, err)
	}
	if want := []string{"GET /v2/lib/app/manifests/v1", "HEAD /v2/lib/app/manifests/v1"}; !slices.Equal(r.requests(), want) {
		t.Errorf("got requests %v, want %v", r.requests(), want)
	}
}

func TestBasic(t *testing.T) {
	r := serve(t, func(w http.ResponseWriter, req *http.Request) {
		if u, p, ok := req.BasicAuth(); !ok || u != "user" || p != secret {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		sendManifest(w)
	})
	if _, err := client(t, r.URL, login).Manifest(t.Context(), "a", "v1"); err != nil {
		t.Error(err)
	}
	_, err := client(t, r.URL, nil).Manifest(t.Context(), "a", "v1")
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusUnauthorized {
		t.Errorf("without credentials: got %v, want 401", err)
	}
	_, err = client(t, r.URL, func(c *Config) { c.Username, c.Password = "user", secret+"-wrong" }).Manifest(t.Context(), "a", "v1")
	if !errors.As(err, &e) || e.Status != http.StatusUnauthorized {
		t.Errorf("wrong password: got %v, want 401", err)
	}
	checkNoSecret(t, err)
}

// tokenRegistry asks for a bearer token of its own /token; tokens are numbered.
type tokenRegistry struct {
	*registry
	mu     sync.Mutex
	issued int
	valid  int
	realm  string
}

func newTokenRegistry(t *testing.T) *tokenRegistry {
	r := &tokenRegistry{}
	r.registry = serve(t, func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if req.URL.Path == "/token" {
			if u, p, ok := req.BasicAuth(); ok && (u != "user" || p != secret) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if got := req.URL.Query().Get("scope"); got != "repository:lib/app:pull" {
				t.Errorf("got scope %q", got)
			}
			r.issued++
			r.valid = r.issued
			fmt.Fprintf(w, `{"token":"token-%d"}`, r.issued)
			return
		}
		if req.Header.Get("Authorization") != fmt.Sprintf("Bearer token-%d", r.valid) || r.valid == 0 {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="s",scope="repository:lib/app:pull"`, r.realm))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		sendManifest(w)
	})
	r.realm = r.URL + "/token"
	return r
}

func (r *tokenRegistry) tokens() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.issued
}

func TestBearer(t *testing.T) {
	for _, change := range []func(*Config){nil, login} {
		r := newTokenRegistry(t)
		c := client(t, r.URL, change)
		for range 3 {
			if _, err := c.Manifest(t.Context(), "lib/app", "v1"); err != nil {
				t.Fatal(err)
			}
		}
		if n := r.tokens(); n != 1 {
			t.Errorf("got %d tokens for three reads, want 1", n)
		}
		r.mu.Lock()
		r.valid = -1 // the token has expired
		r.mu.Unlock()
		if _, err := c.Manifest(t.Context(), "lib/app", "v1"); err != nil {
			t.Errorf("after the token expired: %v", err)
		}
	}
}

func TestBearerStampede(t *testing.T) {
	r := newTokenRegistry(t)
	c := client(t, r.URL, login)
	read := func() {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := c.Manifest(t.Context(), "lib/app", "v1"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	read()
	if n := r.tokens(); n != 1 {
		t.Errorf("20 first reads cost %d tokens, want 1", n)
	}
}

// Realms outside the trust boundary get no request at all, so no credentials
// (CVE-2026-33540).
func TestRealmElsewhere(t *testing.T) {
	elsewhere := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":"x"}`) })
	port := elsewhere.URL[strings.LastIndex(elsewhere.URL, ":"):]
	for _, realm := range []string{elsewhere.URL + "/token", "http://localhost" + port + "/token", "https://evil.example/token", "http://169.254.169.254/token",
		"http://[::ffff:169.254.169.254]/token", "http://[64:ff9b::a9fe:a9fe]/token", "ftp://x/token", "http://0.0.0.0" + port + "/token"} {
		r := newTokenRegistry(t)
		r.realm = realm
		_, err := client(t, r.URL, login).Manifest(t.Context(), "lib/app", "v1")
		if err == nil {
			t.Errorf("%s: got no error", realm)
		}
		if errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, which looks like an absent image", realm, err)
		}
		checkNoSecret(t, err)
	}
	if got := elsewhere.requests(); len(got) != 0 {
		t.Errorf("realms elsewhere were asked: %v", got)
	}
	r := newTokenRegistry(t)
	r.realm = "http://localhost" + r.URL[strings.LastIndex(r.URL, ":"):] + "/token"
	allowed := client(t, r.URL, func(c *Config) {
		login(c)
		c.RealmHosts = []string{strings.TrimPrefix(strings.TrimSuffix(r.realm, "/token"), "http://")}
	})
	if _, err := allowed.Manifest(t.Context(), "lib/app", "v1"); err != nil {
		t.Errorf("a realm that the configuration allows: %v", err)
	}
}

func TestTrustBoundary(t *testing.T) {
	for _, test := range []struct {
		upstream, realm string
		want            bool
	}{
		{"https://registry-1.docker.io", "https://auth.docker.io/token", true},
		{"https://registry-1.docker.io", "http://auth.docker.io/token", false},
		{"https://registry-1.docker.io", "https://auth.docker.io.evil.example/token", false},
		{"https://ghcr.io", "https://ghcr.io/token", true},
		{"https://a.github.io", "https://b.github.io/token", false}, // github.io is a public suffix
		{"https://registry.co.uk", "https://evil.co.uk/token", false},
		{"https://10.0.0.1", "https://10.0.0.2/token", false},
		{"https://localhost:5000", "https://localhost:5001/token", false},
		{"http://registry.test", "http://registry.test/token", true},
		{"http://registry.test", "http://auth.registry.test/token", false},
		{"https://registry.test:5000", "https://registry.test:5000/token", true},
	} {
		g := client(t, test.upstream, nil).guard
		u, err := url.Parse(test.realm)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.isRealm(u); got != test.want {
			t.Errorf("%s, realm %s: got %v, want %v", test.upstream, test.realm, got, test.want)
		}
	}
}

func TestPublicAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"1.1.1.1:443": true, "[2606:4700::1]:443": true,
		"127.0.0.1:80": false, "10.1.2.3:80": false, "172.16.0.1:80": false, "192.168.0.1:80": false, "169.254.169.254:80": false, "0.0.0.0:80": false,
		"100.64.0.1:80": false, "224.0.0.1:80": false, "255.255.255.255:80": false, "198.18.0.1:80": false,
		"[::1]:80": false, "[::]:80": false, "[fe80::1]:80": false, "[fe80::1%25eth0]:80": false, "[fd00:ec2::254]:80": false, "[::ffff:10.0.0.1]:80": false,
		"[64:ff9b::a9fe:a9fe]:80": false, "[2002:a9fe:a9fe::1]:80": false, "[::127.0.0.1]:80": false, "nonsense": false,
	} {
		if got := checkPublic(address) == nil; got != want {
			t.Errorf("%s: got public %v, want %v", address, got, want)
		}
	}
}

func TestRedirects(t *testing.T) {
	blob := []byte("the blob")
	d := digest.FromBytes(blob)
	var target string
	r := serve(t, func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.URL.Path == "/storage":
			_, _ = w.Write(blob)
		case req.URL.Path == "/loop":
			http.Redirect(w, req, "/loop", http.StatusTemporaryRedirect)
		default:
			http.Redirect(w, req, target, http.StatusTemporaryRedirect)
		}
	})
	elsewhere := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(blob) })
	c := client(t, r.URL, nil)
	target = "/storage"
	content, size, err := c.Blob(t.Context(), "a", d, 0)
	if err != nil || size != int64(len(blob)) {
		t.Fatalf("to itself: got size %d, %v", size, err)
	}
	content.Close()
	for _, target = range []string{"/loop", elsewhere.URL, "http://169.254.169.254/x", "https://169.254.169.254/x?sig=" + secret, "https://localhost:1/x", "", "file:///etc/passwd"} {
		_, _, err := c.Blob(t.Context(), "a", d, 0)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("to %q: got %v, want an error that is not an absent blob", target, err)
		}
		checkNoSecret(t, err)
	}
	if got := elsewhere.requests(); len(got) != 0 {
		t.Errorf("a plain-HTTP redirect elsewhere was followed: %v", got)
	}
	if n := len(r.requests()); n > 40 {
		t.Errorf("got %d requests, want the loop to be cut", n)
	}
}

// A redirect to another host carries no credentials, and a 401 from there
// starts no login.
func TestRedirectCarriesNoCredentials(t *testing.T) {
	storage := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("the storage host was sent credentials")
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+req.Host+`/token",service="s"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(storage.Close)
	r := serve(t, func(w http.ResponseWriter, req *http.Request) {
		if _, _, ok := req.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, req, storage.URL+"/blob", http.StatusTemporaryRedirect)
	})
	c := client(t, r.URL, func(c *Config) {
		login(c)
		c.CA = storage.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		// So that the test's storage may have a loopback address.
		c.RealmHosts = []string{strings.TrimPrefix(storage.URL, "https://")}
	})
	_, _, err := c.Blob(t.Context(), "a", digest.FromString("x"), 0)
	var e *Error
	if !errors.As(err, &e) || e.Status != http.StatusBadGateway {
		t.Errorf("got %v, want it to be the storage's failure, not a login's", err)
	}
}

func TestUntrustedCertificate(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { sendManifest(w) }))
	t.Cleanup(s.Close)
	s.Config.ErrorLog = nil
	if _, err := client(t, s.URL, login).Manifest(t.Context(), "a", "v1"); err == nil {
		t.Error("a certificate of nobody's is accepted")
	}
	trusted := client(t, s.URL, func(c *Config) { c.CA = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs })
	if _, err := trusted.Manifest(t.Context(), "a", "v1"); err != nil {
		t.Errorf("with its own authority: %v", err)
	}
}

func TestBounds(t *testing.T) {
	r := serve(t, func(w http.ResponseWriter, req *http.Request) {
		switch {
		case strings.HasSuffix(req.URL.Path, "/gzip"):
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(small)
			z.Close()
		case strings.HasSuffix(req.URL.Path, "/endless"), strings.HasSuffix(req.URL.Path, "/list"):
			chunk := bytes.Repeat([]byte("x"), 64<<10)
			for {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}
	})
	c := client(t, r.URL, nil)
	for _, ref := range []string{"gzip", "endless"} {
		if _, err := c.Manifest(t.Context(), "a", ref); err == nil {
			t.Errorf("%s: got no error", ref)
		}
	}
	if _, _, err := c.Tags(t.Context(), "a", 10, ""); err == nil {
		t.Error("an endless list of tags: got no error")
	}
}

func TestErrors(t *testing.T) {
	var status int
	var header http.Header
	r := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		for k, v := range header {
			w.Header()[k] = v
		}
		w.WriteHeader(status)
		fmt.Fprint(w, `{"errors":[{"code":"SOME_CODE","message":"some\u0000 text"}]}`)
	})
	c := client(t, r.URL, nil)
	read := func() *Error {
		_, err := c.Manifest(t.Context(), "a", "v1")
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("status %d: got %v, want an *Error", status, err)
		}
		if strings.ContainsRune(err.Error(), 0) {
			t.Errorf("status %d: the error holds control characters", status)
		}
		return e
	}
	status, header = http.StatusTooManyRequests, http.Header{"Retry-After": {"17"}}
	if e := read(); e.RetryAfter != 17*time.Second || e.Code != "SOME_CODE" {
		t.Errorf("got %+v, want Retry-After 17s", e)
	}
	if n := len(r.requests()); n != 1 {
		t.Errorf("429 was tried %d times, want once", n)
	}
	header = http.Header{"Retry-After": {"999999999"}}
	if e := read(); e.RetryAfter != maxRetryAfter {
		t.Errorf("got %v, want it capped", e.RetryAfter)
	}
	status = http.StatusNotFound
	if _, err := c.Manifest(t.Context(), "a", "v1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("404: got %v, want fs.ErrNotExist", err)
	}
	before := len(r.requests())
	status = http.StatusServiceUnavailable
	read()
	if n := len(r.requests()) - before; n != maxTries {
		t.Errorf("503 was tried %d times, want %d", n, maxTries)
	}
}

func TestBlobRange(t *testing.T) {
	blob := []byte("0123456789")
	d := digest.FromBytes(blob)
	ranges := true
	r := serve(t, func(w http.ResponseWriter, req *http.Request) {
		if ranges {
			http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(blob))
			return
		}
		_, _ = w.Write(blob)
	})
	c := client(t, r.URL, nil)
	for _, ranges = range []bool{true, false} {
		content, size, err := c.Blob(t.Context(), "a", d, 4)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		content.Close()
		if err != nil || string(got) != "456789" || size != 10 {
			t.Errorf("server with ranges %v: got %q of %d, %v", ranges, got, size, err)
		}
	}
	if size, err := c.HeadBlob(t.Context(), "a", d); err != nil || size != 10 {
		t.Errorf("got %d, %v", size, err)
	}
}

func referrer(n int) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(n)), Size: 1, ArtifactType: "a/b"}
}

func TestReferrers(t *testing.T) {
	var answer func(w http.ResponseWriter, req *http.Request)
	r := serve(t, func(w http.ResponseWriter, req *http.Request) { answer(w, req) })
	c := client(t, r.URL, nil)
	page := func(w http.ResponseWriter, ds ...ocispec.Descriptor) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex+"; charset=utf-8")
		_ = json.NewEncoder(w).Encode(ocispec.Index{Manifests: ds})
	}
	subject := digest.FromString("subject")

	answer = func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Query().Get("page") == "" {
			w.Header().Set("Link", `</v2/a/referrers/`+subject.String()+`?page=2>; rel="next"`)
			page(w, referrer(1))
			return
		}
		page(w, referrer(2))
	}
	if got, err := c.Referrers(t.Context(), "a", subject); err != nil || len(got) != 2 || got[0].ArtifactType != "a/b" {
		t.Errorf("two pages: got %v, %v", got, err)
	}
	for name, a := range map[string]func(http.ResponseWriter, *http.Request){
		"404":        func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		"a web page": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"303 elsewhere": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "https://github.example/x", http.StatusSeeOther)
		},
	} {
		answer = a
		if _, err := c.Referrers(t.Context(), "a", subject); !errors.Is(err, ErrNoReferrersAPI) {
			t.Errorf("%s: got %v, want ErrNoReferrersAPI", name, err)
		}
	}
	for name, a := range map[string]func(http.ResponseWriter, *http.Request){
		"403": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"another host": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `<https://evil.example/v2/x>; rel="next"`)
			page(w, referrer(1))
		},
		"itself": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `</v2/a/referrers/`+subject.String()+`>; rel="next"`)
			page(w, referrer(1))
		},
		"another path": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", `</v2/b/referrers/`+subject.String()+`?x=1>; rel="next"`)
			page(w, referrer(1))
		},
		"for ever": func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Link", `</v2/a/referrers/`+subject.String()+`?p=`+req.URL.Query().Get("p")+`1>; rel="next"`)
			page(w, referrer(1))
		},
		"a bad digest": func(w http.ResponseWriter, _ *http.Request) { page(w, ocispec.Descriptor{Digest: "sha256:../../x"}) },
		"duplicate keys": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			fmt.Fprint(w, `{"manifests":[],"manifests":[]}`)
		},
		"ten thousand": func(w http.ResponseWriter, _ *http.Request) {
			var ds []ocispec.Descriptor
			for i := range 10_000 {
				ds = append(ds, referrer(i))
			}
			page(w, ds...)
		},
	} {
		answer = a
		before := len(r.requests())
		got, err := c.Referrers(t.Context(), "a", subject)
		if err == nil || errors.Is(err, ErrNoReferrersAPI) || len(got) > maxReferrers {
			t.Errorf("%s: got %d referrers, %v, want an error", name, len(got), err)
		}
		if n := len(r.requests()) - before; n > maxReferrerPages {
			t.Errorf("%s: got %d requests, want at most %d", name, n, maxReferrerPages)
		}
	}
}

func TestTags(t *testing.T) {
	r := serve(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Query().Get("last") == "b" {
			fmt.Fprint(w, `{"tags":["c"]}`)
			return
		}
		w.Header().Set("Link", `<https://evil.example/v2/a/tags/list?n=2&last=b>; rel="next"`)
		fmt.Fprint(w, `{"name":"a","tags":["a","b"]}`)
	})
	c := client(t, r.URL, nil)
	tags, next, err := c.Tags(t.Context(), "a", 2, "")
	if err != nil || !slices.Equal(tags, []string{"a", "b"}) || next != "b" {
		t.Errorf("got %v, %q, %v", tags, next, err)
	}
	if tags, next, err = c.Tags(t.Context(), "a", 2, next); err != nil || !slices.Equal(tags, []string{"c"}) || next != "" {
		t.Errorf("got %v, %q, %v", tags, next, err)
	}
}

func TestObserve(t *testing.T) {
	r := newTokenRegistry(t)
	var mu sync.Mutex
	kinds := map[string]int{}
	c := client(t, r.URL, func(c *Config) {
		c.Observe = func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			kinds[fmt.Sprintf("%s %d", e.Kind, e.Status)]++
		}
	})
	if _, err := c.Manifest(t.Context(), "lib/app", "v1"); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"manifests 401": 1, "ping 401": 1, "token 200": 1, "manifests 200": 1}
	for k, n := range want {
		if kinds[k] != n {
			t.Errorf("got %v, want %v", kinds, want)
			break
		}
	}
}

func TestCancelled(t *testing.T) {
	r := serve(t, func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := client(t, r.URL, nil).Manifest(ctx, "a", "v1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestNewRefusesURLs(t *testing.T) {
	for _, s := range []string{"", "ftp://x", "https://", "//x"} {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{URL: u}); err == nil {
			t.Errorf("%q: got no error", s)
		}
	}
}

func FuzzNextLink(f *testing.F) {
	f.Add(`</v2/a/tags/list?last=b>; rel="next"`)
	f.Fuzz(func(_ *testing.T, link string) { nextLink(http.Header{"Link": {link}}) })
}

func FuzzWholeSize(f *testing.F) {
	f.Add("bytes 4-9/10", int64(4))
	f.Fuzz(func(t *testing.T, s string, offset int64) {
		if n, err := wholeSize(s, offset); err == nil && n < -1 {
			t.Fatalf("got size %d of %q", n, s)
		}
	})
}
