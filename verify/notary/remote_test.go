package notary

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

// wire is a trust server over HTTP that keeps what it was asked.
type wire struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string // path?query, and the Authorization if there was one
	handle http.HandlerFunc
}

func newWire(t *testing.T, handle http.HandlerFunc) *wire {
	w := &wire{handle: handle}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		line := r.URL.RequestURI()
		if a := r.Header.Get("Authorization"); a != "" {
			line += " " + a
		}
		w.mu.Lock()
		w.asked = append(w.asked, line)
		w.mu.Unlock()
		w.handle(rw, r)
	}))
	t.Cleanup(w.Close)
	return w
}

func (w *wire) requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked)
}

func secret(context.Context) (string, string, error) { return "user", "canary-password", nil }

func TestRemoteServesAVerifier(t *testing.T) {
	w := newWorld(t)
	server := newWire(t, w.repo.ServeHTTP)
	remote := must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL + "/"}))
	defer remote.Close()
	w.v = must[*Verifier](t)(New(w.conf, remote, w.state))
	w.v.now = w.clock
	defer w.v.Close()
	w.admitted("v1", "one")
	w.refused("v2", "one", verify.Unsigned)
	if _, err := remote.Fetch(t.Context(), "registry.test/other", "root.json", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another repository: got %v, want fs.ErrNotExist", err)
	}
}

func TestRemoteAnswers(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"401":   func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(401) },
		"403":   func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(403) },
		"429":   func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(429) },
		"500":   func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(500) },
		"204":   func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(204) },
		"hangs": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"short": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "100")
			fmt.Fprint(rw, "{}")
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			server := newWire(t, func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v2/" {
					answer(rw, r)
				}
			})
			remote := must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL}))
			remote.client.Timeout = 200e6
			v := must[*Verifier](t)(New(Config{Pin: Pin{FirstUse: true}}, remote, &notarytest.State{}))
			defer v.Close()
			_, err := v.Verify(t.Context(), subject("v1", "one"))
			var refusal *verify.Refusal
			if err == nil || errors.As(err, &refusal) {
				t.Errorf("got %v, want an error that is no refusal", err)
			}
		})
	}
}

func TestRemoteBoundsTheBody(t *testing.T) {
	server := newWire(t, func(rw http.ResponseWriter, r *http.Request) {
		for range 100 { // flushed in parts: no Content-Length
			_, _ = rw.Write(bytes.Repeat([]byte("x"), 1000))
			rw.(http.Flusher).Flush()
		}
	})
	remote := must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL}))
	if _, err := remote.Fetch(t.Context(), testGUN, "timestamp.json", 5000); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	if raw, err := remote.Fetch(t.Context(), testGUN, "timestamp.json", 100_000); err != nil || len(raw) != 100_000 {
		t.Errorf("got %d bytes, %v; want all 100,000", len(raw), err)
	}
}

func TestRemoteDoesNotFollowRedirectsAway(t *testing.T) {
	elsewhere := newWire(t, func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "{}") })
	server := newWire(t, func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/away.json"), strings.HasSuffix(r.URL.Path, "/root.json"):
			http.Redirect(rw, r, elsewhere.URL+"/x", http.StatusFound)
		case strings.HasSuffix(r.URL.Path, "/timestamp.json"):
			http.Redirect(rw, r, "/elsewhere/on/the/same/host", http.StatusFound)
		case strings.HasSuffix(r.URL.Path, "/snapshot.json"):
			http.Redirect(rw, r, r.URL.Path, http.StatusFound)
		}
	})
	remote := must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL, Credentials: secret}))
	if _, err := remote.Fetch(t.Context(), testGUN, "root.json", 10); err == nil || !strings.Contains(err.Error(), "another host") {
		t.Errorf("got %v, want a refused redirect", err)
	}
	if _, err := remote.Fetch(t.Context(), testGUN, "timestamp.json", 10); err != nil {
		t.Errorf("same host: got %v, want it followed", err)
	}
	if _, err := remote.Fetch(t.Context(), testGUN, "snapshot.json", 10); err == nil {
		t.Error("followed redirects without end")
	}
	equal(t, "requests elsewhere", elsewhere.requests(), nil)
}

