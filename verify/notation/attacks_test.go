package notation

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/verifytest"
)

// TestCVE202333957TenThousandSignatures: the count is bounded, and the right
// signature is found within the bound, wherever it stands.
func TestCVE202333957TenThousandSignatures(t *testing.T) {
	ca := issue(t, nil, nil)
	other := issue(t, issue(t, nil, nil), nil)
	good := issue(t, ca, nil).sign(t, typeJWS, payload(image(1)), nil)
	bad := other.sign(t, typeJWS, payload(image(1)), nil)
	for _, test := range []struct{ chaff, lead int }{{10_000, 10_000}, {10_000, maxCandidates - 1}, {maxCandidates - 1, 0}} {
		src := verifytest.NewSource()
		var last ocispec.Descriptor
		for i := range test.chaff {
			d := last
			if i < maxCandidates {
				d = src.PutManifest(t, ocispec.Manifest{ArtifactType: typeSignature, Config: src.Put("x/y", fmt.Appendf(nil, "%d", i)),
					Layers:  []ocispec.Descriptor{src.Put(typeJWS, append(bad, fmt.Sprintf("%*s", i, "")...))},
					Subject: &ocispec.Descriptor{MediaType: image(1).MediaType, Digest: image(1).Digest, Size: image(1).Size}})
				d.ArtifactType, last = typeSignature, d
			}
			if i == test.lead {
				attach(t, src, image(1), typeJWS, good)
			}
			src.List(repository, image(1).Digest, d)
		}
		if test.lead == 0 {
			attach(t, src, image(1), typeJWS, good)
		}
		start := time.Now()
		e, err := newVerifier(t, configOf(ca), src).Verify(t.Context(), image(1))
		if found := err == nil && len(e.Signers) == 1; found != (test.lead < maxCandidates) {
			t.Errorf("chaff %d, signature at %d: got %v", test.chaff, test.lead, err)
		}
		if err != nil && errors.As(err, new(*verify.Refusal)) {
			t.Errorf("got the refusal %v, want the question to stay open", err)
		}
		if reads, took := src.Reads(), time.Since(start); reads > 2*maxCandidates || took > 10*time.Second {
			t.Errorf("got %d reads in %s", reads, took)
		}
	}
}

// TestUnreadableSignatureHidesNothing: notation-go would stop at the first
// signature that cannot be fetched.
func TestUnreadableSignatureHidesNothing(t *testing.T) {
	ca := issue(t, nil, nil)
	src := verifytest.NewSource()
	broken := attach(t, src, image(1), typeJWS, []byte("{}"))
	src.Fail(broken.Digest, errors.New("out of reach"))
	v := newVerifier(t, configOf(ca), src)
	if _, err := v.Verify(t.Context(), image(1)); err == nil || errors.As(err, new(*verify.Refusal)) {
		t.Errorf("got %v, want the question to stay open", err)
	}
	attach(t, src, image(1), typeJWS, issue(t, ca, nil).sign(t, typeJWS, payload(image(1)), nil))
	if _, err := v.Verify(t.Context(), image(1)); err != nil {
		t.Errorf("got %v, want evidence by the other signature", err)
	}
}

// TestHarbor18808Presence: a manifest that only looks like a signature.
func TestHarbor18808Presence(t *testing.T) {
	src := verifytest.NewSource()
	d := src.PutManifest(t, ocispec.Manifest{ArtifactType: typeSignature, Config: src.Put("application/vnd.oci.empty.v1+json", []byte("{}")),
		Subject: &ocispec.Descriptor{MediaType: image(1).MediaType, Digest: image(1).Digest, Size: image(1).Size}})
	src.List(repository, image(1).Digest, d)
	_, err := newVerifier(t, configOf(issue(t, nil, nil)), src).Verify(t.Context(), image(1))
	refused(t, "no layer", err, verify.Malformed)
}

// TestBothForms: with artifactType, and with the config's media type only.
func TestBothForms(t *testing.T) {
	ca := issue(t, nil, nil)
	src := verifytest.NewSource()
	d := src.PutManifest(t, ocispec.Manifest{Config: src.Put(typeSignature, []byte("{}")),
		Layers:  []ocispec.Descriptor{src.Put(typeCOSE, issue(t, ca, nil).sign(t, typeCOSE, payload(image(1)), nil))},
		Subject: &ocispec.Descriptor{MediaType: image(1).MediaType, Digest: image(1).Digest, Size: image(1).Size}})
	src.List(repository, image(1).Digest, d)
	if _, err := newVerifier(t, configOf(ca), src).Verify(t.Context(), image(1)); err != nil {
		t.Errorf("got %v, want evidence", err)
	}
}

