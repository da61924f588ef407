package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/publicsuffix"
	"golang.org/x/sync/singleflight"
)

// errForbidden is wrapped by errors for what the client will not do, however
// often it is tried.
var errForbidden = errors.New("not allowed")

// maxTokenAnswer bounds a token server's answer: tokens have some KiB.
const maxTokenAnswer = 1 << 20

// guard is the transport under everything: requests that carry credentials
// reach the upstream and its token realms only, with the scheme configured.
type guard struct {
	config Config
	base   *http.Transport
	tokens singleflight.Group
}

func newGuard(c Config) *guard {
	g := &guard{config: c}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.CA}
	if c.ClientCertificate != nil {
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.ClientCertificate, nil }
	}
	g.base = &http.Transport{
		DialContext:            g.dial,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHeaderSize,
		MaxConnsPerHost:        maxConnections,
		MaxIdleConnsPerHost:    maxConnections / 2,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
		// An encoded body has other bytes than the ones that were digested.
		DisableCompression: true,
	}
	return g
}

// isUpstream reports whether a URL is on the configured host, by the
// configured scheme.
func (g *guard) isUpstream(u *url.URL) bool {
	return u.Scheme == g.config.URL.Scheme && address(u) == address(g.config.URL)
}

// RoundTrip implements http.RoundTripper for requests with credentials.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	switch {
	case g.isUpstream(req.URL) && !isLogin(req.URL):
		return g.observed(req)
	case !g.isRealm(req.URL):
		return nil, fmt.Errorf("%w: %s asks for a login at %s, which is outside its trust boundary: add it to realms if it is right",
			errForbidden, g.config.Name, req.URL.Host)
	case req.Method == http.MethodGet:
		return g.token(req)
	}
	return g.observed(req)
}

// isLogin tells a token request from a request of the registry API on the same
// host, which never has these parameters.
func isLogin(u *url.URL) bool {
	q := u.Query()
	return q.Has("service") || q.Has("scope")
}

// plain returns the transport of requests without credentials to any public
// https host.
func (g *guard) plain() http.RoundTripper { return plain{g} }

type plain struct{ g *guard }

// RoundTrip sends only what any host may see.
func (p plain) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Header.Del("Authorization")
	req.Header.Del("Cookie")
	return p.g.observed(req)
}

// isRealm reports whether tokens may be asked for at a URL: on the upstream
// itself, on a host of the same registrable domain by https (registry-1.docker.io
// and auth.docker.io), or where the configuration says so. A realm elsewhere
// would be given the credentials (CVE-2026-33540).
func (g *guard) isRealm(u *url.URL) bool {
	if g.isUpstream(u) {
		return true
	}
	if u.Scheme != "https" && u.Scheme != g.config.URL.Scheme {
		return false
	}
	if slices.Contains(g.config.RealmHosts, u.Host) || slices.Contains(g.config.RealmHosts, u.Hostname()) {
		return true
	}
	return u.Scheme == "https" && g.config.URL.Scheme == "https" && sameDomain(u.Hostname(), g.config.URL.Hostname())
}

func sameDomain(a, b string) bool {
	if net.ParseIP(a) != nil || net.ParseIP(b) != nil {
		return false
	}
	da, errA := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(a))
	db, errB := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(b))
	return errA == nil && errB == nil && da == db
}

// answer is a token server's answer, which several requests share.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// token shares one token request among all that ask for the same at once: a
// stampede of expired tokens costs one.
func (g *guard) token(req *http.Request) (*http.Response, error) {
	key := req.URL.String() + " " + req.Header.Get("Authorization")
	v, err, _ := g.tokens.Do(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), headerTimeout)
		defer cancel()
		resp, err := g.observed(req.Clone(withKind(ctx, kindToken)))
		if err != nil {
			return nil, err
		}
		b, err := body(resp, maxTokenAnswer)
		return answer{resp.StatusCode, resp.Header, b}, err
	})
	if err != nil {
		return nil, err
	}
	a := v.(answer)
	return &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.header.Clone(), Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: req}, nil
}

// observed sends a request and reports it.
func (g *guard) observed(req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", g.config.UserAgent)
	start := time.Now()
	resp, err := g.base.RoundTrip(req)
	if g.config.Observe == nil {
		return resp, err
	}
	e := Event{Kind: kindOf(req.Context()), Method: req.Method, Duration: time.Since(start), RateLimitRemaining: -1}
	if err == nil {
		e.Status, e.RateLimitRemaining = resp.StatusCode, rateLimit(resp.Header)
		if resp.ContentLength > 0 && req.Method != http.MethodHead {
			e.Bytes = resp.ContentLength
		}
	}
	g.config.Observe(e)
	return resp, err
}

// dial connects. Hosts that the configuration names may have any address;
// every other, such as the target of a redirect, must be public after its name
// was resolved, so that no answer can turn the proxy against its own network.
func (g *guard) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout}
	if !g.isConfigured(addr) {
		d.Control = func(_, address string, _ syscall.RawConn) error { return checkPublic(address) }
	}
	return d.DialContext(ctx, network, addr)
}

func (g *guard) isConfigured(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && (addr == address(g.config.URL) || slices.Contains(g.config.RealmHosts, addr) || slices.Contains(g.config.RealmHosts, host))
}

// address is host:port with the scheme's port written out.
func address(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// notPublic are the special ranges that netip does not name (IANA special-
// purpose registries): shared, protocol, benchmark and reserved ones, and
// those that carry an IPv4 address inside: NAT64, 6to4, Teredo.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"),
	netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

func checkPublic(address string) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: dialling %s: %w", errForbidden, address, err)
	}
	ip := ap.Addr().Unmap().WithZone("")
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return fmt.Errorf("%w: %s is not a public address", errForbidden, ip)
	}
	return nil
}

// kindToken marks requests to token servers.
const kindToken = "token"

type kindKey struct{}

func withKind(ctx context.Context, kind string) context.Context {
	return context.WithValue(ctx, kindKey{}, kind)
}

// kindOf returns what a request is for. ggcr's own requests carry no mark:
// they are pings and logins.
func kindOf(ctx context.Context) string {
	if k, ok := ctx.Value(kindKey{}).(string); ok {
		return k
	}
	return "ping"
}
