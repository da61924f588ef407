package notary

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// requestTimeout bounds one request with its body; 32 MiB need 25 Mbit/s.
	requestTimeout = 10 * time.Second
	connectTimeout = 5 * time.Second
	// maxConnections bounds the connections to the trust server: as many as
	// refreshes run at a time, and as many pulls again.
	maxConnections = 2 * workers
	// maxErrorBody is what is read of an answer that is not used, so that the
	// connection can be; also the bound for tokens and headers.
	maxErrorBody = 64 << 10
	maxRedirects = 3
)

// RemoteConfig says how a trust server is reached.
type RemoteConfig struct {
	// Server is the URL in front of /v2/. Plain HTTP only if it says so.
	Server string
	// CA holds PEM certificates to trust instead of the system's.
	CA []byte
	// Credentials returns name and password; nil is anonymous. They are sent to
	// the server, and to a token service on the same host or registrable domain.
	Credentials func(ctx context.Context) (username, password string, err error)
}

// Remote is a Fetcher that reads a Notary v1 server over HTTP. It follows no
// redirect to another host, uses no proxy from the environment and asks for no
// compression. Everything that is not the file or its absence (404) is an error:
// 401, 403, 5xx, a timeout.
type Remote struct {
	base   *url.URL
	client *http.Client
	auth   *authorizer
}

// NewRemote checks the configuration. It sends nothing.
func NewRemote(c RemoteConfig) (*Remote, error) {
	base, err := url.Parse(c.Server)
	if err != nil {
		return nil, errors.New("notary: server: it is not a URL")
	}
	if base.Scheme != "https" && base.Scheme != "http" || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("notary: server: %q is not the URL of a server: give https://HOST[:PORT] without user, query and fragment", base.Redacted())
	}
	base.Path = strings.TrimRight(base.Path, "/")
	roots, err := rootCAs(c.CA)
	if err != nil {
		return nil, err
	}
	client := &http.Client{
		Timeout:       requestTimeout,
		CheckRedirect: sameHost,
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: connectTimeout}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    connectTimeout,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true,
			MaxConnsPerHost:        maxConnections,
			MaxIdleConnsPerHost:    maxConnections,
			IdleConnTimeout:        2 * defaultRefresh,
			MaxResponseHeaderBytes: maxErrorBody,
		},
	}
	return &Remote{base: base, client: client, auth: newAuthorizer(base, client, c.Credentials)}, nil
}

func rootCAs(bundle []byte) (*x509.CertPool, error) {
	if len(bundle) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, errors.New("notary: ca: it holds no PEM certificate")
	}
	return pool, nil
}

// sameHost lets a redirect only change the path: anything else could carry
// credentials away or reach where the server cannot.
func sameHost(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if first := via[0].URL; req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
		return errors.New("a redirect to another host is refused")
	}
	return nil
}

// Fetch implements Fetcher.
func (r *Remote) Fetch(ctx context.Context, gun, name string, most int64) ([]byte, error) {
	if err := checkGUN(gun); err != nil {
		return nil, err
	}
	if _, ok := parseFileName(name); !ok {
		return nil, fmt.Errorf("%.80q is not the name of a metadata file", name)
	}
	for try := 0; ; try++ {
		resp, err := r.get(ctx, gun, name)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusUnauthorized && try == 0 {
			r.auth.challenged(gun, resp)
			discard(resp)
			continue
		}
		return readFile(resp, name, most)
	}
}

func (r *Remote) get(ctx context.Context, gun, name string) (*http.Response, error) {
	authorization, err := r.auth.header(ctx, gun)
	if err != nil {
		return nil, err
	}
	u := *r.base
	u.Path += "/v2/" + gun + "/_trust/tuf/" + name
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return r.client.Do(req)
}

func readFile(resp *http.Response, name string, most int64) ([]byte, error) {
	defer discard(resp)
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: the trust server answered %d", name, resp.StatusCode)
	case resp.ContentLength > most:
		return nil, fmt.Errorf("%s: %d bytes, at most %d are allowed: %w", name, resp.ContentLength, most, ErrTooLarge)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(raw)) > most {
		return nil, fmt.Errorf("%s: more than %d bytes: %w", name, most, ErrTooLarge)
	}
	return raw, nil
}

// discard reads a little of what is left, so that the connection can be used
// again, and closes the body.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxErrorBody)
	_ = resp.Body.Close()
}

// Close closes idle connections.
func (r *Remote) Close() error {
	r.client.CloseIdleConnections()
	return nil
}
