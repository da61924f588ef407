package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/proxy/proxytest"
	"github.com/countersign/countersign/test/fixtures"
)

// The names of the emulated hosts, each on a loopback address of its own.
const (
	upstreamHost = "upstream.test"
	proxyHost    = "proxy.test"
	cutHost      = "cut.test"
)

var hosts = map[string]string{upstreamHost: "127.0.0.2", "registry-1.docker.io": "127.0.0.2", "docker.io": "127.0.0.2", "index.docker.io": "127.0.0.2",
	proxyHost: "127.0.0.3", cutHost: "127.0.0.4"}

// site is an upstream that logs, and the real Countersign before it.
type site struct {
	dir       string
	authority *authority
	upstream  *proxytest.Registry
	set       fixtures.Set
	cutter    *cutter
}

// newSite starts everything on the emulated hosts. binary is countersign.
func newSite(t *testing.T, binary string) *site {
	t.Helper()
	s := &site{dir: t.TempDir(), upstream: proxytest.NewRegistry(true)}
	s.authority = newAuthority(t, s.dir)
	var err error
	s.set, err = fixtures.Load(s.upstream)
	must(t, err)
	serveTLS(t, hosts[upstreamHost], s.upstream, s.authority.tls(t, s.dir, "upstream", upstreamHost, "registry-1.docker.io", "docker.io", "index.docker.io"))
	s.startProxy(t, binary)
	s.cutter = newCutter(s.authority)
	serveTLS(t, hosts[cutHost], s.cutter, s.authority.tls(t, s.dir, "cut", cutHost))
	return s
}

func serveTLS(t *testing.T, ip string, h http.Handler, config *tls.Config) {
	t.Helper()
	l, err := net.Listen("tcp", ip+":443")
	must(t, err)
	server := &http.Server{Handler: h, ErrorLog: discardLog()}
	go server.Serve(tls.NewListener(l, config))
	t.Cleanup(func() { server.Close() })
}

func (s *site) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

func (s *site) startProxy(t *testing.T, binary string) {
	t.Helper()
	s.authority.issue(t, s.dir, "proxy", proxyHost)
	var verifiers, rules strings.Builder
	for _, name := range []string{"p256", "p384", "rsa", "ed25519"} {
		pem, err := fixtures.PublicKey(name)
		must(t, err)
		s.write(t, name+".pub", string(pem))
		fmt.Fprintf(&verifiers, "  %[1]s: {sigstore: {keys: [{file: %[1]s.pub}], transparency_log: optional}}\n", name)
		if name != "p256" {
			fmt.Fprintf(&rules, "  - {name: %[1]s, match: upstream.test/lib/%[1]s, require: %[1]s}\n", name)
		}
	}
	config := s.write(t, "config.yaml", `
server: {listen: "127.0.0.3:443", admin: "127.0.0.3:5001", tls: {certificate: proxy.crt, key: proxy.key}}
upstreams:
  upstream.test: {url: "https://upstream.test", ca: ca.crt}
  docker.io: {url: "https://registry-1.docker.io", ca: ca.crt, default: true}
storage: {driver: {filesystem: {rootdirectory: content}}}
state: state
cache: {tags: 1s, refusals: 1s}
decisions: {log: decisions.jsonl}
verifiers:
`+verifiers.String()+"rules:\n"+rules.String()+`  - {name: lib, match: "*/lib/*", require: p256}
`)
	log, err := os.Create(filepath.Join(s.dir, "countersign.log"))
	must(t, err)
	cmd := exec.Command(binary, "serve", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	startProcess(t, cmd)
	waitFor(t, "countersign", func() bool {
		resp, err := http.Get("http://127.0.0.3:5001/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// startProcess starts a process that ends with the test.
func startProcess(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	t.Cleanup(func() {
		// The process may have ended by itself; the test has its say then.
		_ = cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(15 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
	})
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what + " did not start within 30 s")
		}
	}
}

// around returns the requests that reached the upstream from anybody but the
// proxy: the proof that a client went around it, or did not.
func (s *site) around() []string {
	var lines []string
	requests := s.upstream.Requests()
	for i, h := range s.upstream.Headers() {
		if !strings.HasPrefix(h.Get("User-Agent"), "countersign/") && i < len(requests) {
			lines = append(lines, requests[i])
		}
	}
	return lines
}

// cutter is a reverse proxy before Countersign that cuts the first answer with
// the large layer in half.
type cutter struct {
	next *httputil.ReverseProxy

	mu     sync.Mutex
	cut    bool
	ranges []string
}

func newCutter(a *authority) *cutter {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	target := &url.URL{Scheme: "https", Host: proxyHost}
	c := &cutter{}
	c.next = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, ModifyResponse: c.modify, ErrorLog: discardLog(),
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableCompression: true}}
	return c
}

// arm lets the next large answer be cut, and forgets the ranges seen.
func (c *cutter) arm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut, c.ranges = true, nil
}

func (c *cutter) resumed() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ranges
}

// ServeHTTP implements http.Handler.
func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.next.ServeHTTP(w, r) }

func (c *cutter) modify(resp *http.Response) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if resp.ContentLength < fixtures.LargeSize/4 || resp.Request.Method != http.MethodGet {
		return nil
	}
	if r := resp.Request.Header.Get("Range"); r != "" {
		c.ranges = append(c.ranges, fmt.Sprintf("%s -> %d", r, resp.StatusCode))
	}
	if c.cut {
		c.cut = false
		resp.Body = &cutBody{resp.Body, resp.ContentLength / 2}
	}
	return nil
}

// cutBody fails after some bytes, so that the connection is cut.
type cutBody struct {
	io.ReadCloser
	left int64
}

// Read fails where the cut is.
func (b *cutBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// command runs a client and returns what it printed, whether it succeeded, and
// gives it two minutes.
func command(t *testing.T, env []string, name string, args ...string) (string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}
