// Package upstream is the client of one upstream registry, and the only code
// that talks to registries. It follows the OCI distribution-spec v1.1.1 and the
// token flow of distribution's auth specification.
//
// It does not hash, verify or keep anything: digests that an upstream states
// are claims, and the caller computes its own. What it does promise is about
// the network: credentials are sent only to the host and scheme they were
// configured for and to token realms within the same trust boundary; redirects
// are few, to https, and carry no credentials to another host; no private
// address is dialled unless the configuration names it; every answer but a
// blob's body is bounded. Proxies are not read from the environment.
//
// It trusts its configuration and, for TLS, the certificate authorities; it
// trusts neither the upstream nor the network.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"
)

const (
	// maxTries bounds how often a request is sent: an upstream behind a load
	// balancer that is being rolled answers at the second or third.
	maxTries = 3
	// firstPause is waited before the second try, twice that before the third.
	firstPause = 200 * time.Millisecond
	// maxRedirects is what registries need (one, to object storage) with room.
	maxRedirects = 5
	// headerTimeout bounds the wait for an answer's headers.
	headerTimeout = 30 * time.Second
	// dialTimeout and tlsTimeout bound making a connection.
	dialTimeout = 10 * time.Second
	tlsTimeout  = 10 * time.Second
	// maxConnections bounds connections to one host: a stampede shares
	// transfers, so this is different blobs at once.
	maxConnections = 256
	// maxHeaderSize bounds the headers of an answer.
	maxHeaderSize = 64 << 10
)

// Config describes an upstream.
type Config struct {
	// Name is the registry's name ("docker.io"), for messages.
	Name string
	// URL is where it is: scheme and host, with port. Only this scheme is used.
	URL *url.URL
	// Username and Password are sent to this host, or to its token realm; both
	// empty is anonymous.
	Username, Password string
	// RealmHosts are further token realms ("host" or "host:port") that the
	// credentials may be sent to. Addresses on this host have to be written as
	// "localhost:port".
	RealmHosts []string
	// CA replaces the system's certificate authorities; nil keeps them.
	CA *x509.CertPool
	// ClientCertificate is shown to the upstream if it asks.
	ClientCertificate *tls.Certificate
	// UserAgent is sent with every request.
	UserAgent string
	// Observe, if set, is told of every request sent.
	Observe func(Event)
}

// Event is one request that was sent.
type Event struct {
	// Kind is manifests, blobs, referrers, tags, ping or token.
	Kind   string
	Method string
	// Status is 0 if no answer came.
	Status int
	// Bytes is the length of the body as the answer states it, 0 if it does not.
	Bytes    int64
	Duration time.Duration
	// RateLimitRemaining is what Docker Hub says is left, -1 if nothing is said.
	RateLimitRemaining int
}

// Client reads from one upstream. It is safe for concurrent use.
type Client struct {
	config   Config
	registry name.Registry
	guard    *guard

	mu        sync.Mutex
	challenge *transport.Challenge
	sessions  map[string]http.RoundTripper
	logins    singleflight.Group
}

// New returns a client. It contacts nobody.
func New(c Config) (*Client, error) {
	if c.URL == nil || c.URL.Scheme != "https" && c.URL.Scheme != "http" || c.URL.Host == "" {
		return nil, fmt.Errorf("upstream %s: the URL must be https://host or http://host", c.Name)
	}
	opts := []name.Option{name.StrictValidation}
	if c.URL.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	reg, err := name.NewRegistry(c.URL.Host, opts...)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", c.Name, err)
	}
	return &Client{config: c, registry: reg, guard: newGuard(c), sessions: map[string]http.RoundTripper{}}, nil
}

// auth returns what ggcr's transport logs in with.
func (c *Client) auth() authn.Authenticator {
	if c.config.Username == "" && c.config.Password == "" {
		return authn.Anonymous
	}
	return authn.FromConfig(authn.AuthConfig{Username: c.config.Username, Password: c.config.Password})
}

