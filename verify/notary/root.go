package notary

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/verify"
)

// notBeforeLeeway is how early a root certificate may be used: the reference
// gives a day, because signing machines' clocks run ahead.
const notBeforeLeeway = 24 * time.Hour

// Pin says which root is trusted first. Exactly one of its fields is set. A
// newer root is trusted because the keys of the one before signed it; the State
// remembers how far that went. Without the State, the current root has to
// satisfy the pin again: add the new key to RootKeys after a rotation.
type Pin struct {
	// RootKeys are ids of root keys, in hex: "notary key list" and "docker
	// trust inspect" of a trusted client show them, and Inspect does.
	RootKeys []string
	// CA holds PEM certificates of authorities that root certificates chain to.
	CA []byte
	// Root is a trusted root.json: newer roots have to follow from it.
	Root []byte
	// FirstUse trusts whatever root is seen first and remembers it in the State.
	FirstUse bool
}

// pins is a parsed Pin.
type pins struct {
	keys     map[string]bool
	ca       *x509.CertPool
	root     *rootDoc
	firstUse bool
	anchor   string // names the pin in the state
}

var keyIDPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

func parsePin(p Pin) (*pins, error) {
	set := 0
	for _, is := range []bool{len(p.RootKeys) > 0, len(p.CA) > 0, len(p.Root) > 0, p.FirstUse} {
		if is {
			set++
		}
	}
	if set != 1 {
		return nil, errors.New("pin: exactly one of root_keys, ca, root and first_use has to be set")
	}
	sort := slices.Sorted(slices.Values(p.RootKeys))
	out := &pins{keys: map[string]bool{}, firstUse: p.FirstUse,
		anchor: fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "%q %q %q %v", sort, p.CA, p.Root, p.FirstUse)))}
	for _, id := range p.RootKeys {
		if !keyIDPattern.MatchString(id) {
			return nil, fmt.Errorf("pin: root_keys: %q is not a key id: give the 64 hex digits of the root key's id", id)
		}
		out.keys[id] = true
	}
	if len(p.Root) > 0 {
		root, err := parseRoot(p.Root)
		if err != nil {
			return nil, fmt.Errorf("pin: root: %w", err)
		}
		out.root = root
	}
	return out, out.parseCA(p.CA)
}

// parseCA refuses certificates that are not authorities: a leaf among the
// anchors would vouch for itself.
func (p *pins) parseCA(bundle []byte) error {
	if len(bundle) == 0 {
		return nil
	}
	p.ca = x509.NewCertPool()
	n := 0
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("pin: ca: a certificate does not parse: %w", err)
		}
		if !cert.IsCA {
			return fmt.Errorf("pin: ca: the certificate of %q is not an authority's: pin its key with root_keys instead", cert.Subject.CommonName)
		}
		p.ca.AddCert(cert)
		n++
	}
	if n == 0 {
		return errors.New("pin: ca: it holds no PEM certificate")
	}
	return nil
}

// rootKey is a key of the root role together with its certificate.
type rootKey struct {
	*key
	leaf          *x509.Certificate
	intermediates []*x509.Certificate
	from, until   time.Time // when every certificate of the bundle is valid
}

// validAt reports whether the certificates are valid at t, with the
// reference's leeway.
func (k *rootKey) validAt(t time.Time) bool {
	return !t.Before(k.from.Add(-notBeforeLeeway)) && !t.After(k.until)
}

// certKeys returns the keys of the root role that may sign a root of gun: a
// bundle of one leaf, first, whose common name is the GUN or ends in * and is
// a prefix of it, and of authorities; no SHA-1.
func (r *rootDoc) certKeys(gun string) []*rootKey {
	var out []*rootKey
	for _, k := range r.roles[roleRoot].keys {
		if k.public == nil || k.kind != typeECDSAx509 && k.kind != typeRSAx509 {
			continue
		}
		certs, err := parseCertificates(k.value)
		if err != nil || certs[0].IsCA || !nameMatches(certs[0].Subject.CommonName, gun) {
			continue
		}
		rk := &rootKey{key: k, leaf: certs[0], intermediates: certs[1:], from: certs[0].NotBefore, until: certs[0].NotAfter}
		if rk.usable() {
			out = append(out, rk)
		}
	}
	return out
}

// usable narrows the validity to that of the whole bundle and checks each
// certificate's form.
func (k *rootKey) usable() bool {
	if !sound(k.leaf) {
		return false
	}
	for _, c := range k.intermediates {
		if !c.IsCA || !sound(c) {
			return false
		}
		k.narrow(c)
	}
	return true
}

func (k *rootKey) narrow(c *x509.Certificate) {
	if c.NotBefore.After(k.from) {
		k.from = c.NotBefore
	}
	if c.NotAfter.Before(k.until) {
		k.until = c.NotAfter
	}
}

