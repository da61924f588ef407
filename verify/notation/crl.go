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
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corecrl "github.com/notaryproject/notation-core-go/revocation/crl"
	"github.com/notaryproject/notation-core-go/revocation/result"
)

const (
	// maxCRL bounds a revocation list; the largest known ones have 16 MiB.
	maxCRL = 32 << 20
	// maxCRLs bounds the lists, maxCRLBytes their sum.
	maxCRLs     = 1000
	maxCRLBytes = 64 << 20
	// rereadAfter is how often the directory is read again.
	rereadAfter = time.Minute
	// maxCached bounds the lists kept from the network: one for each authority
	// that certifies signers.
	maxCached = 16
)

// lists are the revocation lists of the configuration.
type lists struct {
	fixed   [][]byte
	dir     string
	current atomic.Pointer[listSet]
	reading sync.Mutex
	read    atomic.Int64 // when, in Unix nanoseconds
}

// listSet is what was read at one time. It is never changed.
type listSet struct {
	byIssuer map[string][]*list // by the issuer's raw subject
	name     string
}

// list is one CRL (RFC 5280), its signature not yet verified.
type list struct {
	crl     *x509.RevocationList
	revoked map[string]bool // by serial number
}

func newLists(c Revocation) (*lists, error) {
	l := &lists{fixed: c.CRLs, dir: c.CRLDir}
	set, err := l.load()
	if err != nil {
		return nil, fmt.Errorf("revocation: %w", err)
	}
	l.current.Store(set)
	l.read.Store(time.Now().UnixNano())
	return l, nil
}

// generation names the lists; empty if none are configured.
func (l *lists) generation() string { return l.current.Load().name }

// refresh reads the directory again if it is time. A directory that cannot be
// read leaves the lists as they are: each of them ends by itself.
func (l *lists) refresh() {
	if l.dir == "" || time.Since(time.Unix(0, l.read.Load())) < rereadAfter || !l.reading.TryLock() {
		return
	}
	defer l.reading.Unlock()
	if set, err := l.load(); err == nil {
		l.current.Store(set)
	}
	l.read.Store(time.Now().UnixNano())
}

func (l *lists) load() (*listSet, error) {
	set := &listSet{byIssuer: map[string][]*list{}}
	h := sha256.New()
	add := func(name string, body []byte) error {
		parsed, err := parseCRL(body)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		key := string(parsed.crl.RawIssuer)
		set.byIssuer[key] = append(set.byIssuer[key], parsed)
		sum := sha256.Sum256(body)
		_, _ = h.Write(sum[:]) // a hash does not fail
		return nil
	}
	for i, body := range l.fixed {
		if err := add(fmt.Sprintf("crl %d", i+1), body); err != nil {
			return nil, err
		}
	}
	if err := l.readDir(add); err != nil {
		return nil, fmt.Errorf("crl_dir: %w", err)
	}
	if len(set.byIssuer) > 0 {
		set.name = "crl-" + hex.EncodeToString(h.Sum(nil)[:8])
	}
	return set, nil
}

func (l *lists) readDir(add func(string, []byte) error) error {
	if l.dir == "" {
		return nil
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return err
	}
	left, count := int64(maxCRLBytes), 0
	for _, e := range entries {
		if !slices.Contains([]string{".crl", ".pem", ".der"}, strings.ToLower(filepath.Ext(e.Name()))) {
			continue
		}
		if count++; count > maxCRLs {
			return fmt.Errorf("there are more than %d lists", maxCRLs)
		}
		body, err := readBounded(filepath.Join(l.dir, e.Name()), min(maxCRL, left))
		if err != nil {
			return err
		}
		left -= int64(len(body))
		if err := add(e.Name(), body); err != nil {
			return err
		}
	}
	return nil
}

func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > most {
		return nil, fmt.Errorf("%s: revocation lists have more than %d bytes, or %d together", filepath.Base(name), maxCRL, maxCRLBytes)
	}
	return body, nil
}

// parseCRL refuses lists that say less than everything: deltas and such with a
// scope (both are marked by critical extensions) would make revoked
// certificates look good.
func parseCRL(body []byte) (*list, error) {
	if block, rest := pem.Decode(body); block != nil {
		if block.Type != "X509 CRL" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, errors.New("it has to be one revocation list (X509 CRL)")
		}
		body = block.Bytes
	}
	crl, err := x509.ParseRevocationList(body)
	if err != nil {
		return nil, fmt.Errorf("it is not a revocation list: %w", err)
	}
	for _, ext := range crl.Extensions {
		if ext.Critical {
			return nil, fmt.Errorf("it is a partial list (extension %s): give the whole one", ext.Id)
		}
	}
	if crl.NextUpdate.IsZero() {
		return nil, errors.New("it does not say when it ends (nextUpdate)")
	}
	l := &list{crl: crl, revoked: make(map[string]bool, len(crl.RevokedCertificateEntries))}
	for _, entry := range crl.RevokedCertificateEntries {
		l.revoked[string(entry.SerialNumber.Bytes())] = true
	}
	return l, nil
}

// status returns what the lists in force say of a certificate, or nil if none
// is of its issuer. One list that revokes it is enough.
func (l *lists) status(cert, issuer *x509.Certificate) *result.CertRevocationResult {
	now := time.Now()
	var known *result.CertRevocationResult
	for _, x := range l.current.Load().byIssuer[string(issuer.RawSubject)] {
		revoked := x.revoked[string(cert.SerialNumber.Bytes())]
		inForce := !now.Before(x.crl.ThisUpdate) && now.Before(x.crl.NextUpdate)
		// A revocation stands, however old the list.
		if !revoked && !inForce || x.crl.CheckSignatureFrom(issuer) != nil {
			continue
		}
		if revoked {
			return one(result.ResultRevoked, nil)
		}
		known = one(result.ResultOK, nil)
	}
	return known
}

// crlCache keeps lists from the network in memory until they end, at most for
// recheckAfter.
type crlCache struct {
	mu      sync.Mutex
	bundles map[string]cachedCRL
}

type cachedCRL struct {
	bundle *corecrl.Bundle
	until  time.Time
}

// Get implements crl.Cache of notation-core-go.
func (c *crlCache) Get(_ context.Context, url string) (*corecrl.Bundle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x, ok := c.bundles[url]
	if !ok || time.Now().After(x.until) {
		return nil, corecrl.ErrCacheMiss
	}
	return x.bundle, nil
}

// Set implements crl.Cache of notation-core-go.
func (c *crlCache) Set(_ context.Context, url string, bundle *corecrl.Bundle) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bundles == nil || len(c.bundles) >= maxCached {
		c.bundles = map[string]cachedCRL{}
	}
	c.bundles[url] = cachedCRL{bundle, time.Now().Add(recheckAfter)}
	return nil
}
