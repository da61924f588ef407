package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/countersign/countersign/proxy/upstream"
)

const (
	dockerHub = "docker.io"
	// dockerHubURL is where Docker Hub's registry is; docker.io is a web site.
	dockerHubURL = "https://registry-1.docker.io"
	// dockerHubAuth is what docker login calls Docker Hub.
	dockerHubAuth = "https://index.docker.io/v1/"
)

var (
	hostGrammar = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?$`)
	// wildcardGrammar demands two fixed labels: *.io would be hosts of anybody.
	wildcardGrammar = regexp.MustCompile(`^\*(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?){2,}$`)
)

func (r *reader) upstreams(root *section) []Upstream {
	root.need("upstreams", "name the registries that may be contacted, like docker.io: {default: true}")
	s := root.sub("upstreams")
	var all []Upstream
	standard := ""
	for _, key := range s.keys {
		name := key.Value
		u := r.upstream(s.sub(name), name, key.Line)
		if u.Default && standard != "" {
			s.mistake(key.Line, "%s: %s is the default already: keep one", s.path(name), standard)
		} else if u.Default {
			standard = name
		}
		all = append(all, u)
	}
	if len(all) == 0 && root.has("upstreams") && !s.broken {
		s.mistake(s.line, "upstreams: there is none: name the registries that may be contacted, like docker.io: {default: true}")
	}
	return all
}

func (r *reader) upstream(s *section, name string, line int) Upstream {
	if problem := hostProblem(name); problem != "" {
		r.mistake(line, "upstreams: %s %s", quote(name), problem)
	}
	wildcard := strings.HasPrefix(name, "*.")
	u := Upstream{Default: s.yes("default")}
	u.Name = name
	u.URL = value(s, "url", defaultURL(name), parseBase)
	u.CA = s.pool("ca")
	u.RealmHosts = s.realms()
	if s.has("credentials") {
		s.credentials(s.sub("credentials"), name, &u.Config)
	} else {
		s.get("credentials")
	}
	if wildcard {
		s.refuseForWildcard()
	}
	if u.Username != "" && u.URL.Scheme == "http" && !isLoopback(net.JoinHostPort(u.URL.Hostname(), "80")) {
		r.warn("%s: the password goes over the network in the clear: use https", s.name)
	}
	s.finish()
	return u
}

// hostProblem says what is wrong with an upstream's name, nothing if it is good.
func hostProblem(name string) string {
	switch {
	case name == "index.docker.io" || name == "registry-1.docker.io":
		return "is another name of docker.io: write docker.io, which is what images are called by"
	case strings.HasPrefix(name, "*") && !wildcardGrammar.MatchString(name):
		return "is not a wildcard: write *. and at least two labels, like *.azurecr.io, without a port"
	case wildcardGrammar.MatchString(name), hostGrammar.MatchString(name):
		return ""
	case name != strings.ToLower(name):
		return "has capitals: write the host in lower case"
	case strings.Contains(name, "/"):
		return "is not a host: write the registry's host name, and its address as url"
	}
	return "is not a host name: write host or host:port, like ghcr.io or registry.internal:5000"
}

func defaultURL(name string) *url.URL {
	if name == dockerHub {
		return &url.URL{Scheme: "https", Host: strings.TrimPrefix(dockerHubURL, "https://")}
	}
	return &url.URL{Scheme: "https", Host: name}
}

// parseBase reads the address of a registry: scheme and host. Plain HTTP is
// used only where it is written.
func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "", u.Opaque != "":
		return nil, fmt.Errorf("%s is not the address of a registry: write https://host[:port], or http:// for plain HTTP", quote(s))
	case u.User != nil:
		return nil, fmt.Errorf("the address holds a user or password: write them as credentials: {username: NAME, password_file: FILE}")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.ForceQuery, strings.Contains(s, "#"):
		return nil, fmt.Errorf("%s has more than a host: write https://host[:port] only", quote(s))
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host)}, nil
}

// realms are further hosts that may be asked for tokens.
func (s *section) realms() []string {
	hosts := s.texts("realms")
	for i, h := range hosts {
		if h != "" && !hostGrammar.MatchString(h) {
			s.wrong("realms", "[%d]: %s is not a host: write host or host:port, without scheme or path", i, quote(h))
		}
	}
	return hosts
}

// refuseForWildcard refuses what belongs to one host. Anybody may have a host
// under a wildcard: no password goes there.
func (s *section) refuseForWildcard() {
	for _, k := range []struct{ key, why string }{
		{"default", "names without a registry need one host"},
		{"url", "its address is https:// and the host"},
		{"credentials", "they would be sent to every host that it matches"},
	} {
		if s.has(k.key) {
			s.wrong(k.key, "not for a wildcard: %s: give that host an entry of its own", k.why)
		}
	}
}

func (s *section) credentials(c *section, name string, u *upstream.Config) {
	if c.has("password") {
		c.get("password")
		c.wrong("password", "secrets are not values here: write it to a file and name that as password_file")
	}
	switch {
	case c.has("docker_config"):
		for _, key := range []string{"username", "password_file"} {
			if c.get(key) != nil {
				c.wrong(key, "does not go with docker_config: keep one of them")
			}
		}
		_, body := c.read("docker_config")
		if body == nil {
			break
		}
		var err error
		if u.Username, u.Password, err = dockerCredentials(body, name); err != nil {
			c.wrong("docker_config", "%v", err)
		}
	case !c.broken:
		c.get("docker_config")
		c.need("username", "name the user, or write docker_config: FILE instead")
		if !c.has("password") {
			c.need("password_file", "name the file that holds the password")
		}
		u.Username = c.text("username")
		_, body := c.read("password_file")
		u.Password = strings.TrimSuffix(strings.TrimSuffix(string(body), "\n"), "\r")
		switch {
		case body != nil && u.Password == "":
			c.wrong("password_file", "the file holds no password: write it there")
		case strings.ContainsAny(u.Password, "\r\n"):
			c.wrong("password_file", "the file has more than one line: write the password only")
		}
	}
	c.finish()
}

// dockerConfig is what is read of docker's config.json.
type dockerConfig struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
	CredsStore  string            `json:"credsStore"`
	CredHelpers map[string]string `json:"credHelpers"`
}

// dockerCredentials returns what docker's config.json holds for a registry.
func dockerCredentials(body []byte, name string) (username, password string, err error) {
	var d dockerConfig
	if err := json.Unmarshal(body, &d); err != nil {
		return "", "", fmt.Errorf("not a docker config.json: %w: write the file that docker login makes", err)
	}
	login := name
	keys := []string{name, "https://" + name, "https://" + name + "/", "https://" + name + "/v1/", "https://" + name + "/v2/"}
	if name == dockerHub {
		login = ""
		keys = append(keys, dockerHubAuth, "index.docker.io", "registry-1.docker.io", dockerHubURL)
	}
	for _, key := range keys {
		a, ok := d.Auths[key]
		switch {
		case !ok:
			continue
		case a.IdentityToken != "" || a.RegistryToken != "":
			return "", "", fmt.Errorf("it holds a token for %s, which is not supported: log in with a user and a password or access token", name)
		case a.Username != "" && a.Password != "":
			return a.Username, a.Password, nil
		case a.Auth != "":
			return basicAuth(a.Auth, name)
		}
	}
	for _, key := range keys {
		if h := d.CredHelpers[key]; h != "" {
			d.CredsStore = h
		}
	}
	if d.CredsStore != "" {
		return "", "", fmt.Errorf("the password for %s is in the credential helper %s, which a server does not ask: write username and password_file", name, quote(d.CredsStore))
	}
	return "", "", fmt.Errorf("it holds nothing for %s: run docker login %s, or write username and password_file", name, login)
}

func basicAuth(auth, name string) (username, password string, err error) {
	// The cause is left out: it could repeat a part of the secret.
	raw, decodeErr := base64.StdEncoding.DecodeString(auth)
	username, password, ok := strings.Cut(string(raw), ":")
	if decodeErr != nil || !ok || username == "" || password == "" {
		return "", "", fmt.Errorf("its auth for %s is not base64 of user:password: log in again", name)
	}
	return username, strings.TrimRight(password, "\x00"), nil
}

// matchesUpstream reports whether a registry's name is that of an upstream.
func matchesUpstream(all []Upstream, registry string) bool {
	for _, u := range all {
		domain, wildcard := strings.CutPrefix(u.Name, "*")
		label, found := strings.CutSuffix(registry, domain)
		if u.Name == registry || wildcard && found && label != "" && !strings.Contains(label, ".") {
			return true
		}
	}
	return false
}
