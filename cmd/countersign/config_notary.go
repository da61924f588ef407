package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary"
)

// NotaryConfig is a trust server with its pin and how it is reached.
type NotaryConfig struct {
	notary.Config
	// CA replaces the system's certificate authorities; empty keeps them.
	CA []byte
	// Username and PasswordFile are for the server; the file is read again for
	// each login, so that a changed password needs no restart.
	Username, PasswordFile string
}

// trusted returns what decisions rest on: everything but the way to the server.
func (n *NotaryConfig) trusted() any {
	if n == nil {
		return nil
	}
	return n.Config
}

// verifier makes the verifier. Its state is that of its server, so that a
// renamed verifier remembers.
func (n *NotaryConfig) verifier(state *cache.State) (verify.Verifier, error) {
	remote := notary.RemoteConfig{Server: n.Server, CA: n.CA}
	if n.Username != "" {
		remote.Credentials = n.credentials
	}
	fetch, err := notary.NewRemote(remote)
	if err != nil {
		return nil, err
	}
	var table notary.State
	if state != nil {
		table = state.Table("notary " + n.Server)
	} else {
		table = forgetful{}
	}
	return asVerifier(notary.New(n.Config, fetch, table))
}

func (n *NotaryConfig) credentials(context.Context) (username, password string, err error) {
	body, err := readFile(n.PasswordFile, maxPassword)
	return n.Username, strings.TrimRight(string(body), "\r\n"), err
}

// maxPassword bounds a password file: tokens have some KiB.
const maxPassword = 64 << 10

// forgetful is the state of a verifier that is only made to find mistakes.
type forgetful struct{}

// Load finds nothing.
func (forgetful) Load(key string) ([]byte, error) {
	return nil, fmt.Errorf("%s: %w", key, os.ErrNotExist)
}

// Swap keeps nothing.
func (forgetful) Swap(string, []byte, []byte) error { return nil }

func (r *reader) notary(s *section) *NotaryConfig {
	n := &NotaryConfig{}
	s.need("server", "write the trust server's URL, like https://notary.internal")
	s.need("pin", "say which root is trusted: {root_keys: [hex]}, {ca: FILE}, {root: FILE} or {first_use: true}")
	n.Server = s.text("server")
	if s.get("ca") != nil {
		_, n.CA = s.read("ca")
	}
	if s.get("pin") != nil {
		n.Pin = s.sub("pin").pin()
	}
	n.Roles = s.texts("roles")
	if s.get("signers") != nil {
		c := s.sub("signers")
		c.need("at_least", "say how many of them must have signed")
		c.need("of", "list the roles, like [targets/alice, targets/bob]")
		n.Signers = notary.Signers{AtLeast: int(c.count("at_least")), Of: c.texts("of")}
		c.finish()
	}
	n.Refresh = value(s, "refresh", time.Duration(0), parsePositiveDuration)
	n.FrozenUntil = value(s, "frozen_until", time.Time{}, parseEnd)
	if !n.FrozenUntil.IsZero() {
		r.warn("%s: expired trust metadata of %s stands until %s", s.name, n.Server, n.FrozenUntil.Format(time.DateOnly))
	}
	if n.Pin.FirstUse {
		r.warn("%s: the first root that %s shows is trusted: pin it once it is known", s.name, n.Server)
	}
	if s.get("credentials") != nil {
		n.login(s.sub("credentials"))
	}
	s.finish()
	return n
}

func (n *NotaryConfig) login(c *section) {
	c.need("username", "write the user's name")
	c.need("password_file", "name the file that holds the password")
	n.Username = c.text("username")
	n.PasswordFile, _ = c.read("password_file")
	c.finish()
}

func (s *section) pin() notary.Pin {
	p := notary.Pin{RootKeys: s.texts("root_keys"), FirstUse: s.yes("first_use")}
	if s.get("ca") != nil {
		_, p.CA = s.read("ca")
	}
	if s.get("root") != nil {
		_, p.Root = s.read("root")
	}
	s.finish()
	return p
}

// describe returns a line for the server and one for each fact about its pin.
func (n *NotaryConfig) describe() []string {
	lines := []string{"notary: " + n.Server}
	for _, id := range n.Pin.RootKeys {
		lines = append(lines, "  root key "+id)
	}
	switch {
	case len(n.Pin.CA) > 0:
		lines = append(lines, "  root certificates of the given authorities")
	case len(n.Pin.Root) > 0:
		lines = append(lines, "  the given root and those that follow from it")
	case n.Pin.FirstUse:
		lines = append(lines, "  whatever root is seen first")
	}
	if n.Signers.AtLeast > 0 {
		lines = append(lines, fmt.Sprintf("  %d of %s", n.Signers.AtLeast, strings.Join(n.Signers.Of, ", ")))
	}
	if !n.FrozenUntil.IsZero() {
		lines = append(lines, "  expired metadata stands until "+n.FrozenUntil.Format(time.DateOnly))
	}
	return lines
}
