package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign"
	"github.com/countersign/countersign/policy"
)

// trustRoots returns a directory with the files that configurations name.
func trustRoots(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"team", "qa", "release", "server", "other"} {
		public, private, certificate := keyFiles(t)
		write(name+".pub", public)
		write(name+".key", private)
		write(name+".crt", certificate)
	}
	write("garbage.pub", "no key")
	write("pinned.txt", "# base images\ndocker.io/library/alpine@sha256:"+strings.Repeat("a", 64)+"\n")
	write("badpins.txt", "docker.io/library/BAD\n\ndocker.io/library/alpine\n")
	write("password", "hunter2\n")
	write("blank", "\n")
	write("docker.json", `{"auths": {
		"https://index.docker.io/v1/": {"auth": "aHViOmh1bnRlcjI6Mw=="},
		"plain.example": {"username": "u", "password": "hunter2"},
		"https://url.example": {"auth": "dXJsOmh1bnRlcjI="},
		"helper.example": {},
		"token.example": {"auth": "dTo=", "identitytoken": "hunter2"},
		"garbled.example": {"auth": "hunter2"}},
		"credHelpers": {"helper.example": "pass"}}`)
	return dir
}

// keyFiles returns a public key, its private key and a certificate, in PEM.
func keyFiles(t testing.TB) (public, private, certificate string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotAfter: time.Now().Add(100 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	certificate = encode("CERTIFICATE", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	private = encode("PRIVATE KEY", der, err)
	der, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	return encode("PUBLIC KEY", der, err), private, certificate
}

func parse(t testing.TB, dir, body string) *Config {
	t.Helper()
	c, err := parseConfig(filepath.Join(dir, "config.yaml"), []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const wholeConfig = `
server:
  listen: 0.0.0.0:443
  admin: "[::1]:9000"
  tls: {certificate: server.crt, key: server.key, client_ca: other.crt}
upstreams:
  docker.io: {default: true, credentials: {docker_config: docker.json}}
  registry.internal:5000: {url: "http://127.0.0.1:5002", credentials: {username: puller, password_file: password}}
  plain.example: {credentials: {docker_config: docker.json}, ca: other.crt, realms: [auth.example, "auth.example:8443"]}
  url.example: {credentials: {docker_config: docker.json}}
  "*.azurecr.io": {}
storage: {driver: {filesystem: {rootdirectory: ./content}}, limit: 2TB}
state: /var/lib/countersign/state
cache: {decisions: 5, refusals: 1s, tags: 0s, max_stale: 1d12h}
decisions: {log: decisions.jsonl, keep: 7d}
verifiers:
  team: {sigstore: {keys: [{file: team.pub}, {file: qa.pub, name: QA, not_before: 2025-01-01, not_after: 2035-12-31}], at_least: 2, transparency_log: optional}}
  release: {sigstore: {keys: [{file: release.pub}], transparency_log: optional}}
  pinned: {digests: {file: pinned.txt}}
rules:
  - {name: app, match: "plain.example/**", require: {all: [team, {any: [pinned, release]}]}}
  - {name: two, match: docker.io/library/*, require: {at_least: 2, of: [team, pinned, release]}}
  - {name: agreed, match: docker.io/acme/*, require: {agree: [team, pinned]}}
  - {name: old, match: url.example/old/*, unsigned: allow, why: "T-12: moving", until: 2099-01-31, owner: platform}
`

func TestParseConfig(t *testing.T) {
	dir := trustRoots(t)
	c := parse(t, dir, wholeConfig)
	check := func(what string, got, want any) {
		if got != want {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	check("listen", c.Server.Listen, "0.0.0.0:443")
	check("admin", c.Server.Admin, "[::1]:9000")
	check("certificate", c.Server.TLS.Certificate, filepath.Join(dir, "server.crt"))
	check("key", c.Server.TLS.Key, filepath.Join(dir, "server.key"))
	check("clients' CA is set", c.Server.TLS.ClientCA != nil, true)
	check("storage", c.Storage, Storage{Driver: "filesystem", RootDirectory: filepath.Join(dir, "content"), Limit: 2e12})
	check("state", c.State, "/var/lib/countersign/state")
	check("cache", c.Cache, CacheConfig{Decisions: 5, Refusals: time.Second, Tags: 0, MaxStale: 36 * time.Hour})
	check("decisions", c.Decisions, Decisions{Log: filepath.Join(dir, "decisions.jsonl"), Keep: 7 * 24 * time.Hour})

	var upstreams []string
	for _, u := range c.Upstreams {
		upstreams = append(upstreams, strings.Join([]string{u.Name, u.URL.String(), u.Username, u.Password}, " "))
	}
	check("upstreams", strings.Join(upstreams, "\n"), `docker.io https://registry-1.docker.io hub hunter2:3
registry.internal:5000 http://127.0.0.1:5002 puller hunter2
plain.example https://plain.example u hunter2
url.example https://url.example url hunter2
*.azurecr.io https://*.azurecr.io  `)
	check("default", c.Upstreams[0].Default && !c.Upstreams[1].Default, true)
	check("CA", c.Upstreams[2].CA != nil && c.Upstreams[0].CA == nil, true)
	check("realms", strings.Join(c.Upstreams[2].RealmHosts, " "), "auth.example auth.example:8443")

	team := c.Verifiers["team"].Sigstore
	check("at_least", team.AtLeast, 2)
	check("key names", team.Keys[0].Name+" "+team.Keys[1].Name, "team QA")
	check("not_before", team.Keys[1].NotBefore, time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC))
	check("not_after", team.Keys[1].NotAfter, time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC).Add(-time.Nanosecond))
	verifiers, err := c.verifiers(nil)
	check("verifiers", len(verifiers), 3)
	check("error", err, nil)
}

func TestParseRules(t *testing.T) {
	c := parse(t, trustRoots(t), wholeConfig)
	var rules []string
	for _, r := range c.Policy.Rules() {
		rules = append(rules, r.Name+" "+r.Match.String()+" "+r.Require.String())
	}
	want := []string{
		"app plain.example/** {all: [team, {any: [pinned, release]}]}",
		"two docker.io/library/* {at_least: 2, of: [team, pinned, release]}",
		"agreed docker.io/acme/* {agree: [team, pinned]}",
		"old url.example/old/* {at_least: 0, of: []}",
	}
	if !slices.Equal(rules, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(rules, "\n"), strings.Join(want, "\n"))
	}
	got := *c.Policy.Rules()[3].Exempt
	until := time.Date(2099, 2, 1, 0, 0, 0, 0, time.UTC).Add(-time.Nanosecond)
	if got != (policy.Exemption{Why: "T-12: moving", Owner: "platform", Until: until}) {
		t.Errorf("got exemption %+v", got)
	}
}

func TestDefaults(t *testing.T) {
	c := parse(t, "/etc/countersign", "upstreams: {ghcr.io: {}}\nverifiers:\nrules:\n")
	if c.Server != (Server{Listen: "127.0.0.1:5000", Admin: "127.0.0.1:5001"}) {
		t.Errorf("got server %+v", c.Server)
	}
	if c.Storage != (Storage{Driver: "filesystem", RootDirectory: "/etc/countersign/data/content", Limit: 50 << 30}) {
		t.Errorf("got storage %+v", c.Storage)
	}
	if c.State != "/etc/countersign/data/state" || c.Decisions != (Decisions{Keep: 30 * 24 * time.Hour}) {
		t.Errorf("got state %q, decisions %+v", c.State, c.Decisions)
	}
	if c.Cache != (CacheConfig{1_000_000, 30 * time.Second, time.Minute, 24 * time.Hour}) {
		t.Errorf("got cache %+v", c.Cache)
	}
	if _, err := c.Policy.For("ghcr.io/a"); err == nil {
		t.Error("a policy without rules admits")
	}
}

func TestShippedConfig(t *testing.T) {
	c, err := parseConfig(builtinName, countersign.Config())
	if err != nil {
		t.Fatal(err)
	}
	if !isLoopback(c.Server.Listen) || !isLoopback(c.Server.Admin) {
		t.Errorf("it listens on %s and %s, want this machine only", c.Server.Listen, c.Server.Admin)
	}
	if _, err := c.Policy.For("docker.io/library/alpine"); err == nil {
		t.Error("it has a rule; want everything refused")
	}
	if c.Server.TLS != nil || c.Storage.RootDirectory != "data/content" || c.State != "data/state" {
		t.Errorf("got %+v, %+v, %s", c.Server, c.Storage, c.State)
	}
}

// The shipped examples are uncommented and parsed: they are the reference.
func TestShippedExamples(t *testing.T) {
	dir := trustRoots(t)
	lines := strings.Split(string(countersign.Config()), "\n")
	example := regexp.MustCompile(`^( *)# ((?: {2})*(?:- \{|[a-z0-9"*._:-]+:(?: |$)).*)$`)
	for i, l := range lines {
		if m := example.FindStringSubmatch(l); m != nil && m[1] != "" && !strings.Contains(m[2], "{all: [a, b]}") {
			lines[i] = m[1] + m[2]
		}
	}
	body := strings.Join(lines, "\n")
	for _, replace := range [][2]string{{"tls/server", "server"}, {"tls/clients.crt", "other.crt"}, {"tls/registry-ca.crt", "other.crt"},
		{"secrets/registry.password", "password"}, {"keys/team-2025.pub", "qa.pub"}, {"keys/team.pub", "team.pub"},
		{`  registry.example: {credentials: {docker_config: secrets/config.json}}`, `  plain.example: {credentials: {docker_config: docker.json}}`}} {
		if !strings.Contains(body, replace[0]) {
			t.Errorf("the example %s is gone", replace[0])
		}
		body = strings.ReplaceAll(body, replace[0], replace[1])
	}
	c, err := parseConfig(filepath.Join(dir, "config.yaml"), []byte(body))
	if err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	if len(c.Upstreams) != 8 || len(c.Verifiers) != 2 || len(c.Policy.Rules()) != 3 || c.Server.TLS == nil {
		t.Errorf("got %d upstreams, %d verifiers, %d rules: not every example was read", len(c.Upstreams), len(c.Verifiers), len(c.Policy.Rules()))
	}
}

func TestLoadConfig(t *testing.T) {
	t.Chdir(t.TempDir())
	c, err := loadConfig("")
	if err != nil || c.Path != builtinName {
		t.Fatalf("without a file: got %v, %v, want the built-in one", c, err)
	}
	if err := os.WriteFile(configName, []byte("upstreams: {ghcr.io: {}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err = loadConfig(""); err != nil || c.Path != configName || c.State != "data/state" {
		t.Errorf("with a file: got %+v, %v, want %s", c, err, configName)
	}
	for _, path := range []string{"none.yaml", "."} {
		if _, err := loadConfig(path); err == nil || !strings.HasPrefix(err.Error(), "reading the configuration: "+path) {
			t.Errorf("%s: got %v, want an error that names it", path, err)
		}
	}
}

func TestFingerprints(t *testing.T) {
	dir := trustRoots(t)
	prints := func(body string) []string {
		var all []string
		for _, r := range parse(t, dir, body).Policy.Rules() {
			all = append(all, r.Fingerprint)
		}
		return all
	}
	base := prints(wholeConfig)
	if again := prints("# a comment\n" + strings.Replace(wholeConfig, "limit: 2TB", "limit: 1TB", 1)); !slices.Equal(base, again) {
		t.Error("a change that no decision rests on changed a fingerprint")
	}
	if len(slices.Compact(slices.Sorted(slices.Values(base)))) != len(base) {
		t.Error("two rules share a fingerprint")
	}
	// Of the four rules, which must forget their decisions?
	for _, test := range []struct {
		name, old, new string
		want           [4]bool
	}{
		{"match", "docker.io/library/*", "docker.io/library/**", [4]bool{1: true}},
		{"threshold", "at_least: 2, of", "at_least: 3, of", [4]bool{1: true}},
		{"kind", "agree: [team", "all: [team", [4]bool{2: true}},
		{"exemption", "2099-01-31", "2099-01-30", [4]bool{3: true}},
		{"verifier's threshold", "at_least: 2, tr", "at_least: 1, tr", [4]bool{true, true, true, false}},
		{"key's end", "2035-12-31", "2035-12-30", [4]bool{true, true, true, false}},
		{"key", "release.pub", "server.pub", [4]bool{true, true, false, false}},
	} {
		if !strings.Contains(wholeConfig, test.old) {
			t.Fatalf("%s: nothing to replace", test.name)
		}
		var got [4]bool
		for i, p := range prints(strings.Replace(wholeConfig, test.old, test.new, 1)) {
			got[i] = p != base[i]
		}
		if got != test.want {
			t.Errorf("%s: changed %v, want %v", test.name, got, test.want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "pinned.txt"), []byte("docker.io/library/alpine@sha256:"+strings.Repeat("b", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	if now := prints(wholeConfig); now[2] == base[2] || now[3] != base[3] {
		t.Error("the contents of a verifier's file are not in the fingerprint")
	}
}

func TestWarnings(t *testing.T) {
	day := func(d int) string { return time.Now().UTC().AddDate(0, 0, d).Format(time.DateOnly) }
	c := parse(t, trustRoots(t), `
server: {listen: ":5000", admin: "10.0.0.1:5001"}
upstreams:
  docker.io: {}
  "*.example.com": {}
  plain.example: {url: "http://plain.example", credentials: {docker_config: docker.json}}
verifiers:
  team: {sigstore: {keys: [{file: team.pub, name: team, not_after: `+day(3)+`}], transparency_log: optional}}
  spare: {digests: {file: pinned.txt}}
rules:
  - {name: a, match: docker.io/acme/**, require: team}
  - {name: b, match: docker.io/acme/app, require: team}
  - {name: c, match: docker.io/alpine, require: team}
  - {name: d, match: ghcr.io/acme/*, require: team}
  - {name: e, match: docker.io/library/*, require: team}
  - {name: f, match: docker.io/library/alp*, require: team}
  - {name: g, match: docker.io/library/**, require: team}
  - {name: h, match: a.example.com/x, unsigned: allow, why: moving, until: `+day(3)+`}
  - {name: i, match: b.example.com/x, unsigned: allow, why: moving, until: `+day(-3)+`}
  - {name: j, match: c.example.com/x, unsigned: allow, why: moving, until: `+day(300)+`}
  - {name: k, match: a.b.example.com/x, require: team}
`)
	want := []string{
		"server.listen: :5000 is open to other hosts",
		"server.admin: 10.0.0.1:5001 is open to other hosts",
		"upstreams.plain.example: the password goes over the network in the clear",
		`verifiers.team.sigstore.keys[0]: key "team" ends ` + day(3),
		`rule "b" can never apply: rule "a" (docker.io/acme/**) matches first`,
		`rule "c" can never apply: on Docker Hub every name has two parts: write docker.io/library/alpine`,
		`rule "d" can never apply: no upstream is named "ghcr.io"`,
		`rule "f" can never apply: rule "e" (docker.io/library/*) matches first`,
		`rule "h": its exemption ends soon: a.example.com/x is served without signatures until ` + day(3),
		`rule "i": its exemption ended ` + day(-3),
		`rule "j": c.example.com/x is served without signatures until ` + day(300),
		`rule "k" can never apply: no upstream is named "a.b.example.com"`,
		`verifier "spare" is not used by any rule`,
	}
	for i := range max(len(c.Warnings), len(want)) {
		switch {
		case i >= len(c.Warnings):
			t.Errorf("got nothing, want %q", want[i])
		case i >= len(want):
			t.Errorf("got %q, want nothing more", c.Warnings[i])
		case !strings.HasPrefix(c.Warnings[i], want[i]):
			t.Errorf("got %q, want %q", c.Warnings[i], want[i])
		}
	}
}

// Whatever a pattern shadows it must really match: the warning says "never".
func TestShadowedByIsTrue(t *testing.T) {
	patterns := []string{"a/**", "a/*", "a/b", "a/b/**", "a/b/*", "a/b*", "a/**/c", "a/*/c", "**", "a*/b", "a/b/c", "*/b", "a/b**"}
	names := []string{"a/b", "a/bb", "a/b/c", "a/b/c/d", "a/x/c", "a/x/y/c", "ab/b", "b/b", "a/c", "b/c"}
	for _, first := range patterns {
		for _, second := range patterns {
			if shadowedBy(map[string]string{first: "first"}, second) == "" {
				continue
			}
			var p, q policy.Pattern
			if err := p.UnmarshalText([]byte(first)); err != nil {
				t.Fatal(err)
			}
			if err := q.UnmarshalText([]byte(second)); err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if q.Matches(name) && !p.Matches(name) {
					t.Errorf("%s is said to shadow %s, but not for %s", first, second, name)
				}
			}
		}
	}
}

func TestParseValues(t *testing.T) {
	for text, want := range map[string]time.Duration{"0s": 0, "0d": 0, "30s": 30 * time.Second, "1h30m": 90 * time.Minute,
		"30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "36500d": 36500 * 24 * time.Hour,
		"": -1, "d": -1, "1": -1, "1.5d": -1, "-1d": -1, "-1s": -1, "1d-1s": -1, "36501d": -1, "9999999d": -1, "1d1": -1, "1w": -1} {
		got, err := parseDuration(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("duration %q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]int64{"1B": 1, "2KB": 2000, "2KiB": 2048, "3MB": 3e6, "3MiB": 3 << 20, "50GiB": 50 << 30,
		"5GB": 5e9, "1TB": 1e12, "1TiB": 1 << 40, "": 0, "5": 0, "0B": 0, "-1B": 0, "1.5GiB": 0, "1gib": 0, "1 GiB": 0,
		"9000000TiB": 0, "9223372036854775807B": 1<<63 - 1, "9223372036854775808B": 0} {
		got, err := parseSize(text)
		if (err != nil) != (want == 0) || got != want {
			t.Errorf("size %q: got %d, %v, want %d", text, got, err, want)
		}
	}
}

func TestFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long")
	if err := os.WriteFile(long, make([]byte, 11), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(long, 10); err == nil {
		t.Error("a file over the limit was read")
	}
	if body, err := readFile(long, 11); err != nil || len(body) != 11 {
		t.Errorf("a file at the limit: got %d bytes, %v", len(body), err)
	}
	if _, err := readFile("/dev/zero", 10); err == nil {
		t.Error("a device was read")
	}
}