// request is one read of the upstream.
type request struct {
	kind, method, path string
	repository         string
	query              url.Values
	header             http.Header
	// follow says where redirects may lead.
	follow redirects
}

type redirects int

const (
	nowhere   redirects = iota // an answer that leads elsewhere is returned as it is
	elsewhere                  // to https hosts
)

// send sends a request, logs in if asked to, retries what may pass, follows
// redirects. The body of the answer is the caller's to bound and close.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	pause := firstPause
	for try := 1; ; try++ {
		resp, err := c.once(ctx, r)
		if try == maxTries || ctx.Err() != nil || !mayPass(resp, err) {
			return resp, err
		}
		if resp != nil {
			resp.Body.Close()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, c.failed(r, 0, ctx.Err())
		}
		pause *= 2
	}
}

// mayPass reports whether trying again is worth it. 429 is not: the client is
// told to wait.
func mayPass(resp *http.Response, err error) bool {
	if err != nil {
		return !errors.Is(err, errForbidden)
	}
	return resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout
}

func (c *Client) once(ctx context.Context, r request) (*http.Response, error) {
	u := *c.config.URL
	u.Path, u.RawQuery = r.path, r.query.Encode()
	rt, fresh, err := c.session(ctx, r.repository, false)
	if err != nil {
		return nil, c.failed(r, 0, err)
	}
	resp, err := c.exchange(ctx, rt, r, &u)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && !fresh {
		// A registry without a session yet, or one whose session has gone bad.
		resp.Body.Close()
		if rt, _, err = c.session(ctx, r.repository, true); err != nil {
			return nil, c.failed(r, 0, err)
		}
		resp, err = c.exchange(ctx, rt, r, &u)
	}
	if err != nil {
		return nil, c.failed(r, 0, err)
	}
	if r.follow == elsewhere {
		return c.followed(ctx, rt, r, resp)
	}
	return resp, nil
}

// exchange sends one request over a transport.
func (c *Client) exchange(ctx context.Context, rt http.RoundTripper, r request, u *url.URL) (*http.Response, error) {
	req, err := http.NewRequestWithContext(withKind(ctx, r.kind), r.method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	return rt.RoundTrip(req)
}

// followed follows redirects: to the upstream itself with the session, to
// another https host with nothing but the request. An answer of another host
// never starts a login.
func (c *Client) followed(ctx context.Context, rt http.RoundTripper, r request, resp *http.Response) (*http.Response, error) {
	away := false
	for hop := 0; isRedirect(resp.StatusCode); hop++ {
		at := resp.Request.URL
		target, err := resp.Location()
		resp.Body.Close()
		switch {
		case err != nil:
			return nil, c.failed(r, resp.StatusCode, fmt.Errorf("%w: it redirects without saying where", errForbidden))
		case hop == maxRedirects:
			return nil, c.failed(r, resp.StatusCode, fmt.Errorf("%w: it redirects more than %d times", errForbidden, maxRedirects))
		case !c.guard.isUpstream(target) && target.Scheme != "https":
			return nil, c.failed(r, resp.StatusCode, fmt.Errorf("%w: it redirects from %s to %s, which is not https", errForbidden, at.Host, target.Host))
		}
		away = away || !c.guard.isUpstream(target)
		if away {
			rt = c.guard.plain()
		}
		if resp, err = c.exchange(ctx, rt, r, target); err != nil {
			return nil, c.failed(r, 0, err)
		}
	}
	if away && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden) {
		resp.Body.Close()
		return nil, c.failed(r, http.StatusBadGateway, errors.New("the host it redirects to does not accept the request"))
	}
	return resp, nil
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// body reads a bounded body and closes it.
func body(resp *http.Response, most int64) ([]byte, error) {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("%w: the answer has more than %d bytes", errForbidden, most)
	}
	return b, nil
}

func rateLimit(h http.Header) int {
	var digits string
	for _, r := range h.Get("Ratelimit-Remaining") {
		if r < '0' || r > '9' {
			break
		}
		digits += string(r)
	}
	n, err := strconv.Atoi(digits)
	if err != nil {
		return -1
	}
	return n
}