func TestRedirectBoundary(t *testing.T) {
	request := func(u string) *http.Request { return must[*http.Request](t)(http.NewRequest(http.MethodGet, u, nil)) }
	via := []*http.Request{request("https://notary.test/a")}
	for u, ok := range map[string]bool{"https://notary.test/b": true, "http://notary.test/b": false, "https://notary.test:444/b": false, "https://auth.notary.test/b": false} {
		if err := sameHost(request(u), via); (err == nil) != ok {
			t.Errorf("%s: got %v, want followed: %v", u, err, ok)
		}
	}
}

func TestRemoteBasic(t *testing.T) {
	w := newWorld(t)
	server := newWire(t, func(rw http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "user" || password != "canary-password" {
			rw.Header().Set("WWW-Authenticate", `Basic realm="trust"`)
			rw.WriteHeader(401)
			return
		}
		w.repo.ServeHTTP(rw, r)
	})
	remote := must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL, Credentials: secret}))
	if _, err := remote.Fetch(t.Context(), testGUN, "root.json", maxUnknown); err != nil {
		t.Error(err)
	}
	remote = must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL}))
	if _, err := remote.Fetch(t.Context(), testGUN, "root.json", maxUnknown); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without credentials: got %v, want an error", err)
	}
}

// tokenServer is a trust server that issues its own tokens.
func tokenServer(t *testing.T, repo *notarytest.Repository, valid func(token string) bool) *wire {
	var server *wire
	n := 0
	server = newWire(t, func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			n++
			fmt.Fprintf(rw, `{"token":"t%d","expires_in":300}`, n)
		case !valid(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")):
			rw.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="trust server",scope="x"`)
			rw.WriteHeader(401)
		default:
			repo.ServeHTTP(rw, r)
		}
	})
	return server
}

func TestRemoteToken(t *testing.T) {
	w := newWorld(t)
	revoked := ""
	server := tokenServer(t, w.repo, func(token string) bool { return token != "" && token != revoked })
	remote := must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL, Credentials: secret}))
	fetch := func(name string) {
		t.Helper()
		if _, err := remote.Fetch(t.Context(), testGUN, name, maxUnknown); err != nil {
			t.Fatal(err)
		}
	}
	fetch("root.json")
	fetch("timestamp.json")
	revoked = "t1"
	fetch("snapshot.json")
	const tuf = "/v2/" + testGUN + "/_trust/tuf/"
	const ask = "/token?scope=repository%3A" + "registry.test%2Fteam%2Fapp%3Apull&service=trust+server Basic dXNlcjpjYW5hcnktcGFzc3dvcmQ="
	equal(t, "requests", server.requests(), []string{"/v2/", ask, tuf + "root.json Bearer t1", tuf + "timestamp.json Bearer t1",
		tuf + "snapshot.json Bearer t1", ask, tuf + "snapshot.json Bearer t2"})
}

// CVE-2026-33540: a registry names a token service of its choice.
func TestCVE_2026_33540_RealmOutsideTheTrustBoundary(t *testing.T) {
	evil := newWire(t, func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, `{"token":"x"}`) })
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(evil.URL, "http://"))
	for _, realm := range []string{evil.URL + "/token", "http://localhost:" + port + "/token", "https://evil.example/token", "http://169.254.169.254/latest",
		"https://[::1]:" + port, "ftp://x/", "//" + "x", "", "https://user:password@evil.example/", "\x00", "https://evil.example:443"} {
		server := newWire(t, func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("WWW-Authenticate", `Bearer realm="`+strings.ReplaceAll(realm, "\x00", "%00")+`",service="s"`)
			rw.WriteHeader(401)
		})
		remote := must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL, Credentials: secret}))
		_, err := remote.Fetch(t.Context(), testGUN, "root.json", 10)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: got %v, want an error", realm, err)
		}
		if err != nil && strings.Contains(err.Error(), "canary-password") {
			t.Errorf("%q: the error holds the password", realm)
		}
		for _, asked := range server.requests() {
			if strings.Contains(asked, "Basic") {
				t.Errorf("%q: the password went to the server, which asked for a token", realm)
			}
		}
	}
	equal(t, "requests elsewhere", evil.requests(), nil)
}

func TestRealmBoundary(t *testing.T) {
	for _, c := range []struct {
		server, realm string
		ok            bool
	}{
		{"https://notary.example.com", "https://auth.example.com/token", true},
		{"https://notary.example.com", "https://notary.example.com:8443/token", true},
		{"https://notary.example.com:4443", "https://notary.example.com:4443/token", true},
		{"https://notary.example.com", "http://auth.example.com/token", false},
		{"https://notary.example.com", "http://notary.example.com/token", false},
		{"https://notary.example.com", "https://example.org/token", false},
		{"https://a.github.io", "https://b.github.io/token", false},
		{"https://notary.co.uk", "https://auth.co.uk/token", false},
		{"https://10.0.0.1", "https://20.0.0.1/token", false},
		{"https://notary", "https://auth/token", false},
		{"https://notary.docker.io", "https://auth.docker.io/token", true},
		{"http://notary.test", "http://notary.test/token", true},
		{"http://notary.test", "http://auth.notary.test/token", false},
	} {
		base := must[*url.URL](t)(url.Parse(c.server))
		_, err := newAuthorizer(base, nil, nil).checkRealm(c.realm)
		if ok := err == nil; ok != c.ok {
			t.Errorf("%s at %s: got %v (%v), want %v", c.realm, c.server, ok, err, c.ok)
		}
	}
}

func TestRemoteTLS(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewTLSServer(w.repo)
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	remote := must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL, CA: ca}))
	if _, err := remote.Fetch(t.Context(), testGUN, "root.json", maxUnknown); err != nil {
		t.Error(err)
	}
	remote = must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL}))
	if _, err := remote.Fetch(t.Context(), testGUN, "root.json", maxUnknown); err == nil {
		t.Error("an unknown authority was accepted")
	}
}

func TestRemoteIgnoresProxiesOfTheEnvironment(t *testing.T) {
	if p := must[*Remote](t)(NewRemote(RemoteConfig{Server: "https://x"})).client.Transport.(*http.Transport).Proxy; p != nil {
		t.Error("a proxy function is set")
	}
}

func TestRemoteRefusesNames(t *testing.T) {
	server := newWire(t, func(http.ResponseWriter, *http.Request) {})
	remote := must[*Remote](t)(NewRemote(RemoteConfig{Server: server.URL}))
	for _, name := range []string{"", "../root.json", "root", "x.json", "targets/../root.json", "1.snapshot.json", "root.json?x", "0.root.json",
		"timestamp.key", "targets/A.json", "root.abc.json", "targets%2fa.json"} {
		if _, err := remote.Fetch(t.Context(), testGUN, name, 10); err == nil {
			t.Errorf("%q was fetched", name)
		}
	}
	if _, err := remote.Fetch(t.Context(), "../x", "root.json", 10); err == nil {
		t.Error("a GUN that is a path was fetched")
	}
	equal(t, "requests", server.requests(), nil)
}

func TestRemoteConfigMistakes(t *testing.T) {
	for _, c := range []RemoteConfig{{}, {Server: "notary.test"}, {Server: "ftp://notary.test"}, {Server: "https://"}, {Server: "https://u:p@notary.test"},
		{Server: "https://notary.test?x=1"}, {Server: "https://notary.test#x"}, {Server: "https://notary.test", CA: []byte("x")}, {Server: ":"}} {
		if _, err := NewRemote(c); err == nil {
			t.Errorf("%+v: got a Remote, want an error", c)
		} else if strings.Contains(err.Error(), "u:p@") {
			t.Errorf("the error holds the password: %v", err)
		}
	}
}

func FuzzChallenge(f *testing.F) {
	f.Add(`Bearer realm="https://auth.docker.io/token",service="notary",scope="repository:x:pull"`)
	f.Add(`Basic realm="x"`)
	f.Fuzz(func(t *testing.T, line string) {
		parseChallenge(http.Header{"Www-Authenticate": {line}})
	})
}
