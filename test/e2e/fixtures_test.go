package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign/proxy/proxytest"
	"github.com/countersign/countersign/test/fixtures"
)

// Every format and kind of key that the real cosign v2 and v3 made, decided by
// the real binary, with the referrers API and without it.
func TestRealSignatures(t *testing.T) {
	binary := build(t, "../..", "./cmd/countersign", "countersign")
	for _, referrers := range []bool{false, true} {
		upstream := proxytest.New(t, referrers)
		_, err := fixtures.Load(upstream)
		must(t, err)
		for _, test := range []struct {
			repository, key string
			found           []string // formats that must count
			reason          string   // of the refusal
		}{
			{"lib/legacy2", "p256", []string{"cosign signature"}, ""},
			{"lib/legacy3", "p256", []string{"cosign signature"}, ""},
			{"lib/bundle", "p256", []string{"sigstore bundle v0.3"}, ""},
			{"lib/multi", "p256", []string{"sigstore bundle v0.3"}, ""},
			{"lib/recursive", "p256", []string{"cosign signature"}, ""},
			{fixtures.Large, "p256", []string{"sigstore bundle v0.3"}, ""},
			{"lib/p384", "p384", []string{"cosign signature", "sigstore bundle v0.3"}, ""},
			{"lib/rsa", "rsa", []string{"cosign signature", "sigstore bundle v0.3"}, ""},
			{"lib/ed25519", "ed25519", []string{"cosign signature", "sigstore bundle v0.3"}, ""},
			{"lib/unsigned", "p256", nil, "unsigned"},
			{"lib/attested", "p256", nil, "unsigned"},
			{"lib/stranger", "p256", nil, "untrusted-signer"},
			{"lib/bundle", "p384", nil, "untrusted-signer"},
			{"lib/legacy2", "rsa", nil, "untrusted-signer"},
			{"lib/p384", "ed25519", nil, "untrusted-signer"},
		} {
			name := fmt.Sprintf("%s by %s, referrers API %v", test.repository, test.key, referrers)
			got := verifyWith(t, binary, upstream.URL, test.repository, test.key)
			if got.Reason != test.reason || (got.Outcome == "admitted") != (test.reason == "") {
				t.Errorf("%s: got %s %s, want reason %q", name, got.Outcome, got.Reason, test.reason)
			}
			for _, format := range test.found {
				if !got.counts(format) {
					t.Errorf("%s: no %s counts", name, format)
				}
			}
		}
	}
}

type decision struct {
	Outcome, Reason string
	Verdicts        []struct {
		Found []struct {
			Format string
			Counts bool
		}
	}
}

func (d decision) counts(format string) bool {
	for _, v := range d.Verdicts {
		for _, f := range v.Found {
			if f.Format == format && f.Counts {
				return true
			}
		}
	}
	return false
}

func verifyWith(t *testing.T, binary, upstream, repository, key string) decision {
	t.Helper()
	dir := t.TempDir()
	pem, err := fixtures.PublicKey(key)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "key.pub"), pem, 0o644))
	config := filepath.Join(dir, "config.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `
upstreams: {upstream.test: {url: %q}}
verifiers: {key: {sigstore: {keys: [{file: key.pub}], transparency_log: optional}}}
rules: [{name: lib, match: upstream.test/**, require: key}]
`, upstream), 0o644))
	cmd := exec.Command(binary, "verify", "-o", "json", "--config", config, "upstream.test/"+repository+":v1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var d decision
	if jsonErr := json.Unmarshal(out, &d); jsonErr != nil {
		t.Fatalf("verify %s: %v, %v: %s%s", repository, err, jsonErr, out, stderr.String())
	}
	want := map[string]int{"admitted": 0, "refused": 1, "undecided": 2}[d.Outcome]
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Errorf("verify %s: got exit code %d for %s, want %d", repository, got, d.Outcome, want)
	}
	return d
}