// TestCVE202333959WrongArtifact: digest, size and media type are all compared,
// and a listing that lies about the subject helps nobody.
func TestCVE202333959WrongArtifact(t *testing.T) {
	ca := issue(t, nil, nil)
	leaf := issue(t, ca, nil)
	for name, change := range map[string]func(*verify.Subject){
		"digest":     func(s *verify.Subject) { s.Digest = image(2).Digest },
		"size":       func(s *verify.Subject) { s.Size++ },
		"media type": func(s *verify.Subject) { s.MediaType = ocispec.MediaTypeImageIndex },
	} {
		about := image(1)
		change(&about)
		src := verifytest.NewSource()
		attach(t, src, image(1), typeJWS, leaf.sign(t, typeJWS, payload(about), nil))
		_, err := newVerifier(t, configOf(ca), src).Verify(t.Context(), image(1))
		refused(t, name, err, verify.DigestMismatch)
	}
	src := verifytest.NewSource()
	d := attach(t, src, image(2), typeJWS, leaf.sign(t, typeJWS, payload(image(2)), nil))
	src.List(repository, image(1).Digest, d)
	_, err := newVerifier(t, configOf(ca), src).Verify(t.Context(), image(1))
	refused(t, "listing", err, verify.Unsigned)
}

// TestCVE202325656HostileNames: names of thousands of parts are not even looked at.
func TestCVE202325656HostileNames(t *testing.T) {
	ca := issue(t, nil, nil)
	start := time.Now()
	for name, subject := range map[string]pkix.Name{
		"hash": {Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{"Acme"},
			ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: "\x00\x01"}}},
		"thousands": {Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{"Acme"}, OrganizationalUnit: make([]string, 20_000)},
		"escapes":   {Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{`Acme,O=Other\,\+`}},
		"smuggled":  {Country: []string{"US"}, Province: []string{"WA"}, Organization: []string{"Evil,O=Acme"}},
	} {
		leaf := issue(t, ca, func(c *x509.Certificate) { c.Subject = subject })
		src := verifytest.NewSource()
		attach(t, src, image(1), typeCOSE, leaf.sign(t, typeCOSE, payload(image(1)), nil))
		if _, err := newVerifier(t, configOf(ca), src).Verify(t.Context(), image(1)); !errors.As(err, new(*verify.Refusal)) {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestDuplicateKeys: an envelope that two parsers could read differently.
func TestDuplicateKeys(t *testing.T) {
	ca := issue(t, nil, nil)
	good := issue(t, ca, nil).sign(t, typeJWS, payload(image(1)), nil)
	src := verifytest.NewSource()
	attach(t, src, image(1), typeJWS, append([]byte(`{"payload":"e30",`), good[1:]...))
	_, err := newVerifier(t, configOf(ca), src).Verify(t.Context(), image(1))
	refused(t, "duplicate key", err, verify.Malformed)
}

// TestPluginDemanded: a signature that only a plugin can judge does not count.
func TestPluginDemanded(t *testing.T) {
	ca := issue(t, nil, nil)
	src := verifytest.NewSource()
	attach(t, src, image(1), typeJWS, issue(t, ca, nil).sign(t, typeJWS, payload(image(1)), func(r *signature.SignRequest) {
		r.ExtendedSignedAttributes = []signature.Attribute{{Key: "io.cncf.notary.verificationPlugin", Critical: true, Value: "x"}}
	}))
	_, err := newVerifier(t, configOf(ca), src).Verify(t.Context(), image(1))
	refused(t, "plugin", err, verify.Malformed)
}

// TestOCSPDown: an unknown status leaves the question open under strict, and is
// a warning otherwise.
func TestOCSPDown(t *testing.T) {
	ca := issue(t, nil, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	leaf := issue(t, ca, func(c *x509.Certificate) { c.OCSPServer = []string{"http://" + address} })
	src := verifytest.NewSource()
	attach(t, src, image(1), typeJWS, leaf.sign(t, typeJWS, payload(image(1)), nil))
	for _, test := range []struct {
		mode, level string
		open        bool
	}{{modeStrict, levelStrict, true}, {modeSoft, levelStrict, false}, {modeStrict, levelPermissive, false}} {
		c := configOf(ca)
		c.Revocation.Mode, c.Level = test.mode, test.level
		e, err := newVerifier(t, c, src).Verify(t.Context(), image(1))
		switch {
		case test.open && (err == nil || errors.As(err, new(*verify.Refusal))):
			t.Errorf("%+v: got %v, want the question to stay open", test, err)
		case !test.open && (err != nil || len(e.Warnings) != 1):
			t.Errorf("%+v: got %v and warnings %q, want evidence with a warning", test, err, e.Warnings)
		}
	}
}

// TestNoRequestForStrangers: a chain that leads nowhere must not choose where
// requests go, whatever the level.
func TestNoRequestForStrangers(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	defer server.Close()
	stranger := issue(t, issue(t, nil, nil), func(c *x509.Certificate) {
		c.OCSPServer, c.CRLDistributionPoints = []string{server.URL}, []string{server.URL}
	})
	src := verifytest.NewSource()
	attach(t, src, image(1), typeJWS, stranger.sign(t, typeJWS, payload(image(1)), nil))
	for _, level := range []string{levelStrict, levelPermissive, levelAudit} {
		c := configOf(issue(t, nil, nil))
		c.Revocation.Mode, c.Level = modeStrict, level
		_, err := newVerifier(t, c, src).Verify(t.Context(), image(1))
		refused(t, level, err, verify.UntrustedSigner)
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("got %d requests, want none", n)
	}
}

// TestCRLFromNetwork: one request serves many signatures of one chain, and
// revoked is refused.
func TestCRLFromNetwork(t *testing.T) {
	ca := issue(t, nil, nil)
	var requests atomic.Int32
	var body atomic.Pointer[[]byte]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		_, _ = w.Write(*body.Load()) // the client has gone if it fails
	}))
	defer server.Close()
	point := func(c *x509.Certificate) { c.CRLDistributionPoints = []string{server.URL + "/crl"} }
	leaf, gone := issue(t, ca, point), issue(t, ca, point)
	crl := ca.crl(t, time.Now().Add(time.Hour), gone)
	body.Store(&crl)
	for _, test := range []struct {
		by   *authority
		want verify.Reason
	}{{leaf, ""}, {gone, verify.Revoked}} {
		src := verifytest.NewSource()
		for range 20 {
			attach(t, src, image(1), typeJWS, test.by.sign(t, typeJWS, payload(image(1)), nil))
		}
		requests.Store(0)
		c := configOf(ca)
		c.Revocation.Mode = modeStrict
		_, err := newVerifier(t, c, src).Verify(t.Context(), image(1))
		if test.want != "" {
			refused(t, "revoked", err, test.want)
		} else if err != nil {
			t.Errorf("got %v, want evidence", err)
		}
		if n := requests.Load(); n < 1 || n > readers {
			t.Errorf("got %d requests, want between 1 and %d", n, readers)
		}
	}
}

