// Package e2e pulls with real clients through the real proxy: skopeo, podman,
// containerd, Docker Engine and crane, in a network namespace where the only
// registries are the test's own.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/test/fixtures"
)

// needed are the programs that the suite runs and cannot build.
var needed = []string{"unshare", "skopeo", "podman", "containerd", "ctr", "runc", "docker", "/usr/sbin/dockerd"}

// available says what keeps the suite from running. With CI=true that is a
// failure: what a test needs and cannot have must not look like success.
func available(t *testing.T) bool {
	t.Helper()
	var missing []string
	for _, name := range needed {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, name)
		}
	}
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		missing = append(missing, "root on Linux (for a network namespace)")
	}
	if len(missing) == 0 {
		return true
	}
	text := "real clients are left out: missing " + strings.Join(missing, ", ") + "; test/scripts/install-clients.sh installs them on Debian"
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Log(text)
	return false
}

// build builds a program once for the suite.
func build(t *testing.T, dir, pkg, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, text)
	}
	return out
}

func TestRealClients(t *testing.T) {
	if !available(t) {
		return
	}
	binary, crane := os.Getenv("COUNTERSIGN_BINARY"), os.Getenv("COUNTERSIGN_CRANE")
	if binary == "" {
		binary = build(t, "../..", "./cmd/countersign", "countersign")
		crane = build(t, "..", "github.com/google/go-containerregistry/cmd/crane", "crane")
		t.Setenv("COUNTERSIGN_CRANE", crane)
	}
	if !inNamespace(t, binary) {
		return
	}
	s := newSite(t, binary)
	containerd := newContainerd(t, s, "containerd", "")
	table := &table{}
	child := s.children(t, "lib/multi")[0].String()
	if out, _, ok := containerd.firstPull(t, "lib/multi", child); ok {
		t.Errorf("child of an index that was not admitted yet: pulled, want refused\n%s", out)
	}
	for _, c := range append([]subjectClient{
		{"crane", &craneClient{s: s, binary: crane, host: proxyHost}, facts{message: true}},
		{"skopeo", skopeoClient{s}, facts{message: true, mirrors: true}},
		{"podman", podmanClient{s}, facts{message: true, mirrors: true}},
		{"containerd 1.6", containerd, facts{mirrors: true, resumes: true}},
		{"docker 20.10", newDocker(t, s, containerd.socket), facts{message: true, mirrors: true, resumes: true}},
	}, s.builtClients(t)...) {
		t.Run(c.name, func(t *testing.T) { s.exercise(t, c.name, c.client, c.facts, table) })
	}
	table.print(t)
}

// subjectClient is a client with what it can do.
type subjectClient struct {
	name   string
	client client
	facts  facts
}

// facts are what a client can do at all.
type facts struct {
	message bool // shows the registry's message on a refusal
	mirrors bool // can be told of mirrors
	resumes bool // asks for the rest of a transfer that broke off
}

func (s *site) exercise(t *testing.T, name string, c client, can facts, table *table) {
	row := func(what, result string) {
		if t.Failed() {
			result = "NOT SHOWN: the test failed"
		}
		table.add(name, what, result)
	}
	c.via(t, proxyHost, false)
	s.served(t, c, "lib/bundle", "v1")
	s.served(t, c, "lib/legacy2", "v1")
	s.served(t, c, "lib/recursive", "v1")
	row("signed (bundle, legacy), index", "pulled, same digest")

	child := s.children(t, "lib/multi")[0].String()
	s.served(t, c, "lib/multi", "v1")
	out, _, ok := c.pull(t, "lib/multi", child)
	if !ok {
		t.Errorf("child %s of an admitted index: refused\n%s", child, out)
	}
	row("child of an admitted index by digest", "pulled")

	for _, repository := range []string{"lib/unsigned", "lib/stranger", "lib/attested"} {
		s.refused(t, c, repository, "v1", can.message)
	}
	if can.message {
		row("unsigned, stranger's, attestation only", "refused, message shown")
	} else {
		row("unsigned, stranger's, attestation only", "refused, status only")
	}

	moved := s.set.Tags["lib/legacy3:v1"]
	s.served(t, c, "lib/legacy3", "v1")
	s.upstream.Tag("lib/legacy3", "v1", digest.Digest(s.set.Tags["lib/unsigned:v1"]))
	s.copyInto(t, "lib/unsigned", "lib/legacy3")
	waitTags()
	s.refused(t, c, "lib/legacy3", "v1", can.message)
	s.upstream.Tag("lib/legacy3", "v1", digest.Digest(moved))
	waitTags()
	row("tag moved to an unsigned image", "refused")

	if lines := s.around(); len(lines) != 0 {
		t.Errorf("with the recommended configuration the client went around the proxy: %v", lines)
	}
	row("requests around the proxy", "none")

	c.via(t, cutHost, false)
	s.cutter.arm()
	out, got, ok := c.pull(t, fixtures.Large, "v1")
	resumed := s.cutter.resumed()
	switch {
	case can.resumes && (!ok || got != s.digest(fixtures.Large, "v1") || len(resumed) == 0 || !strings.HasSuffix(resumed[0], "206")):
		t.Errorf("a transfer cut in half: got %v, ranges %v\n%s", ok, resumed, out)
	case ok && got != s.digest(fixtures.Large, "v1"):
		t.Errorf("a transfer cut in half: stored %s", got)
	}
	row("transfer cut in half", cutResult(ok, resumed))

	if can.mirrors {
		before := len(s.around())
		c.via(t, proxyHost, true)
		out, _, ok := c.pull(t, "lib/unsigned", "v1")
		if !ok || len(s.around()) == before {
			t.Errorf("as a mirror with a fallback the refusal held: the README's warning is out of date\n%s", out)
		}
		row("plain mirror, unsigned", "WENT AROUND THE PROXY")
		s.upstream.ForgetRequests()
	}
}

func cutResult(ok bool, resumed []string) string {
	switch {
	case ok && len(resumed) > 0:
		return "resumed by " + resumed[0]
	case ok:
		return "pulled again from the start"
	}
	return "failed (the client does not resume)"
}

// served pulls and compares the digest that the client stored.
func (s *site) served(t *testing.T, c client, repository, reference string) {
	t.Helper()
	out, got, ok := c.pull(t, repository, reference)
	if want := s.digest(repository, reference); !ok || got != want {
		t.Errorf("%s:%s: got %v with digest %q, want %s\n%s", repository, reference, ok, got, want, out)
	}
}

// refused pulls in vain; where the client shows messages, ours must be there.
func (s *site) refused(t *testing.T, c client, repository, reference string, message bool) {
	t.Helper()
	out, _, ok := c.pull(t, repository, reference)
	reason := strings.Contains(out, "unsigned: rule") || strings.Contains(out, "untrusted-signer: rule")
	if ok || message && !reason {
		t.Errorf("%s:%s: got %v, want it refused with our message\n%s", repository, reference, ok, out)
	}
}

// table collects what docs/clients.md shows.
type table struct{ rows [][3]string }

func (x *table) add(client, what, result string) {
	x.rows = append(x.rows, [3]string{client, what, result})
}

func (x *table) print(t *testing.T) {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range x.rows {
		fmt.Fprintln(w, strings.Join(slices.Clone(r[:]), "\t"))
	}
	must(t, w.Flush())
	t.Log("\n" + b.String())
	if file := os.Getenv("COUNTERSIGN_E2E_TABLE"); file != "" {
		must(t, os.WriteFile(file, []byte(b.String()), 0o644))
	}
}
