package notation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	core "github.com/notaryproject/notation-core-go/revocation"
	corecrl "github.com/notaryproject/notation-core-go/revocation/crl"
	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-core-go/revocation/result"
	"github.com/notaryproject/notation-go/verifier/trustpolicy"
)

const (
	// ocspTimeout and crlTimeout bound one request each: what the specification
	// suggests for a pull that waits.
	ocspTimeout = 2 * time.Second
	crlTimeout  = 5 * time.Second
	// recheckAfter is how long evidence stands before revocation is looked at
	// again: OCSP answers are made anew about that often.
	recheckAfter = time.Hour
	// rememberKnown and rememberUnknown are how long the status of a chain is
	// remembered: one chain signs many images, and an attacker can copy one
	// signature into many envelopes.
	rememberKnown   = 5 * time.Minute
	rememberUnknown = 10 * time.Second
	// maxRemembered bounds the chains remembered.
	maxRemembered = 1000
	// maxHeaders bounds the header of an answer.
	maxHeaders = 64 << 10
)

// revocation checks chains against the configured lists and the network.
type revocation struct {
	mode  string
	lists *lists
	store *trustStore
	sign  core.Validator
	stamp core.Validator

	mu    sync.Mutex
	known map[[sha256.Size]byte]remembered
}

type remembered struct {
	results []*result.CertRevocationResult
	until   time.Time
	of      string // the generation of the lists
}

func newRevocation(c Revocation, store *trustStore) (*revocation, error) {
	r := &revocation{mode: c.Mode, store: store, known: map[[sha256.Size]byte]remembered{}}
	switch r.mode {
	case "":
		r.mode = modeStrict
	case modeStrict, modeSoft:
	case modeSkip:
		if len(c.CRLs) > 0 || c.CRLDir != "" {
			return nil, errors.New("revocation: revocation lists have no effect with mode skip: remove one or the other")
		}
	default:
		return nil, fmt.Errorf("revocation: mode: %q is not one: write strict, soft or skip", c.Mode)
	}
	var err error
	if r.lists, err = newLists(c); err != nil {
		return nil, err
	}
	fetcher, err := corecrl.NewHTTPFetcher(newClient(crlTimeout))
	if err != nil {
		return nil, fmt.Errorf("revocation: %w", err)
	}
	fetcher.Cache, fetcher.DiscardCacheError = &crlCache{}, true
	options := core.Options{OCSPHTTPClient: newClient(ocspTimeout), CRLFetcher: fetcher, CertChainPurpose: purpose.CodeSigning}
	if r.sign, err = core.NewWithOptions(options); err != nil {
		return nil, fmt.Errorf("revocation: %w", err)
	}
	options.CertChainPurpose = purpose.Timestamping
	if r.stamp, err = core.NewWithOptions(options); err != nil {
		return nil, fmt.Errorf("revocation: %w", err)
	}
	return r, nil
}

// newClient returns a client for what certificates point to. It uses no proxy
// of the environment, follows no redirect and asks for no compression; bodies
// are bounded by notation-core-go (OCSP 20 KiB, CRL 32 MiB).
func newClient(timeout time.Duration) *http.Client {
	dialer := &net.Dialer{Timeout: timeout, Control: guardDial}
	return &http.Client{Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DialContext: dialer.DialContext, DisableCompression: true, DisableKeepAlives: true,
			ResponseHeaderTimeout: timeout, MaxResponseHeaderBytes: maxHeaders}}
}

// guardDial refuses addresses at which no responder is and metadata services
// of clouds are. The addresses come from certificates of trusted authorities
// only; private networks are allowed, since companies' responders are there.
func guardDial(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial a revocation server: %w", err)
	}
	if ip := at.Addr().Unmap(); ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return fmt.Errorf("dial a revocation server: %s is link-local, multicast or unspecified", ip)
	}
	return nil
}

// override tells notation-go that nothing is checked.
func (r *revocation) override() map[trustpolicy.ValidationType]trustpolicy.ValidationAction {
	if r.mode != modeSkip {
		return nil
	}
	return map[trustpolicy.ValidationType]trustpolicy.ValidationAction{trustpolicy.TypeRevocation: trustpolicy.ActionSkip}
}

// recheck returns when evidence has to be looked at again; zero for never.
func (r *revocation) recheck() time.Time {
	if r.mode == modeSkip {
		return time.Time{}
	}
	return time.Now().Add(recheckAfter)
}

func (r *revocation) refresh()           { r.lists.refresh() }
func (r *revocation) generation() string { return r.lists.generation() }

func (r *revocation) codeSigning() core.Validator  { return &validator{revocation: r} }
func (r *revocation) timestamping() core.Validator { return &validator{revocation: r, stamps: true} }

// validator is what notation-go asks about one kind of chain.
type validator struct {
	*revocation
	stamps bool
}

