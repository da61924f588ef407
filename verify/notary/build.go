package notary

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/countersign/countersign/verify"
)

// Limits of one update.
const (
	// maxTimestamp is the reference's limit.
	maxTimestamp = 1 << 20
	// maxUnknown bounds a root whose length no parent tells. The reference
	// takes 100 MiB; a root with a hundred keys has 200 kB.
	maxUnknown = 10 << 20
	// maxKnown bounds what a parent may demand: 100,000 targets need 20 MB.
	maxKnown = 32 << 20
	// maxDelegations bounds the delegated roles of a repository, at all levels.
	maxDelegations = 256
	// maxRotations bounds the root versions walked in one update.
	maxRotations = 256
)

// repository is the verified metadata of one GUN. It is never changed.
type repository struct {
	gun        string
	root       *trustedRoot
	timestamp  *metaDoc
	snapshot   *metaDoc
	roles      map[string]*loadedRole // targets and the delegations that verified
	broken     map[string]brokenRole  // delegations that are under-signed, by name
	order      []string               // the names in roles and broken, as found: parents first
	roots      map[int64][]byte       // every root that was verified on the way, by version
	generation string
}

// brokenRole is a delegation that is under-signed: the snapshot vouches for the
// bytes, too few of its keys do.
type brokenRole struct {
	err error
	raw []byte
}

// loadedRole is targets or a delegation, verified.
type loadedRole struct {
	*targetsDoc
	by      *delegation // its keys and its paths, intersected with the parents'
	signers []*key
	until   time.Time // the earliest expiry of it and its parents
}

// builder verifies a repository below a trusted root.
type builder struct {
	gun    string
	fetch  func(ctx context.Context, name string, most int64) ([]byte, error)
	known  map[[sha256.Size]byte][]byte // files by hash, not fetched again
	seen   map[string]seen
	needed map[string]bool
	// verified are the documents that did, also if a later one does not.
	verified []*document
}

// errOtherRoot says that the snapshot was made with another root than ours:
// there is a newer one.
var errOtherRoot = verify.Refuse(verify.DigestMismatch, "the snapshot was made with another root than the one that is trusted")

// build verifies timestamp, snapshot, targets and all delegations. Expiry is
// not judged here. An error is a *verify.Refusal if something did not verify;
// any other error means that something could not be read.
func (b *builder) build(ctx context.Context, root *trustedRoot, timestamp []byte) (*repository, error) {
	r := &repository{gun: b.gun, root: root, roles: map[string]*loadedRole{}, broken: map[string]brokenRole{}, roots: map[int64][]byte{}}
	var err error
	if r.timestamp, err = parseTimestamp(timestamp); err != nil {
		return nil, malformed(roleTimestamp, err)
	}
	if _, err := b.checkDocument(&r.timestamp.document, root.roles[roleTimestamp]); err != nil {
		return nil, err
	}
	raw, err := b.read(ctx, roleSnapshot, r.timestamp.meta[roleSnapshot])
	if err != nil {
		return nil, err
	}
	if r.snapshot, err = parseSnapshot(raw); err != nil {
		return nil, malformed(roleSnapshot, err)
	}
	if _, err := b.checkDocument(&r.snapshot.document, root.roles[roleSnapshot]); err != nil {
		return nil, err
	}
	if !r.snapshot.meta[roleRoot].matches(root.raw) {
		return nil, errOtherRoot
	}
	top := *root.roles[roleTargets]
	top.paths = []string{""}
	if err := b.loadRole(ctx, r, &top, root.until()); err != nil {
		return nil, err
	}
	return r, b.loadDelegations(ctx, r)
}

// loadDelegations walks the tree, parents first. That a delegation is
// under-signed is kept for when it is asked: it is how a signer's removal looks
// until the others have signed anew. Anything else wrong with any of them is
// wrong with the repository, as in the reference.
func (b *builder) loadDelegations(ctx context.Context, r *repository) error {
	type edge struct {
		child  *delegation
		parent *loadedRole
	}
	var queue []edge
	add := func(p *loadedRole) {
		for _, d := range p.delegations {
			queue = append(queue, edge{d, p})
		}
	}
	add(r.roles[roleTargets])
	for n := 0; len(queue) > 0; n++ {
		if n == maxDelegations {
			return verify.Refuse(verify.Malformed, "the metadata of %s delegates to more than %d roles", b.gun, maxDelegations)
		}
		next := queue[0]
		queue = queue[1:]
		child := *next.child
		child.paths = restrict(next.parent.by.paths, child.paths)
		err := b.loadRole(ctx, r, &child, next.parent.until)
		switch {
		case underSigned(err):
			r.order = append(r.order, child.name)
			r.broken[child.name] = brokenRole{err: err, raw: b.known[[sha256.Size]byte(r.snapshot.meta[child.name].sha256)]}
		case err != nil:
			return err
		case r.roles[child.name] != nil:
			add(r.roles[child.name])
		}
	}
	r.generation = b.generation(r)
	return nil
}

