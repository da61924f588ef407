package notary

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"
)

const (
	// minTokenLife is what the token specification tells clients to assume
	// (distribution, docs/spec/auth/token); maxTokenLife bounds what a token
	// service may promise.
	minTokenLife = time.Minute
	maxTokenLife = time.Hour
	// maxTokens bounds the tokens in memory, one for each GUN in use.
	maxTokens = maxEntries
)

// authorizer answers the server's challenge: with Basic, or with a token for
// one GUN from the token service that the challenge names, if that may be
// trusted with credentials.
type authorizer struct {
	base        *url.URL
	client      *http.Client
	credentials func(context.Context) (string, string, error)

	mu        sync.Mutex
	challenge *challenge // nil until the server was asked
	tokens    map[string]token
}

// challenge is what the server demands; the zero value is nothing.
type challenge struct {
	scheme  string // "basic", "bearer" or empty
	realm   string
	service string
}

type token struct {
	value string
	until time.Time
}

func newAuthorizer(base *url.URL, client *http.Client, credentials func(context.Context) (string, string, error)) *authorizer {
	return &authorizer{base: base, client: client, credentials: credentials, tokens: map[string]token{}}
}

// header returns the Authorization for requests about gun.
func (a *authorizer) header(ctx context.Context, gun string) (string, error) {
	c, err := a.demand(ctx)
	if err != nil {
		return "", err
	}
	switch c.scheme {
	case "basic":
		if a.credentials == nil {
			return "", errors.New("the trust server wants a password: configure credentials")
		}
		return a.basic(ctx)
	case "bearer":
		return a.bearer(ctx, gun, c)
	}
	return "", nil
}

// demand asks the server once what it demands. A server that answers /v2/ in
// some other way demands nothing yet: the request itself will tell.
func (a *authorizer) demand(ctx context.Context) (challenge, error) {
	a.mu.Lock()
	known := a.challenge
	a.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base.String()+"/v2/", nil)
	if err != nil {
		return challenge{}, err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return challenge{}, err
	}
	defer discard(resp)
	var c challenge
	if resp.StatusCode == http.StatusUnauthorized {
		c = parseChallenge(resp.Header)
	}
	a.mu.Lock()
	a.challenge = &c
	a.mu.Unlock()
	return c, nil
}

// challenged takes note that a request was not authorized: the token is of no
// use, and the demand may have changed.
func (a *authorizer) challenged(gun string, resp *http.Response) {
	c := parseChallenge(resp.Header)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.challenge = &c
	delete(a.tokens, gun)
}

// parseChallenge reads the first Basic or Bearer challenge (RFC 9110, 11.6.1).
func parseChallenge(h http.Header) challenge {
	for _, line := range h.Values("WWW-Authenticate") {
		scheme, rest, _ := strings.Cut(line, " ")
		switch scheme = strings.ToLower(scheme); scheme {
		case "basic":
			return challenge{scheme: scheme}
		case "bearer":
			c := challenge{scheme: scheme}
			for rest != "" {
				var name, value string
				name, value, rest = nextParameter(rest)
				switch name {
				case "realm":
					c.realm = value
				case "service":
					c.service = value
				}
			}
			return c
		}
	}
	return challenge{}
}

// nextParameter splits name=value or name="value" off a challenge.
func nextParameter(s string) (name, value, rest string) {
	name, s, _ = strings.Cut(s, "=")
	name = strings.ToLower(strings.Trim(name, " \t,"))
	if quoted, ok := strings.CutPrefix(s, `"`); ok {
		value, rest, _ = strings.Cut(quoted, `"`)
		return name, value, rest
	}
	value, rest, _ = strings.Cut(s, ",")
	return name, strings.TrimSpace(value), rest
}

func (a *authorizer) basic(ctx context.Context) (string, error) {
	username, password, err := a.credentials(ctx)
	if err != nil {
		return "", fmt.Errorf("read the trust server's credentials: %w", err)
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+password)), nil
}

func (a *authorizer) bearer(ctx context.Context, gun string, c challenge) (string, error) {
	now := time.Now()
	a.mu.Lock()
	t, ok := a.tokens[gun]
	a.mu.Unlock()
	if ok && now.Before(t.until) {
		return "Bearer " + t.value, nil
	}
	realm, err := a.checkRealm(c.realm)
	if err != nil {
		return "", err
	}
	if t, err = a.fetchToken(ctx, realm, gun, c); err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tokens) >= maxTokens {
		clear(a.tokens)
	}
	a.tokens[gun] = t
	return "Bearer " + t.value, nil
}

// checkRealm refuses a token service outside the server's trust boundary
// (CVE-2026-33540): its host and port, or its registrable domain over HTTPS.
func (a *authorizer) checkRealm(realm string) (*url.URL, error) {
	u, err := url.Parse(realm)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("the trust server names a token service whose URL is malformed")
	}
	same := strings.EqualFold(u.Host, a.base.Host)
	if u.Scheme != "https" && (u.Scheme != "http" || a.base.Scheme != "http" || !same) {
		return nil, errors.New("the trust server names a token service that is not reached over HTTPS")
	}
	if !same && !sameDomain(u.Hostname(), a.base.Hostname()) {
		return nil, fmt.Errorf("the trust server names a token service on another domain, %q: no request was sent", u.Hostname())
	}
	return u, nil
}

func sameDomain(a, b string) bool {
	for _, host := range []string{a, b} {
		if _, err := netip.ParseAddr(host); err == nil {
			return false
		}
	}
	da, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(a))
	if err != nil {
		return false
	}
	db, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(b))
	return err == nil && da == db
}

// fetchToken asks for a token to pull gun. The name in the scope is the whole
// GUN with its host, other than in a registry's scopes.
func (a *authorizer) fetchToken(ctx context.Context, realm *url.URL, gun string, c challenge) (token, error) {
	u := *realm
	q := u.Query()
	if c.service != "" {
		q.Set("service", c.service)
	}
	q.Set("scope", "repository:"+gun+":pull")
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return token{}, err
	}
	if a.credentials != nil {
		authorization, err := a.basic(ctx)
		if err != nil {
			return token{}, err
		}
		req.Header.Set("Authorization", authorization)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return token{}, fmt.Errorf("ask the trust server's token service: %w", err)
	}
	defer discard(resp)
	if resp.StatusCode != http.StatusOK {
		return token{}, fmt.Errorf("ask the trust server's token service: it answered %d", resp.StatusCode)
	}
	return parseToken(io.LimitReader(resp.Body, maxErrorBody))
}

func parseToken(body io.Reader) (token, error) {
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := json.NewDecoder(body).Decode(&answer); err != nil {
		return token{}, errors.New("the trust server's token service sent no token")
	}
	t := token{value: answer.Token}
	if t.value == "" {
		t.value = answer.AccessToken
	}
	if t.value == "" {
		return token{}, errors.New("the trust server's token service sent no token")
	}
	seconds := min(max(answer.ExpiresIn, int64(minTokenLife/time.Second)), int64(maxTokenLife/time.Second))
	t.until = time.Now().Add(time.Duration(seconds) * time.Second * 9 / 10)
	return t, nil
}