// ValidateContext implements revocation.Validator of notation-core-go. What it
// found goes into the notes of the verification too: the library only says
// that something failed.
func (v *validator) ValidateContext(ctx context.Context, o core.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	n, ok := ctx.Value(notesKey{}).(*notes)
	if !ok {
		n = &notes{}
	}
	if v.mode == modeSkip {
		return good(o.CertChain), nil
	}
	if !v.stamps && v.store.anchor(o.CertChain, "") == nil {
		// A level that goes on after failed authenticity must not let anybody
		// choose where requests go.
		err := errors.New("the chain is not trusted: its revocation is not looked up")
		n.set(v.stamps, err, false)
		return nil, err
	}
	results, err := v.status(ctx, o)
	if err != nil {
		n.set(v.stamps, err, false)
		return nil, err
	}
	unknown, gone := judge(results)
	if unknown != nil && !gone && v.mode == modeSoft {
		n.warn(v.stamps, unknown)
		return good(o.CertChain), nil
	}
	n.set(v.stamps, unknown, gone)
	return results, nil
}

// status returns the status of each certificate, remembered or looked up.
func (v *validator) status(ctx context.Context, o core.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	key, generation, now := v.key(o), v.generation(), time.Now()
	v.mu.Lock()
	old, ok := v.known[key]
	v.mu.Unlock()
	if ok && now.Before(old.until) && old.of == generation {
		return old.results, nil
	}
	results, err := v.lookUp(ctx, o)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	keep := rememberKnown
	if unknown, _ := judge(results); unknown != nil {
		keep = rememberUnknown
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.known) >= maxRemembered {
		clear(v.known)
	}
	v.known[key] = remembered{results: results, until: now.Add(keep), of: generation}
	return results, nil
}

func (v *validator) key(o core.ValidateContextOptions) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%t %d\n", v.stamps, o.AuthenticSigningTime.Unix())
	for _, cert := range o.CertChain {
		sum := sha256.Sum256(cert.Raw)
		_, _ = h.Write(sum[:]) // a hash does not fail
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// lookUp asks the lists first, and the network only if they leave something open.
func (v *validator) lookUp(ctx context.Context, o core.ValidateContextOptions) ([]*result.CertRevocationResult, error) {
	local := make([]*result.CertRevocationResult, len(o.CertChain))
	open := false
	for i := range o.CertChain[:len(o.CertChain)-1] {
		local[i] = v.lists.status(o.CertChain[i], o.CertChain[i+1])
		open = open || local[i] == nil
	}
	local[len(local)-1] = one(result.ResultNonRevokable, nil)
	if _, gone := judge(local); gone || !open {
		for i, r := range local {
			if r == nil {
				local[i] = one(result.ResultUnknown, errors.New("not looked up"))
			}
		}
		return local, nil
	}
	check := v.sign
	if v.stamps {
		check = v.stamp
	}
	remote, err := check.ValidateContext(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("check the revocation of a chain: %w", err)
	}
	for i, r := range local {
		if r != nil && remote[i].Result != result.ResultRevoked {
			remote[i] = r
		}
	}
	return remote, nil
}

func one(r result.Result, err error) *result.CertRevocationResult {
	return &result.CertRevocationResult{Result: r, ServerResults: []*result.ServerResult{{Result: r, Error: err}}}
}

func good(chain []*x509.Certificate) []*result.CertRevocationResult {
	out := make([]*result.CertRevocationResult, len(chain))
	for i := range out {
		out[i] = one(result.ResultOK, nil)
	}
	return out
}

// judge sums a chain up: why it is unknown, and whether it is revoked.
func judge(results []*result.CertRevocationResult) (unknown error, gone bool) {
	for _, r := range results {
		switch {
		case r == nil:
		case r.Result == result.ResultRevoked:
			gone = true
		case r.Result == result.ResultUnknown:
			unknown = errors.New("it cannot be found out")
			for _, s := range r.ServerResults {
				if s.Error != nil {
					unknown = errors.Join(unknown, s.Error)
				}
			}
		}
	}
	return unknown, gone
}

// notes is what the revocation checks of one verification found.
type notes struct {
	mu       sync.Mutex
	sign     note
	stamp    note
	warnings []string
}

type note struct {
	unknown error
	gone    bool
}

type notesKey struct{}

func (n *notes) set(stamps bool, unknown error, gone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if stamps {
		n.stamp = note{unknown, gone}
	} else {
		n.sign = note{unknown, gone}
	}
}

func (n *notes) warn(stamps bool, _ error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	whose := "the signer's certificates"
	if stamps {
		whose = "the timestamp authority's certificates"
	}
	n.warnings = append(n.warnings, "revocation mode soft: the revocation status of "+whose+" is unknown")
}

func (n *notes) signing() (unknown error, gone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sign.unknown, n.sign.gone
}

func (n *notes) timestamping() (unknown error, gone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stamp.unknown, n.stamp.gone
}

func (n *notes) passed() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.warnings
}
