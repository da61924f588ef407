package e2e

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/proxy/proxytest"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

// No real server lets metadata expire within a test, so this one's is the
// project's own: the timestamp ends, the server renews it or does not, and an
// archive is frozen. The proxy and its client are real.
func TestTrustMetadataExpires(t *testing.T) {
	registry := proxytest.New(t, false)
	image := registry.Image(t, trusted, [][]byte{[]byte("expires")}, "v1")
	repo, err := notarytest.New(gun, time.Now())
	must(t, err)
	must(t, repo.Sign("v1", notarytest.Target{Digest: image.Digest, Size: image.Size}, "targets"))
	server := httptest.NewServer(repo)
	t.Cleanup(server.Close)
	s := &trustSite{t: t, dir: t.TempDir(), registry: registry, proxy: freeAddress(t),
		binary: build(t, "../..", "./cmd/countersign", "countersign"), crane: build(t, "..", "github.com/google/go-containerregistry/cmd/crane", "crane")}
	frozen := ""
	start := func() {
		s.write("config.yaml", fmt.Sprintf(`
server: {listen: %q, admin: %q}
upstreams: {upstream.test: {url: %q, default: true}}
storage: {driver: {filesystem: {rootdirectory: content}}}
state: state
cache: {tags: 1s, refusals: 1s}
decisions: {log: decisions.jsonl}
verifiers: {dct: {notary: {server: %q, pin: {root_keys: [%s]}, refresh: 1s%s}}}
rules: [{name: trusted, match: upstream.test/lib/*, require: dct}]
`, s.proxy, freeAddress(t), registry.URL, server.URL, repo.Roles["root"].Keys[0].ID(), frozen))
		s.run()
	}
	start()
	s.expect("fresh metadata", trusted+":v1", "")

	repo.Roles["timestamp"].Expires = time.Now().Add(4 * time.Second)
	must(t, repo.Publish())
	s.expect("the timestamp ends in four seconds", trusted+":v1", "")
	time.Sleep(4 * time.Second)
	s.expect("it has ended", trusted+":v1", "expired")
	s.expect("its digest, admitted before", trusted+"@"+image.Digest.String(), "expired")
	repo.Roles["timestamp"].Expires = time.Now().Add(time.Hour)
	must(t, repo.Publish())
	s.expect("the server signs a new one", trusted+":v1", "")

	repo.Roles["timestamp"].Expires = time.Now().Add(3 * time.Second)
	must(t, repo.Publish())
	s.expect("a timestamp that ends", trusted+":v1", "")
	server.Close()
	time.Sleep(2 * time.Second)
	frozen = ", frozen_until: " + time.Now().AddDate(0, 0, 30).Format(time.DateOnly)
	must(t, s.countersign.Process.Kill())
	_ = s.countersign.Wait()
	start()
	s.expect("the server is gone, frozen_until is set", trusted+":v1", "")
	time.Sleep(1500 * time.Millisecond) // records of what was served are written within a second
	records, err := os.ReadFile(filepath.Join(s.dir, "decisions.jsonl"))
	must(t, err)
	if !strings.Contains(string(records), `"warnings":[`) {
		t.Error("no record warns of frozen metadata")
	}
	t.Log("\n" + strings.Join(s.rows, "\n"))
}