func sound(c *x509.Certificate) bool {
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return false
	}
	if pub, ok := c.PublicKey.(*rsa.PublicKey); ok && (pub.N.BitLen() < minRSABits || pub.N.BitLen() > maxRSABits) {
		return false
	}
	return !c.NotBefore.After(c.NotAfter)
}

// nameMatches is the reference's rule: docker.io/library/* matches every
// repository below, and so does docker.io/library/al*.
func nameMatches(commonName, gun string) bool {
	if prefix := strings.TrimRight(commonName, "*"); prefix != commonName {
		return strings.HasPrefix(gun, prefix)
	}
	return commonName == gun
}

// pinned reports whether the pin vouches for a root key. It narrows the key's
// validity to that of the authorities above it.
func (p *pins) pinned(k *rootKey, at time.Time) bool {
	switch {
	case len(p.keys) > 0:
		return p.keys[k.id]
	case p.ca == nil:
		return true // the root file or the first root is the pin; newer roots follow from it
	}
	pool := x509.NewCertPool()
	for _, c := range k.intermediates {
		pool.AddCert(c)
	}
	if at.After(k.until) {
		at = k.until // whether it has expired is judged elsewhere; archives are verified after that
	}
	// The key usage stays the default, server authentication or none, as in
	// the reference: a code signing leaf is refused there too.
	chains, err := k.leaf.Verify(x509.VerifyOptions{Roots: p.ca, Intermediates: pool, CurrentTime: at})
	if err != nil {
		return false
	}
	best := slices.MaxFunc(chains, func(a, b []*x509.Certificate) int { return earliestEnd(a).Compare(earliestEnd(b)) })
	for _, c := range best {
		k.narrow(c)
	}
	return true
}

func earliestEnd(chain []*x509.Certificate) time.Time {
	return slices.MinFunc(chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
}

// trustedRoot is a root that was verified, with the keys that vouch for it.
type trustedRoot struct {
	*rootDoc
	signers []*rootKey
}

// verifyRoot checks the first root against the pin and any other against its
// predecessor, and each against its own keys. Expiry is not judged here. The error is a
// *verify.Refusal.
func (p *pins) verifyRoot(gun string, root *rootDoc, prev *trustedRoot, at time.Time) (*trustedRoot, error) {
	candidates := root.certKeys(gun)
	if len(candidates) == 0 {
		return nil, verify.Refuse(verify.UntrustedSigner, "the root metadata has no certificate for %s", gun)
	}
	if prev != nil {
		before := &delegation{name: "root by the keys of the root before it", threshold: prev.roles[roleRoot].threshold}
		for _, k := range prev.certKeys(gun) {
			before.keys = append(before.keys, k.key)
		}
		if _, err := before.check(&root.document); err != nil {
			return nil, err
		}
	}
	byID := map[string]*rootKey{}
	own := &delegation{name: roleRoot, threshold: root.roles[roleRoot].threshold}
	for _, k := range candidates {
		if prev != nil || p.pinned(k, at) {
			byID[k.id] = k
			own.keys = append(own.keys, k.key)
		}
	}
	if len(own.keys) == 0 {
		return nil, verify.Refuse(verify.UntrustedSigner, "the root of %s has the key %s, which is not pinned", gun, candidates[0].id)
	}
	signers, err := own.check(&root.document)
	if err != nil {
		return nil, err
	}
	t := &trustedRoot{rootDoc: root}
	for _, k := range signers {
		t.signers = append(t.signers, byID[k.id])
	}
	return t, nil
}

// until returns when the root stops being valid: its own expiry, or the time
// at which fewer certificates than the threshold are left.
func (t *trustedRoot) until() time.Time {
	ends := make([]time.Time, 0, len(t.signers))
	for _, k := range t.signers {
		ends = append(ends, k.until)
	}
	slices.SortFunc(ends, func(a, b time.Time) int { return b.Compare(a) })
	if end := ends[t.roles[roleRoot].threshold-1]; end.Before(t.expires) {
		return end
	}
	return t.expires
}

// certified reports whether enough of its certificates are valid at t.
func (t *trustedRoot) certified(at time.Time) bool {
	return t.count(func(k *rootKey) bool { return k.validAt(at) }) >= t.roles[roleRoot].threshold
}

// started reports whether enough of its certificates are valid already at t.
func (t *trustedRoot) started(at time.Time) bool {
	return t.count(func(k *rootKey) bool { return !at.Before(k.from.Add(-notBeforeLeeway)) }) >= t.roles[roleRoot].threshold
}

func (t *trustedRoot) count(is func(*rootKey) bool) int64 {
	var n int64
	for _, k := range t.signers {
		if is(k) {
			n++
		}
	}
	return n
}
