package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/proxy/proxytest"
)

const trusted = "lib/trusted"

// trustSite is a registry, a real notary-server with the real notary CLI, and
// the real Countersign, pulled from by crane.
type trustSite struct {
	t           *testing.T
	dir         string
	registry    *proxytest.Registry
	server      *exec.Cmd
	notaryURL   string
	proxy       string
	binary      string
	crane       string
	countersign *exec.Cmd
	rows        []string
}

func newTrustSite(t *testing.T) *trustSite {
	t.Helper()
	s := &trustSite{t: t, dir: t.TempDir(), registry: proxytest.New(t, false)}
	s.binary = build(t, "../..", "./cmd/countersign", "countersign")
	s.crane = build(t, "..", "github.com/google/go-containerregistry/cmd/crane", "crane")
	address, proxy := freeAddress(t), freeAddress(t)
	s.notaryURL, s.proxy = "http://"+address, proxy
	s.write("server.json", fmt.Sprintf(`{"server":{"http_addr":%q},"trust_service":{"type":"local","hostname":"","port":"","key_algorithm":"ed25519"},
"logging":{"level":"error"},"storage":{"backend":"memory"}}`, address))
	s.server = exec.Command("notary-server", "-config", filepath.Join(s.dir, "server.json"))
	startProcess(t, s.server)
	waitFor(t, "notary-server", func() bool { return answers(s.notaryURL + "/v2/") })
	return s
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func answers(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return true
}

func (s *trustSite) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	must(s.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// notary runs the real CLI against the server, or through the proxy.
func (s *trustSite) notary(server string, args ...string) string {
	s.t.Helper()
	pass := []string{"NOTARY_ROOT_PASSPHRASE=rootpassphrase", "NOTARY_TARGETS_PASSPHRASE=targetspassphrase",
		"NOTARY_SNAPSHOT_PASSPHRASE=snapshotpassphrase", "NOTARY_DELEGATION_PASSPHRASE=delegationpassphrase"}
	home := "owner"
	if server != s.notaryURL {
		home = "reader"
	}
	out, ok := command(s.t, pass, "notary", append([]string{"-s", server, "-d", filepath.Join(s.dir, home)}, args...)...)
	if !ok {
		s.t.Fatalf("notary %s: %s", strings.Join(args, " "), out)
	}
	return out
}

func (s *trustSite) owner(args ...string) { s.t.Helper(); s.notary(s.notaryURL, args...) }

const gun = upstreamHost + "/" + trusted

// delegate lays a repository out as docker trust does.
func (s *trustSite) delegate(gun, alice, bob string) {
	s.t.Helper()
	s.owner("init", "-p", gun)
	s.owner("key", "rotate", gun, "snapshot", "-r")
	s.owner("delegation", "add", "-p", gun, "targets/releases", alice, bob, "--all-paths")
	s.owner("delegation", "add", "-p", gun, "targets/alice", alice, "--all-paths")
	s.owner("delegation", "add", "-p", gun, "targets/bob", bob, "--all-paths")
}

// signer makes a delegation key with openssl, as the documentation of the
// notary CLI does.
func (s *trustSite) signer(name string) (certificate string) {
	s.t.Helper()
	key, cert := filepath.Join(s.dir, name+".key"), filepath.Join(s.dir, name+".crt")
	out, ok := command(s.t, nil, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "30", "-subj", "/CN="+name)
	if !ok {
		s.t.Fatal(out)
	}
	s.owner("key", "import", key, "--role", "user")
	return cert
}

func (s *trustSite) sign(tag string, d ocispec.Descriptor, roles ...string) {
	s.t.Helper()
	s.signIn(gun, tag, d, roles...)
}

func (s *trustSite) signIn(gun, tag string, d ocispec.Descriptor, roles ...string) {
	s.t.Helper()
	args := []string{"addhash", "-p", gun, tag, fmt.Sprint(d.Size), "--sha256", d.Digest.Encoded()}
	for _, r := range roles {
		args = append(args, "--roles", r)
	}
	s.owner(args...)
}

// start runs Countersign, which trusts the root that it sees first.
func (s *trustSite) start() {
	s.t.Helper()
	s.write("config.yaml", fmt.Sprintf(`
server: {listen: %q, admin: %q}
upstreams: {upstream.test: {url: %q, default: true}}
storage: {driver: {filesystem: {rootdirectory: content}}}
state: state
cache: {tags: 1s, refusals: 1s}
decisions: {log: decisions.jsonl}
verifiers:
  dct: {notary: {server: %q, pin: {first_use: true}, refresh: 1s}}
  two: {notary: {server: %q, pin: {first_use: true}, refresh: 1s, signers: {at_least: 2, of: [targets/alice, targets/bob]}}}
rules:
  - {name: resolved, match: upstream.test/lib/resolved, require: dct, resolve: trust}
  - {name: both, match: upstream.test/lib/both, require: two}
  - {name: trusted, match: upstream.test/lib/*, require: dct}
`, s.proxy, freeAddress(s.t), s.registry.URL, s.notaryURL, s.notaryURL))
	s.run()
}

// run starts Countersign with the configuration written last.
func (s *trustSite) run() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(s.t, err)
	s.countersign = exec.Command(s.binary, "serve", "--config", filepath.Join(s.dir, "config.yaml"))
	s.countersign.Stdout, s.countersign.Stderr = log, log
	startProcess(s.t, s.countersign)
	waitFor(s.t, "countersign", func() bool { return answers("http://" + s.proxy + "/v2/") })
}

func (s *trustSite) restart() {
	s.t.Helper()
	must(s.t, s.countersign.Process.Kill())
	_ = s.countersign.Wait()
	s.start()
}

// expect pulls with crane after the refresh interval; reason "" is success.
func (s *trustSite) expect(operation, reference, reason string) {
	s.t.Helper()
	time.Sleep(2500 * time.Millisecond)
	name := s.proxy + "/" + upstreamHost + "/" + reference
	out, ok := command(s.t, nil, s.crane, "pull", "--insecure", name, filepath.Join(s.t.TempDir(), "image.tar"))
	result := "pulled"
	if !ok {
		result = "403 " + reason
	}
	if ok != (reason == "") || !ok && !strings.Contains(out, reason+": ") {
		s.t.Errorf("%s: %s: got %v, want reason %q\n%s", operation, reference, ok, reason, out)
		result = "NOT AS EXPECTED"
	}
	if at := strings.Index(reference, "@"); at >= 0 {
		reference = reference[:at] + " by digest"
	}
	s.rows = append(s.rows, fmt.Sprintf("%-62s %-24s %s", operation, reference, result))
}

// Every operation at the real server, and what a real client gets through the
// proxy after it.
func TestContentTrust(t *testing.T) {
	needed := []string{"notary", "notary-server", "openssl"}
	for _, name := range needed {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing: test/scripts/install-clients.sh installs it on Debian", name)
			}
			t.Logf("the trust server's test is left out: %s is missing", name)
			return
		}
	}
	s := newTrustSite(t)
	one := s.registry.Image(t, trusted, [][]byte{[]byte("one")}, "v1", "unlisted")
	two := s.registry.Image(t, trusted, [][]byte{[]byte("two")})
	s.start()
	s.expect("no metadata at the server", trusted+":v1", "unsigned")

	alice, bob := s.signer("alice"), s.signer("bob")
	s.delegate(gun, alice, bob)
	s.expect("notary init, delegations added", trusted+":v1", "unsigned")
	s.sign("v1", one, "targets/releases", "targets/alice")
	s.expect("alice signs v1", trusted+":v1", "")
	s.expect("a tag that nobody signed", trusted+":unlisted", "unsigned")
	s.expect("the signed digest", trusted+"@"+one.Digest.String(), "")
	s.expect("another digest", trusted+"@"+two.Digest.String(), "unsigned")
	s.registry.Tag(trusted, "v1", two.Digest)
	s.expect("v1 moved at the registry", trusted+":v1", "digest-mismatch")
	s.registry.Tag(trusted, "v1", one.Digest)
	s.expect("v1 moved back", trusted+":v1", "")
	for _, role := range []string{"targets", "root"} {
		s.owner("key", "rotate", gun, role)
		s.expect("notary key rotate "+role, trusted+":v1", "")
	}
	s.owner("key", "rotate", gun, "snapshot", "-r")
	s.expect("notary key rotate snapshot -r", trusted+":v1", "")

	s.passthrough()
	s.inspect(one.Digest)

	s.resolved(alice, bob)
	s.both(alice, bob)

	s.owner("remove", "-p", gun, "v1", "--roles", "targets/releases", "--roles", "targets/alice")
	s.expect("v1 removed at the server", trusted+":v1", "unsigned")
	s.expect("its digest, admitted before", trusted+"@"+one.Digest.String(), "unsigned")
	s.blobRefused(one)

	s.sign("v1", one, "targets/releases", "targets/alice")
	s.expect("signed again", trusted+":v1", "")
	must(t, s.server.Process.Kill())
	_ = s.server.Wait()
	s.expect("the trust server is down", trusted+":v1", "")
	s.restart()
	s.expect("and the proxy restarted", trusted+":v1", "")
	t.Log("\n" + strings.Join(s.rows, "\n"))
}

