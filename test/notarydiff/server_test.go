package notarydiff

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

// site is a real notary-server v0.7.0 with memory storage, and the notary CLI.
type site struct {
	t   *testing.T
	url string
	dir string
}

func startSite(t *testing.T) *site {
	t.Helper()
	for _, tool := range []string{"notary", "notary-server"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed: test/scripts/install-clients.sh does it on Debian", tool)
			}
			t.Skipf("%s is not installed (Debian has both in the package notary)", tool)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	s := &site{t: t, url: "http://" + address, dir: t.TempDir()}
	config := fmt.Sprintf(`{"server":{"http_addr":%q},"trust_service":{"type":"local","hostname":"","port":"","key_algorithm":"ed25519"},
		"logging":{"level":"error"},"storage":{"backend":"memory"}}`, address)
	s.write("server.json", []byte(config))
	server := exec.Command("notary-server", "-config", filepath.Join(s.dir, "server.json"))
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for range 100 {
		resp, err := http.Get(s.url + "/v2/")
		if err == nil {
			_ = resp.Body.Close()
			return s
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("notary-server does not answer")
	return nil
}

func (s *site) write(name string, content []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// notary runs the CLI as the repository's owner.
func (s *site) notary(args ...string) {
	s.t.Helper()
	s.notaryAs("owner", args...)
}

// notaryAs runs the CLI as somebody with a home, and so keys, of his own.
func (s *site) notaryAs(who string, args ...string) {
	s.t.Helper()
	c := exec.Command("notary", append([]string{"-s", s.url, "-d", filepath.Join(s.dir, who)}, args...)...)
	c.Env = append(os.Environ(), "NOTARY_ROOT_PASSPHRASE=rootpassphrase", "NOTARY_TARGETS_PASSPHRASE=targetspassphrase",
		"NOTARY_SNAPSHOT_PASSPHRASE=snapshotpassphrase", "NOTARY_DELEGATION_PASSPHRASE=delegationpassphrase")
	if out, err := c.CombinedOutput(); err != nil {
		s.t.Fatalf("notary %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// signer makes a delegation key with its certificate and gives it to the CLI.
func (s *site) signer(name string) (certificate, id string) {
	s.t.Helper()
	k, err := notarytest.NewKey("ecdsa")
	if err != nil {
		s.t.Fatal(err)
	}
	certified, err := k.Certify(notarytest.Certificate(name, time.Now().Add(-time.Hour)), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k.Private)
	if err != nil {
		s.t.Fatal(err)
	}
	key := s.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	s.notaryAs(name, "key", "import", key, "--role", "user")
	return s.write(name+".crt", certified.Public), k.ID() // the CLI goes by the bare key
}

// sign publishes a tag as docker trust sign does.
func (s *site) sign(who, tag, content string, roles ...string) {
	s.t.Helper()
	args := []string{"addhash", "-p", gun, tag, fmt.Sprint(len(content)), "--sha256", target(content).Digest.Encoded()}
	for _, r := range roles {
		args = append(args, "--roles", r)
	}
	s.notaryAs(who, args...)
}

// proxyView is a long-lived verifier, and a new one each time with its state
// and without.
type proxyView struct {
	t    *testing.T
	conf notary.Config
	url  string
	v    *notary.Verifier
	kept *notarytest.State
}

func (p *proxyView) open(state notary.State) *notary.Verifier {
	p.t.Helper()
	remote, err := notary.NewRemote(notary.RemoteConfig{Server: p.url})
	if err != nil {
		p.t.Fatal(err)
	}
	v, err := notary.New(p.conf, remote, state)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = v.Close() })
	return v
}

// expect asks all three; an empty reason is an admission.
func (p *proxyView) expect(operation, tag, content string, want verify.Reason) {
	p.t.Helper()
	time.Sleep(p.conf.Refresh + 100*time.Millisecond)
	for name, v := range map[string]*notary.Verifier{"running": p.v, "restarted": p.open(p.kept), "new": p.open(&notarytest.State{})} {
		got := outcome(v, p.t, tag, content)
		if got != want {
			p.t.Errorf("%s: %s as %q, verifier %s: got %q, want %q", operation, tag, content, name, got, want)
		}
	}
	p.t.Logf("%-46s %s = %-4s -> %s", operation, tag, content, cmp.Or(want, "admitted"))
}

func outcome(v *notary.Verifier, t *testing.T, tag, content string) verify.Reason {
	t.Helper()
	_, err := v.Verify(t.Context(), verify.Subject{Registry: "registry.test", Repository: "team/app", Tag: tag,
		Digest: target(content).Digest, Size: target(content).Size})
	var refusal *verify.Refusal
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refusal):
		return refusal.Reason
	}
	return verify.Reason("undecided: " + err.Error())
}

func TestRealServer(t *testing.T) {
	s := startSite(t)
	p := &proxyView{t: t, url: s.url, kept: &notarytest.State{}, conf: notary.Config{Pin: notary.Pin{FirstUse: true}, Refresh: time.Second}}
	p.v = p.open(p.kept)
	p.expect("nothing at the server", "v1", "one", verify.Unsigned)

	alice, aliceID := s.signer("alice")
	bob, _ := s.signer("bob")
	s.notary("init", "-p", gun)
	s.notary("key", "rotate", gun, "snapshot", "-r")
	p.expect("notary init", "v1", "one", verify.Unsigned)
	s.notary("delegation", "add", "-p", gun, "targets/releases", alice, bob, "--all-paths")
	s.notary("delegation", "add", "-p", gun, "targets/alice", alice, "--all-paths")
	s.notary("delegation", "add", "-p", gun, "targets/bob", bob, "--all-paths")
	p.expect("signers added", "v1", "one", verify.Unsigned)

	s.sign("alice", "v1", "one", "targets/releases", "targets/alice")
	p.expect("alice signs v1", "v1", "one", "")
	p.expect("alice signs v1", "v1", "two", verify.DigestMismatch)
	p.expect("alice signs v1", "v2", "one", verify.Unsigned)
	s.sign("bob", "v1", "two", "targets/releases", "targets/bob")
	p.expect("bob signs v1 anew", "v1", "two", "")
	p.expect("bob signs v1 anew", "v1", "one", verify.DigestMismatch)

	for _, role := range []string{"targets", "root"} {
		s.notary("key", "rotate", gun, role)
		p.expect("notary key rotate "+role, "v1", "two", "")
	}
	s.notary("key", "rotate", gun, "timestamp", "-r")
	p.expect("notary key rotate timestamp -r", "v1", "two", "")
	s.notary("key", "rotate", gun, "snapshot", "-r")
	p.expect("notary key rotate snapshot -r", "v1", "two", "")

	s.notaryAs("bob", "remove", "-p", gun, "v1", "--roles", "targets/releases")
	p.expect("v1 removed", "v1", "two", verify.Unsigned)
	s.sign("alice", "v3", "one", "targets/releases", "targets/alice")
	p.expect("alice signs v3", "v3", "one", "")
	s.notary("delegation", "remove", "-p", gun, "targets/releases", aliceID, "--yes")
	p.expect("alice's key removed from releases", "v3", "one", verify.UntrustedSigner)
	s.notaryAs("bob", "witness", "-p", gun, "targets/releases")
	p.expect("bob signs releases anew", "v3", "one", "")
	s.notary("delete", gun, "--remote")
	for name, want := range map[*notary.Verifier]verify.Reason{p.v: "", p.open(p.kept): "", p.open(&notarytest.State{}): verify.Unsigned} {
		if got := outcome(name, t, "v3", "one"); got != want {
			t.Errorf("deleted at the server: got %q, want %q", got, want)
		}
	}
}
