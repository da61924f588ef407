package notation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
	"github.com/notaryproject/notation-go/verifier/truststore"

	"github.com/countersign/countersign/verify"
)

const (
	// maxAnchors bounds the certificates of one kind in the trust store: the
	// largest public root programs have some 150.
	maxAnchors = 1000
	// storeName is what the one store of each kind is called towards notation-go.
	storeName = "configured"
	// identityPrefix begins an identity of the one kind that there is.
	identityPrefix = "x509.subject:"
	// maxIdentity bounds a configured identity: a subject has some hundred bytes.
	maxIdentity = 4 << 10
	// minWhy is how long the reason for trusting any identity has to be.
	minWhy = 8
)

// trustStore is a truststore.X509TrustStore in memory.
type trustStore struct {
	certs map[truststore.Type][]*x509.Certificate
}

func newTrustStore(c TrustStore) (*trustStore, error) {
	s := &trustStore{certs: map[truststore.Type][]*x509.Certificate{}}
	var errs []error
	for _, kind := range []struct {
		key   string
		kind  truststore.Type
		files [][]byte
	}{{"ca", truststore.TypeCA, c.CA}, {"signing_authority", truststore.TypeSigningAuthority, c.SigningAuthority}, {"tsa", truststore.TypeTSA, c.TSA}} {
		for i, file := range kind.files {
			certs, err := parseAnchors(file)
			if err != nil {
				errs = append(errs, fmt.Errorf("trust_store: %s: file %d: %w", kind.key, i+1, err))
			}
			s.certs[kind.kind] = append(s.certs[kind.kind], certs...)
		}
		if n := len(s.certs[kind.kind]); n > maxAnchors {
			errs = append(errs, fmt.Errorf("trust_store: %s: there are %d certificates: at most %d are allowed", kind.key, n, maxAnchors))
		}
	}
	if len(c.CA) == 0 && len(c.SigningAuthority) == 0 {
		errs = append(errs, errors.New("trust_store: nobody is trusted: give at least one certificate under ca or signing_authority"))
	}
	if len(c.TSA) > 0 && len(c.CA) == 0 {
		errs = append(errs, errors.New("trust_store: tsa has no effect without ca: only signatures of the scheme notary.x509 have timestamps"))
	}
	return s, errors.Join(errs...)
}

// parseAnchors reads the certificates of a PEM file. Leaves are refused (a
// signature's own certificate as anchor cannot be revoked, and proves only
// that somebody copied it here).
func parseAnchors(file []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(file); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("it is not PEM, or something follows the certificates")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %.40q: only certificates belong here", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("a certificate is malformed: %w", err)
		}
		if !cert.IsCA || !cert.BasicConstraintsValid {
			return nil, fmt.Errorf("the certificate of %q is not that of an authority: give the certificate of the authority that issued it", clip(cert.Subject.String()))
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("it holds no certificate")
	}
	return certs, nil
}

// GetCertificates implements truststore.X509TrustStore.
func (s *trustStore) GetCertificates(_ context.Context, kind truststore.Type, name string) ([]*x509.Certificate, error) {
	if name != storeName {
		return nil, truststore.TrustStoreError{Msg: "there is no such trust store"}
	}
	return s.certs[kind], nil
}

// names returns the stores as a trust policy names them.
func (s *trustStore) names() []string {
	var names []string
	for _, kind := range truststore.Types {
		if len(s.certs[kind]) > 0 {
			names = append(names, string(kind)+":"+storeName)
		}
	}
	return names
}

func (s *trustStore) timestamps() bool { return len(s.certs[truststore.TypeTSA]) > 0 }

// anchor returns the certificate of a chain that is trusted for a signing
// scheme, the one nearest to the root; nil if none is. An empty scheme asks for
// any.
func (s *trustStore) anchor(chain []*x509.Certificate, scheme signature.SigningScheme) *x509.Certificate {
	var kinds []truststore.Type
	if scheme != signature.SigningSchemeX509SigningAuthority {
		kinds = append(kinds, truststore.TypeCA)
	}
	if scheme != signature.SigningSchemeX509 {
		kinds = append(kinds, truststore.TypeSigningAuthority)
	}
	for _, cert := range slices.Backward(chain) {
		for _, kind := range kinds {
			if slices.ContainsFunc(s.certs[kind], cert.Equal) {
				return cert
			}
		}
	}
	return nil
}

// signerOf names the authority that signed: subject and key of the trust anchor,
// so that an equal subject under another authority is somebody else.
func signerOf(anchor, leaf *x509.Certificate) verify.Signer {
	sum := sha256.Sum256(anchor.RawSubjectPublicKeyInfo)
	subject := leaf.Subject.String()
	return verify.Signer{ID: "identity:x509:sha256:" + hex.EncodeToString(sum[:]) + "#" + subject, Name: subject}
}

// parseIdentities returns the identities as notation-go takes them, and why any
// is trusted, if so.
func parseIdentities(identities []string) (parsed []string, anyone string, err error) {
	if len(identities) == 0 {
		return nil, "", errors.New(`identities: nobody is trusted: list subjects as "x509.subject: C=…, ST=…, O=…"`)
	}
	var errs []error
	for _, id := range identities {
		why, wild := strings.CutPrefix(strings.TrimSpace(id), "*")
		switch value, ok := strings.CutPrefix(id, identityPrefix); {
		case wild && len(identities) > 1:
			errs = append(errs, errors.New(`identities: "*" stands beside others, which then have no effect: remove one or the other`))
		case wild:
			why = strings.TrimSpace(strings.TrimPrefix(why, ":"))
			if len(why) < minWhy {
				errs = append(errs, errors.New(`identities: "*" trusts everybody whom the authorities certify: say why, as "*: WHY", or list the subjects`))
			}
			parsed, anyone = append(parsed, "*"), why
		case !ok:
			errs = append(errs, fmt.Errorf("identities: %q: only x509.subject identities are known: write \"x509.subject: C=…, ST=…, O=…\"", clip(id)))
		case len(value) > maxIdentity:
			errs = append(errs, fmt.Errorf("identities: one has %d bytes: at most %d are allowed", len(value), maxIdentity))
		default:
			parsed = append(parsed, identityPrefix+" "+strings.TrimSpace(value))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, "", err
	}
	// notation-go knows the rules of distinguished names (C, ST and O, no
	// overlaps, no "=#"); it validates them as part of a policy.
	probe := trustpolicy.Document{Version: "1.0", TrustPolicies: []trustpolicy.TrustPolicy{{Name: "rule", RegistryScopes: []string{"*"},
		TrustStores: []string{"ca:" + storeName}, TrustedIdentities: parsed,
		SignatureVerification: trustpolicy.SignatureVerification{VerificationLevel: levelStrict}}}}
	if err := probe.Validate(); err != nil {
		return nil, "", fmt.Errorf("identities: %w", err)
	}
	return parsed, anyone, nil
}

// maxShown bounds text of others' choice in findings.
const maxShown = 200

// clip also replaces what would steer a terminal.
func clip(s string) string {
	short := s
	if len(s) > maxShown {
		short = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, short)
}
