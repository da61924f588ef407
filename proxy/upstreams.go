package proxy

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/countersign/countersign/proxy/upstream"
	"github.com/countersign/countersign/verify"
)

// maxWildcardHosts bounds the clients made for hosts that a wildcard matches:
// each keeps connections. A site has some dozens of registries.
const maxWildcardHosts = 256

// UpstreamConfig is one configured upstream.
type UpstreamConfig struct {
	// Default is set for the upstream of names without a registry.
	Default bool
	// Config is the client's. If its Name begins with "*." it stands for every
	// host with one label in that place, and URL is that of the host.
	upstream.Config
}

// Upstreams are the registries that may be contacted, and no others.
type Upstreams struct {
	standard  string
	configs   map[string]upstream.Config
	wildcards []upstream.Config

	mu      sync.Mutex
	clients map[string]*upstream.Client
}

// NewUpstreams returns the upstreams of a configuration.
func NewUpstreams(configs []UpstreamConfig) (*Upstreams, error) {
	u := &Upstreams{configs: map[string]upstream.Config{}, clients: map[string]*upstream.Client{}}
	for _, c := range configs {
		if strings.HasPrefix(c.Name, "*.") {
			u.wildcards = append(u.wildcards, c.Config)
			continue
		}
		client, err := upstream.New(c.Config)
		if err != nil {
			return nil, fmt.Errorf("upstream %s: %w", c.Name, err)
		}
		u.configs[c.Name], u.clients[c.Name] = c.Config, client
		if c.Default {
			u.standard = c.Name
		}
	}
	return u, nil
}

// hubAliases are the other names of Docker Hub (distribution/reference v0.6.0).
var hubAliases = []string{"index.docker.io", "registry-1.docker.io"}

// Canonical implements Registries.
func (u *Upstreams) Canonical(host string) (string, bool) {
	host = strings.ToLower(host)
	if slices.Contains(hubAliases, host) {
		host = dockerHub
	}
	if _, ok := u.configs[host]; ok {
		return host, true
	}
	_, ok := u.wildcard(host)
	return host, ok
}

// Default implements Registries.
func (u *Upstreams) Default() string { return u.standard }

// wildcard returns the configuration for a host that a wildcard matches with
// exactly one label.
func (u *Upstreams) wildcard(host string) (upstream.Config, bool) {
	label, domain, ok := strings.Cut(host, ".")
	if !ok || label == "" || strings.Contains(domain, ":") || !nameGrammar.MatchString(label) {
		return upstream.Config{}, false
	}
	for _, c := range u.wildcards {
		if c.Name == "*."+domain {
			c.Name = host
			c.URL = &url.URL{Scheme: "https", Host: host}
			return c, true
		}
	}
	return upstream.Config{}, false
}

// client returns the client of a full repository name and the repository
// within its registry.
func (u *Upstreams) client(name string) (*upstream.Client, string, error) {
	host, repository, ok := strings.Cut(name, "/")
	u.mu.Lock()
	defer u.mu.Unlock()
	if c := u.clients[host]; c != nil && ok {
		return c, repository, nil
	}
	config, known := u.wildcard(host)
	if !known || !ok {
		return nil, "", verify.Refuse(verify.UnknownUpstream, "%s is not configured as an upstream", host)
	}
	if len(u.clients) >= len(u.configs)+maxWildcardHosts {
		return nil, "", fmt.Errorf("reaching %s: a wildcard already stands for %d hosts", host, maxWildcardHosts)
	}
	c, err := upstream.New(config)
	if err != nil {
		return nil, "", fmt.Errorf("upstream %s: %w", host, err)
	}
	u.clients[host] = c
	return c, repository, nil
}
