package notation

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/verifytest"
)

func replaceOnce(t *testing.T, in, old, new []byte) []byte {
	t.Helper()
	if bytes.Count(in, old) != 1 {
		t.Fatalf("got %d occurrences, want one", bytes.Count(in, old))
	}
	return bytes.Replace(in, old, new, 1)
}

func file(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", "real", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func realImage(t testing.TB) verify.Subject {
	body := file(t, "image.json")
	return verify.Subject{Registry: "registry.test", Repository: "acme/app", MediaType: ocispec.MediaTypeImageManifest,
		Digest: digest.FromBytes(body), Size: int64(len(body))}
}

// realSource lists one signature of the notation CLI.
func realSource(t testing.TB, name string, change func([]byte) []byte) *verifytest.Source {
	src := verifytest.NewSource()
	manifest, envelope := file(t, name+"-manifest.json"), file(t, name+".envelope")
	if change != nil {
		changed := change(envelope)
		manifest = bytes.ReplaceAll(manifest, []byte(digest.FromBytes(envelope)), []byte(digest.FromBytes(changed)))
		manifest = bytes.ReplaceAll(manifest, fmt.Appendf(nil, `"size":%d}]`, len(envelope)), fmt.Appendf(nil, `"size":%d}]`, len(changed)))
		envelope = changed
	}
	src.Put("", envelope)
	src.List(repository, realImage(t).Digest, src.Put(ocispec.MediaTypeImageManifest, manifest))
	return src
}

func realConfig(t testing.TB) Config {
	return Config{TrustStore: TrustStore{CA: [][]byte{file(t, "ca.crt")}}, Identities: []string{"x509.subject: C=US, ST=WA, O=Rig, CN=rig signer"}}
}

// TestRealSignatures: what the notation CLI signed is vouched for under strict,
// with revocation (its certificates name no server).
func TestRealSignatures(t *testing.T) {
	for _, name := range []string{"sig1", "sig2"} {
		v := newVerifier(t, realConfig(t), realSource(t, name, nil))
		e, err := v.Verify(t.Context(), realImage(t))
		if err != nil {
			t.Errorf("%s: got %v, want evidence", name, err)
			continue
		}
		if id := e.Signers[0].ID; !strings.HasPrefix(id, "identity:x509:sha256:") || !strings.HasSuffix(id, "#CN=rig signer,O=Rig,ST=WA,C=US") {
			t.Errorf("%s: got signer %q", name, id)
		}
		if len(e.Warnings) > 0 || e.Expires.After(time.Now().Add(recheckAfter+time.Minute)) {
			t.Errorf("%s: got warnings %v and expiry %s, want none and within an hour", name, e.Warnings, e.Expires)
		}
	}
}

func TestRealSignaturesTampered(t *testing.T) {
	for _, name := range []string{"sig1", "sig2"} {
		size := len(file(t, name+".envelope"))
		for at := 0; at < size; at += 13 {
			src := realSource(t, name, func(b []byte) []byte {
				out := bytes.Clone(b)
				out[at] ^= 0x04
				return out
			})
			e, err := newVerifier(t, realConfig(t), src).Verify(t.Context(), realImage(t))
			var refusal *verify.Refusal
			if err == nil && !bytes.Contains(file(t, name+".envelope")[max(0, at-60):min(size, at+60)], []byte("notation")) {
				t.Errorf("%s with byte %d changed: got evidence %v", name, at, e.Signers)
			}
			if err != nil && !errors.As(err, &refusal) {
				t.Errorf("%s with byte %d changed: got %v, want a refusal", name, at, err)
			}
		}
	}
}

