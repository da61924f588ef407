package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/proxy/proxytest"
)

// The JWS and the COSE signature that the real notation CLI made are admitted
// by the real binary, and their tampered copies are not.
func TestRealNotation(t *testing.T) {
	binary := build(t, "../..", "./cmd/countersign", "countersign")
	real := func(name string) []byte {
		body, err := os.ReadFile("../../verify/notation/testdata/real/" + name)
		must(t, err)
		return body
	}
	image := real("image.json")
	for _, sig := range []string{"sig1", "sig2"} {
		for _, tampered := range []bool{false, true} {
			registry := proxytest.New(t, true)
			d := registry.PutManifest("lib/app", image, "v1")
			envelope := real(sig + ".envelope")
			envelopeDigest := digest.FromBytes(envelope)
			if tampered {
				envelope[len(envelope)/3] ^= 1
			}
			manifest := strings.ReplaceAll(string(real(sig+"-manifest.json")), envelopeDigest.String(), digest.FromBytes(envelope).String())
			registry.PutManifest("lib/app", []byte(manifest))
			registry.PutBlob("lib/app", "", envelope)
			registry.PutBlob("lib/app", "", []byte("{}"))
			code := notationVerify(t, binary, registry.URL)
			if want := map[bool]int{false: 0, true: 1}[tampered]; code != want {
				t.Errorf("%s of %s, tampered %v: got exit code %d, want %d", sig, d, tampered, code, want)
			}
		}
	}
}

func notationVerify(t *testing.T, binary, upstream string) int {
	t.Helper()
	dir := t.TempDir()
	authority, err := filepath.Abs("../../verify/notation/testdata/real/ca.crt")
	must(t, err)
	config := filepath.Join(dir, "config.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `
upstreams: {upstream.test: {url: %q}}
verifiers: {acme: {notation: {trust_store: {ca: [%q]}, identities: ["x509.subject: C=US, ST=WA, O=Rig"], revocation: {mode: skip}}}}
rules: [{name: lib, match: upstream.test/**, require: acme}]
`, upstream, authority), 0o600))
	cmd := exec.Command(binary, "verify", "--config", config, "upstream.test/lib/app:v1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}
