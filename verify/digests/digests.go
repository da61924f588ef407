// Package digests vouches for what a pinned list names: one
//
//	registry/repository[:tag]@sha256:…
//
// a line, with `#` comments. It is the scheme for images that nobody signs, and
// for the moment before they are.
//
// A line without a tag vouches for the digest in that repository, whatever tag
// it is pulled by. A line with a tag vouches for that tag, and for pulls by
// digest; another tag has to have a line of its own. A tag that has lines, but
// none with the digest at hand, is digest-mismatch; everything else that is not
// listed is unsigned.
//
// The package reads no registry and trusts the list, as it was read at the
// start. A list does not expire.
package digests

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/verify"
)

// maxLines bounds a list: at about 150 bytes each it has 150 MiB then, and
// wants another scheme.
const maxLines = 1_000_000

// Config is a pinned list.
type Config struct {
	// Name is what messages call the list, such as its file's name.
	Name string
	// Text is the list.
	Text []byte
}

// Verifier vouches for the digests of one list.
type Verifier struct {
	name    string
	signer  verify.Signer
	anyTag  map[pin]bool
	tagged  map[pin]bool
	tags    map[string]bool // "registry/repository:tag" that have lines
	hasTags bool
}

// pin is a line; tag is empty for a line without one.
type pin struct {
	repository, tag string
	digest          digest.Digest
}

// New reads the list. The error joins the mistakes of all lines.
func New(c Config) (*Verifier, error) {
	sum := sha256.Sum256(c.Text)
	v := &Verifier{name: cmp.Or(c.Name, "pinned"), anyTag: map[pin]bool{}, tagged: map[pin]bool{}, tags: map[string]bool{}}
	v.signer = verify.Signer{ID: fmt.Sprintf("digests:sha256:%x", sum), Name: v.name}
	var errs []error
	number := 0
	for line := range strings.Lines(string(c.Text)) {
		number++
		if number > maxLines {
			return nil, fmt.Errorf("reading %s: it has more than %d lines: split it, or sign the images", v.name, maxLines)
		}
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if err := v.add(line); err != nil {
			errs = append(errs, fmt.Errorf("%s line %d: %w", v.name, number, err))
		}
	}
	if len(v.anyTag)+len(v.tagged) == 0 && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("%s pins nothing: write one registry/repository[:tag]@sha256:… a line", v.name))
	}
	return v, errors.Join(errs...)
}

func (v *Verifier) add(line string) error {
	named, err := reference.ParseNamed(line)
	if err != nil {
		return fmt.Errorf("%q is not registry/repository[:tag]@sha256:…: %w", line, err)
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return fmt.Errorf("%q has no digest: add @sha256:…", line)
	}
	p := pin{repository: named.Name(), digest: digested.Digest()}
	if err := verify.CheckDigest(p.digest); err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	if t, ok := named.(reference.Tagged); ok {
		p.tag = t.Tag()
	}
	if v.anyTag[p] || v.tagged[p] {
		return fmt.Errorf("%q is there twice: remove one", line)
	}
	if p.tag == "" {
		v.anyTag[p] = true
		return nil
	}
	v.hasTags = true
	v.tagged[p] = true
	v.tagged[pin{repository: p.repository, digest: p.digest}] = true
	v.tags[p.repository+":"+p.tag] = true
	return nil
}

// Verify implements verify.Verifier.
func (v *Verifier) Verify(ctx context.Context, s verify.Subject) (verify.Evidence, error) {
	if err := ctx.Err(); err != nil {
		return verify.Evidence{}, err
	}
	p := pin{repository: s.Name(), tag: s.Tag, digest: s.Digest}
	if v.anyTag[pin{repository: p.repository, digest: p.digest}] || v.tagged[p] {
		found := verify.Finding{Format: "pinned digest", Digest: s.Digest, Signer: v.name, Counts: true}
		return verify.Evidence{Signers: []verify.Signer{v.signer}, Found: []verify.Finding{found}}, nil
	}
	if s.Tag != "" && v.tags[p.repository+":"+s.Tag] {
		return verify.Evidence{}, verify.Refuse(verify.DigestMismatch, "%s pins %s:%s to another digest than %s", v.name, p.repository, s.Tag, s.Digest)
	}
	return verify.Evidence{}, verify.Refuse(verify.Unsigned, "%s is not pinned by %s", s, v.name)
}

// Scope implements verify.Scoped: with tags in the list, verdicts depend on them.
func (v *Verifier) Scope(verify.Subject) verify.Scope { return verify.Scope{Tag: v.hasTags} }

var (
	_ verify.Verifier = (*Verifier)(nil)
	_ verify.Scoped   = (*Verifier)(nil)
)