func TestNewRefuses(t *testing.T) {
	ca := issue(t, nil, nil)
	leaf := issue(t, ca, nil)
	self := issue(t, nil, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"leaf as anchor", func(c *Config) { c.TrustStore.CA = [][]byte{leaf.pem()} }, "not that of an authority"},
		{"self-signed leaf", func(c *Config) { c.TrustStore.CA = [][]byte{self.pem()} }, "not that of an authority"},
		{"leaf as tsa", func(c *Config) { c.TrustStore.TSA = [][]byte{leaf.pem()} }, "trust_store: tsa"},
		{"nothing", func(c *Config) { c.TrustStore.CA = nil }, "nobody is trusted"},
		{"empty file", func(c *Config) { c.TrustStore.CA = [][]byte{{}} }, "no certificate"},
		{"trailing", func(c *Config) { c.TrustStore.CA = [][]byte{append(ca.pem(), "more"...)} }, "something follows"},
		{"tsa alone", func(c *Config) { c.TrustStore = TrustStore{SigningAuthority: c.TrustStore.CA, TSA: c.TrustStore.CA} }, "no effect"},
		{"no identity", func(c *Config) { c.Identities = nil }, "nobody is trusted"},
		{"no state", func(c *Config) { c.Identities = []string{"x509.subject: C=US, O=Acme"} }, "ST"},
		{"overlap", func(c *Config) { c.Identities = append(c.Identities, "x509.subject: C=US, ST=WA, O=Acme, CN=a") }, "overlap"},
		{"hostile dn", func(c *Config) { c.Identities = []string{"x509.subject: C=US, ST=WA, O=#0c0141"} }, `=#`},
		{"endless dn", func(c *Config) { c.Identities = []string{"x509.subject: C=US, ST=WA, O=" + strings.Repeat("A", 5000)} }, "at most"},
		{"other kind", func(c *Config) { c.Identities = []string{"did:x509:0"} }, "only x509.subject"},
		{"bare wildcard", func(c *Config) { c.Identities = []string{"*"} }, "say why"},
		{"wildcard beside", func(c *Config) { c.Identities = append(c.Identities, "*: for all of them") }, "beside others"},
		{"level", func(c *Config) { c.Level = "skip" }, "level"},
		{"mode", func(c *Config) { c.Revocation.Mode = "off" }, "mode"},
		{"lists without effect", func(c *Config) { c.Revocation.CRLDir = "." }, "no effect"},
		{"crl", func(c *Config) { c.Revocation = Revocation{CRLs: [][]byte{[]byte("x")}} }, "crl 1"},
		{"crl dir", func(c *Config) { c.Revocation = Revocation{CRLDir: "testdata/absent"} }, "crl_dir"},
	} {
		c := configOf(ca)
		test.change(&c)
		if _, err := New(c, nil); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.name, err, test.want)
		}
	}
}

// TestLevels is the table of the package comment.
func TestLevels(t *testing.T) {
	ca, other := issue(t, nil, nil), issue(t, nil, nil)
	leaf := issue(t, ca, nil)
	ended := issue(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	stranger := issue(t, ca, func(c *x509.Certificate) {
		c.Subject = pkix.Name{Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{"Evil"}}
	})
	gone := issue(t, ca, nil)
	expired := func(r *signature.SignRequest) {
		r.SigningTime, r.Expiry = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
	}
	for _, test := range []struct {
		name     string
		envelope []byte
		want     [3]verify.Reason // strict, permissive, audit; empty is a warning
	}{
		{"authority", issue(t, other, nil).sign(t, typeJWS, payload(image(1)), nil), [3]verify.Reason{verify.UntrustedSigner, verify.UntrustedSigner, verify.UntrustedSigner}},
		{"identity", stranger.sign(t, typeJWS, payload(image(1)), nil), [3]verify.Reason{verify.UntrustedSigner, verify.UntrustedSigner, ""}},
		{"timestamp", ended.sign(t, typeJWS, payload(image(1)), nil), [3]verify.Reason{verify.Expired, "", ""}},
		{"expiry", leaf.sign(t, typeJWS, payload(image(1)), expired), [3]verify.Reason{verify.Expired, "", ""}},
		{"revocation", gone.sign(t, typeCOSE, payload(image(1)), nil), [3]verify.Reason{verify.Revoked, "", ""}},
	} {
		for i, level := range []string{levelStrict, levelPermissive, levelAudit} {
			src := verifytest.NewSource()
			format := typeJWS
			if test.name == "revocation" {
				format = typeCOSE
			}
			attach(t, src, image(1), format, test.envelope)
			c := configOf(ca)
			c.Level = level
			c.Revocation = Revocation{CRLs: [][]byte{ca.crl(t, time.Now().Add(time.Hour), gone)}}
			e, err := newVerifier(t, c, src).Verify(t.Context(), image(1))
			if want := test.want[i]; want != "" {
				refused(t, test.name+" under "+level, err, want)
			} else if err != nil || len(e.Warnings) != 1 {
				t.Errorf("%s under %s: got %v and warnings %q, want evidence with one warning", test.name, level, err, e.Warnings)
			}
		}
	}
}

func refused(t *testing.T, name string, err error, want verify.Reason) {
	t.Helper()
	var refusal *verify.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != want {
		t.Errorf("%s: got %v, want a refusal %s", name, err, want)
	}
}

// TestOtherAuthority: an equal subject under another authority is another signer.
func TestOtherAuthority(t *testing.T) {
	a, b := issue(t, nil, nil), issue(t, nil, nil)
	src := verifytest.NewSource()
	attach(t, src, image(1), typeJWS, issue(t, a, nil).sign(t, typeJWS, payload(image(1)), nil))
	attach(t, src, image(1), typeJWS, issue(t, b, nil).sign(t, typeJWS, payload(image(1)), nil))
	attach(t, src, image(1), typeCOSE, issue(t, b, nil).sign(t, typeCOSE, payload(image(1)), nil))
	c := configOf(a)
	c.TrustStore.CA = append(c.TrustStore.CA, b.pem())
	e, err := newVerifier(t, c, src).Verify(t.Context(), image(1))
	if err != nil || len(e.Signers) != 2 {
		t.Fatalf("got %v and signers %v, want two", err, e.Signers)
	}
}

// TestExpires: evidence ends with the first certificate or the signature.
func TestExpires(t *testing.T) {
	ca := issue(t, nil, nil)
	leaf := issue(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(3 * time.Hour) })
	for _, test := range []struct {
		name   string
		change func(*signature.SignRequest)
		want   time.Duration
	}{
		{"certificate", nil, 3 * time.Hour},
		{"expiry", func(r *signature.SignRequest) { r.Expiry = time.Now().Add(2 * time.Hour) }, 2 * time.Hour},
	} {
		src := verifytest.NewSource()
		attach(t, src, image(1), typeJWS, leaf.sign(t, typeJWS, payload(image(1)), test.change))
		e, err := newVerifier(t, configOf(ca), src).Verify(t.Context(), image(1))
		if got := time.Until(e.Expires).Round(time.Minute); err != nil || got != test.want {
			t.Errorf("%s: got %v and the end in %s, want %s", test.name, err, got, test.want)
		}
	}
}