// passthrough: the real CLI, which verifies everything itself, works through
// the proxy.
func (s *trustSite) passthrough() {
	s.t.Helper()
	out := s.notary("http://"+s.proxy, "list", gun)
	if !strings.Contains(out, "v1") || !strings.Contains(out, "targets/releases") {
		s.t.Errorf("notary list through the proxy: got\n%s", out)
	}
	s.t.Logf("notary list through the proxy:\n%s", out)
	s.rows = append(s.rows, fmt.Sprintf("%-62s %-24s %s", "notary list through the proxy", "", "lists v1"))
}

// inspect shows what notary list does.
func (s *trustSite) inspect(want digest.Digest) {
	s.t.Helper()
	cmd := exec.Command(s.binary, "inspect", "--config", filepath.Join(s.dir, "config.yaml"), gun+":v1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), want.String()) || !strings.Contains(string(out), "targets/alice") {
		s.t.Errorf("inspect: got %v, %s%s", err, out, stderr.String())
	}
	s.t.Logf("countersign inspect:\n%s", out)
}

func (s *trustSite) blobRefused(image ocispec.Descriptor) {
	s.t.Helper()
	var m ocispec.Manifest
	must(s.t, json.Unmarshal(s.registry.Manifest(trusted, image.Digest), &m))
	resp, err := http.Get("http://" + s.proxy + "/v2/" + gun + "/blobs/" + m.Layers[0].Digest.String())
	must(s.t, err)
	resp.Body.Close()
	result := "403 not-referenced"
	if resp.StatusCode != http.StatusForbidden {
		s.t.Errorf("a blob of an image that was withdrawn: got %s", resp.Status)
		result = "NOT AS EXPECTED"
	}
	s.rows = append(s.rows, fmt.Sprintf("%-62s %-24s %s", "a layer of it, admitted before", "", result))
}

