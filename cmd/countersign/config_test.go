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
	verifiers, err := c.verifiers(nil, nil)
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
	authority, err := filepath.Abs("../../verify/notation/testdata/real/ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	for _, replace := range [][2]string{{"tls/server", "server"}, {"tls/clients.crt", "other.crt"}, {"tls/registry-ca.crt", "other.crt"},
		{"secrets/registry.password", "password"}, {"keys/team-2025.pub", "qa.pub"}, {"keys/team.pub", "team.pub"}, {"certs/acme.pem", authority},
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
	if len(c.Upstreams) != 8 || len(c.Verifiers) != 4 || len(c.Policy.Rules()) != 4 || c.Server.TLS == nil {
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

func TestParseValues(t *testing.T) {
	for text, want := range map[string]time.Duration{"0s": 0, "0d": 0, "30s": 30 * time.Second, "1h30m": 90 * time.Minute,
		"30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "36500d": 36500 * 24 * time.Hour,
		"": -1, "d": -1, "1": -1, "1.5d": -1, "-1d": -1, "-1s": -1, "1d-1s": -1, "36501d": -1, "9999999d": -1, "1d1": -1, "1w": -1} {
		got, err := parseDuration(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("duration %q: got %v, %v, want %v", text, got, err, want)
		}
		if again, err := parseDuration(formatDuration(got)); err != nil || again != got {
			t.Errorf("duration %q: written as %q and read as %v, %v", text, formatDuration(got), again, err)
		}
	}
	for text, want := range map[string]int64{"1B": 1, "2KB": 2000, "2KiB": 2048, "3MB": 3e6, "3MiB": 3 << 20, "50GiB": 50 << 30,
		"5GB": 5e9, "1TB": 1e12, "1TiB": 1 << 40, "": 0, "5": 0, "0B": 0, "-1B": 0, "1.5GiB": 0, "1gib": 0, "1 GiB": 0,
		"9000000TiB": 0, "9223372036854775807B": 1<<63 - 1, "9223372036854775808B": 0} {
		got, err := parseSize(text)
		if (err != nil) != (want == 0) || got != want {
			t.Errorf("size %q: got %d, %v, want %d", text, got, err, want)
		}
		if again, err := parseSize(formatSize(got)); got > 0 && (err != nil || again != got) {
			t.Errorf("size %q: written as %q and read as %d, %v", text, formatSize(got), again, err)
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