// TestSigningAuthority: that scheme has its own trust store and its own time.
func TestSigningAuthority(t *testing.T) {
	ca := issue(t, nil, nil)
	leaf := issue(t, ca, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-30*time.Minute), time.Now().Add(-time.Minute)
	})
	envelope := leaf.sign(t, typeJWS, payload(image(1)), func(r *signature.SignRequest) {
		r.SigningScheme, r.SigningTime = signature.SigningSchemeX509SigningAuthority, time.Now().Add(-10*time.Minute)
	})
	src := verifytest.NewSource()
	attach(t, src, image(1), typeJWS, envelope)
	c := configOf(ca)
	_, err := newVerifier(t, c, src).Verify(t.Context(), image(1))
	refused(t, "as ca", err, verify.UntrustedSigner)
	c.TrustStore = TrustStore{SigningAuthority: c.TrustStore.CA}
	e, err := newVerifier(t, c, src).Verify(t.Context(), image(1))
	if err != nil || !e.Expires.IsZero() || e.Signers[0].SignedAt.IsZero() {
		t.Errorf("got %v and %+v, want evidence that does not end", err, e)
	}
}

// TestAnyIdentity: the wildcard works with words, which every record repeats.
func TestAnyIdentity(t *testing.T) {
	ca := issue(t, nil, nil)
	src := verifytest.NewSource()
	attach(t, src, image(1), typeJWS, issue(t, ca, nil).sign(t, typeJWS, payload(image(1)), nil))
	c := configOf(ca)
	c.Identities = []string{"*: the authority is ours alone"}
	e, err := newVerifier(t, c, src).Verify(t.Context(), image(1))
	if err != nil || len(e.Warnings) != 1 || !strings.Contains(e.Warnings[0], "ours alone") {
		t.Errorf("got %v and warnings %q", err, e.Warnings)
	}
}

func FuzzEnvelope(f *testing.F) {
	ca := issue(f, nil, nil)
	v := newVerifier(f, configOf(ca), nil)
	good := issue(f, ca, nil)
	f.Add(true, good.sign(f, typeJWS, payload(image(1)), nil))
	f.Add(false, good.sign(f, typeCOSE, payload(image(1)), nil))
	f.Add(true, file(f, "sig1.envelope"))
	f.Add(false, file(f, "sig2.envelope"))
	f.Fuzz(func(t *testing.T, jws bool, body []byte) {
		format := typeCOSE
		if jws {
			format = typeJWS
		}
		x, err := v.judgeEnvelope(t.Context(), image(1), format, body)
		if err != nil || x.Counts && x.signer.ID == "" || !x.Counts && x.Reason == "" {
			t.Errorf("got %+v, %v", x, err)
		}
		if x.Counts && !json.Valid(body) && jws {
			t.Error("what is not JSON counts")
		}
	})
}
