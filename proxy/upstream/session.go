package upstream

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

const (
	// maxSessions bounds logins kept: one a repository. Beyond it all are
	// forgotten, which costs each repository in use one token request.
	maxSessions = 10_000
	// loginTimeout bounds a ping and a token request.
	loginTimeout = 30 * time.Second
)

// session returns the transport for a repository. Without a session so far it
// is the bare one, because most registries need no login for public content
// and a ping would cost a round trip; login makes a new one. fresh is set if
// the session was made just now, so that another 401 is the final answer.
func (c *Client) session(ctx context.Context, repository string, login bool) (rt http.RoundTripper, fresh bool, err error) {
	c.mu.Lock()
	rt, known := c.sessions[repository]
	private := c.config.Username != "" || c.challenge != nil
	c.mu.Unlock()
	switch {
	case known && !login:
		return rt, false, nil
	case !login && !private:
		return c.guard, false, nil
	}
	rt, err = c.logIn(ctx, repository)
	return rt, true, err
}

// logIn makes a session for the repository, once for all that wait for one.
func (c *Client) logIn(ctx context.Context, repository string) (http.RoundTripper, error) {
	ch := c.logins.DoChan(repository, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loginTimeout)
		defer cancel()
		return c.newSession(ctx, repository)
	})
	select {
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(http.RoundTripper), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *Client) newSession(ctx context.Context, repository string) (http.RoundTripper, error) {
	challenge, err := c.challenged(ctx)
	if err != nil {
		return nil, err
	}
	token := &transport.Token{}
	if strings.EqualFold(challenge.Scheme, "bearer") {
		scope := "repository:" + repository + ":pull"
		token, err = transport.Exchange(ctx, c.registry, c.auth(), c.guard, []string{scope}, challenge)
		if err != nil {
			return nil, fmt.Errorf("logging in: %w", redact(err))
		}
		if token.Token == "" {
			token.Token = token.AccessToken
		}
	}
	rt, err := transport.FromToken(c.registry, c.auth(), c.guard, challenge, token)
	if err != nil {
		return nil, fmt.Errorf("logging in: %w", redact(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sessions) >= maxSessions {
		clear(c.sessions)
	}
	c.sessions[repository] = rt
	return rt, nil
}

// challenged pings once for the client's life: how a registry wants to be
// logged in to does not change. A failure is not kept.
func (c *Client) challenged(ctx context.Context) (*transport.Challenge, error) {
	c.mu.Lock()
	challenge := c.challenge
	c.mu.Unlock()
	if challenge != nil {
		return challenge, nil
	}
	challenge, err := transport.Ping(ctx, c.registry, c.guard)
	if err != nil {
		return nil, fmt.Errorf("asking how to log in: %w", redact(err))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.challenge = challenge
	return challenge, nil
}