// resolved: with resolve: trust the signed digest is what the tag means, and
// what is served, whatever the registry says.
func (s *trustSite) resolved(alice, bob string) {
	const repository = "lib/resolved"
	old := s.registry.Image(s.t, repository, [][]byte{[]byte("signed")}, "v1")
	s.delegate(upstreamHost+"/"+repository, alice, bob)
	s.signIn(upstreamHost+"/"+repository, "v1", old, "targets/releases", "targets/alice")
	moved := s.registry.Image(s.t, repository, [][]byte{[]byte("moved")}, "v1")
	s.expect("resolve: trust, v1 moved at the registry", repository+":v1", "")
	out, ok := command(s.t, nil, s.crane, "digest", "--insecure", s.proxy+"/"+upstreamHost+"/"+repository+":v1")
	if got := strings.TrimSpace(out); !ok || got != old.Digest.String() || got == moved.Digest.String() {
		s.t.Errorf("resolve: trust: got %s, want the signed %s", out, old.Digest)
	}
}

// both: a tag that has to be signed by two named signers.
func (s *trustSite) both(alice, bob string) {
	const repository = "lib/both"
	image := s.registry.Image(s.t, repository, [][]byte{[]byte("both")}, "v1")
	s.delegate(upstreamHost+"/"+repository, alice, bob)
	s.signIn(upstreamHost+"/"+repository, "v1", image, "targets/releases", "targets/alice")
	s.expect("two signers required, alice signs", repository+":v1", "below-threshold")
	s.signIn(upstreamHost+"/"+repository, "v1", image, "targets/bob")
	s.expect("and bob", repository+":v1", "")
}