// TestCRLDir: a directory of lists decides without the network, new lists
// change the generation, and lists of others or of the past do not count.
func TestCRLDir(t *testing.T) {
	ca, other := issue(t, nil, nil), issue(t, nil, nil)
	leaf := issue(t, ca, func(c *x509.Certificate) { c.OCSPServer = []string{"http://127.0.0.1:1"} })
	src := verifytest.NewSource()
	attach(t, src, image(1), typeJWS, leaf.sign(t, typeJWS, payload(image(1)), nil))
	dir := t.TempDir()
	write := func(name string, body []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("other.crl", other.crl(t, time.Now().Add(time.Hour), leaf))
	write("old.crl", ca.crl(t, time.Now().Add(-time.Minute)))
	write("README", []byte("no list"))
	c := configOf(ca)
	c.Revocation = Revocation{CRLDir: dir}
	v := newVerifier(t, c, src)
	if _, err := v.Verify(t.Context(), image(1)); err == nil || errors.As(err, new(*verify.Refusal)) {
		t.Fatalf("with lists of others and of the past: got %v, want the question to stay open", err)
	}
	reread := func() {
		v.revocation.lists.read.Store(0)
		v.revocation.refresh()
	}
	before := v.Scope(image(1)).Generation
	write("now.crl", ca.crl(t, time.Now().Add(time.Hour)))
	reread()
	e, err := v.Verify(t.Context(), image(1))
	if err != nil || e.Generation == before || e.Generation != v.Scope(image(1)).Generation {
		t.Fatalf("with a list: got %v and generation %q, want evidence and another than %q", err, e.Generation, before)
	}
	write("now.crl", ca.crl(t, time.Now().Add(time.Hour), leaf))
	reread()
	_, err = v.Verify(t.Context(), image(1))
	refused(t, "with a list that revokes", err, verify.Revoked)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	reread()
	_, err = v.Verify(t.Context(), image(1))
	refused(t, "when the directory is gone", err, verify.Revoked)
}

// TestDialGuard: certificates cannot point at metadata services.
func TestDialGuard(t *testing.T) {
	for address, want := range map[string]bool{"169.254.169.254:80": false, "[fe80::1]:80": false, "0.0.0.0:80": false, "[::ffff:169.254.169.254]:80": false,
		"224.0.0.1:80": false, "10.1.2.3:80": true, "127.0.0.1:80": true} {
		if err := guardDial("tcp", address, nil); (err == nil) != want {
			t.Errorf("%s: got %v, want allowed: %t", address, err, want)
		}
	}
}

// TestTimestampDemanded: with a tsa trust store, a signature without timestamp
// does not count, though its certificate is valid now.
func TestTimestampDemanded(t *testing.T) {
	ca, tsa := issue(t, nil, nil), issue(t, nil, nil)
	src := verifytest.NewSource()
	attach(t, src, image(1), typeJWS, issue(t, ca, nil).sign(t, typeJWS, payload(image(1)), nil))
	c := configOf(ca)
	c.TrustStore.TSA = [][]byte{tsa.pem()}
	_, err := newVerifier(t, c, src).Verify(t.Context(), image(1))
	refused(t, "no timestamp", err, verify.UntrustedSigner)
}