func underSigned(err error) bool {
	var refusal *verify.Refusal
	if !errors.As(err, &refusal) {
		return false
	}
	switch refusal.Reason {
	case verify.UntrustedSigner, verify.BadSignature, verify.BelowThreshold:
		return true
	}
	return false
}

// loadRole verifies one targets role into r. A delegation that the snapshot
// does not list has not been published yet, unless it was seen before.
func (b *builder) loadRole(ctx context.Context, r *repository, d *delegation, until time.Time) error {
	meta, ok := r.snapshot.meta[d.name]
	if !ok {
		if _, ok := b.seen[d.name]; ok {
			return verify.Refuse(verify.Rollback, "the snapshot no longer lists %s, which is still delegated", d.name)
		}
		return nil
	}
	raw, err := b.read(ctx, d.name, meta)
	if err != nil {
		return err
	}
	doc, err := parseTargets(d.name, raw)
	if err != nil {
		return malformed(d.name, err)
	}
	signers, err := b.checkDocument(&doc.document, d)
	if err != nil {
		return err
	}
	if doc.expires.Before(until) {
		until = doc.expires
	}
	r.roles[d.name] = &loadedRole{targetsDoc: doc, by: d, signers: signers, until: until}
	r.order = append(r.order, d.name)
	return nil
}

// checkDocument verifies the signatures and that the version has not gone
// back, nor stayed with other content.
func (b *builder) checkDocument(doc *document, d *delegation) ([]*key, error) {
	signers, err := d.check(doc)
	if err != nil {
		return nil, err
	}
	if err := b.seen[doc.role].allows(doc); err != nil {
		return nil, err
	}
	b.verified = append(b.verified, doc)
	return signers, nil
}

// read returns the bytes that a parent describes, from what was verified
// before or from the server, by their hash.
func (b *builder) read(ctx context.Context, role string, meta fileMeta) ([]byte, error) {
	if meta.length > maxKnown {
		return nil, verify.Refuse(verify.Malformed, "the metadata of %s would have %d bytes; at most %d are allowed", role, meta.length, maxKnown)
	}
	raw, ok := b.known[[sha256.Size]byte(meta.sha256)]
	if !ok {
		var err error
		raw, err = b.fetch(ctx, role+"."+hex.EncodeToString(meta.sha256)+".json", meta.length)
		if err != nil {
			return nil, fetchError(role, err)
		}
	}
	if !meta.matches(raw) {
		return nil, verify.Refuse(verify.DigestMismatch, "the metadata of %s is not what the metadata above it says", role)
	}
	b.known[[sha256.Size]byte(meta.sha256)] = raw
	return raw, nil
}

// fetchError keeps "could not read" apart from "read too much": an endless
// answer is an answer.
func fetchError(role string, err error) error {
	var refusal *verify.Refusal
	if errors.As(err, &refusal) {
		return err
	}
	if errors.Is(err, ErrTooLarge) {
		return &verify.Refusal{Reason: verify.Malformed, Message: "the metadata of " + role + " is longer than it may be", Err: err}
	}
	if errors.Is(err, fs.ErrNotExist) {
		// Not wrapped: to those above, absent means that nothing was ever signed.
		return fmt.Errorf("read %s metadata: the trust server does not have it: %v", role, err)
	}
	return fmt.Errorf("read %s metadata: %w", role, err)
}

// generation names the content that verdicts rest on. The timestamp is not
// part of it, nor are roles that nobody asks.
func (b *builder) generation(r *repository) string {
	h := sha256.New()
	fmt.Fprintf(h, "root %x\n", r.root.sum)
	for _, name := range slices.Sorted(maps.Keys(b.needed)) {
		if l, ok := r.roles[name]; ok {
			fmt.Fprintf(h, "%s %x %q\n", name, l.sum, l.by.paths)
		}
		if broken, ok := r.broken[name]; ok {
			fmt.Fprintf(h, "%s broken %s\n", name, broken.err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// documents returns every verified document of the repository.
func (r *repository) documents() []*document {
	docs := []*document{&r.root.document, &r.timestamp.document, &r.snapshot.document}
	for _, name := range r.order {
		if l, ok := r.roles[name]; ok {
			docs = append(docs, &l.document)
		}
	}
	return docs
}

// knownFiles returns the raw bytes of the repository by hash.
func (r *repository) knownFiles() map[[sha256.Size]byte][]byte {
	known := map[[sha256.Size]byte][]byte{}
	if r != nil {
		for _, d := range r.documents() {
			known[d.sum] = d.raw
		}
		for _, broken := range r.broken {
			known[sha256.Sum256(broken.raw)] = broken.raw
		}
	}
	return known
}
