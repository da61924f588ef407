package notary

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/countersign/countersign/verify"
)

// One update with all its fetches ends after half the refresh interval, but
// not before the shorter and not after the longer of these.
const (
	updateTimeout    = 30 * time.Second
	minUpdateTimeout = 5 * time.Second
)

// update brings the metadata of a GUN up to date. It returns the verified
// repository, which is old if nothing changed. A *verify.Refusal means that
// the server's metadata does not verify; any other error, that it could not be
// read. old may be nil.
func (v *Verifier) update(ctx context.Context, gun string, old *repository) (*repository, error) {
	rec, err := v.loadRecord(gun)
	if err != nil {
		return nil, err
	}
	u := &updater{v: v, gun: gun, rec: rec, old: old, walked: map[int64][]byte{}}
	if old == nil {
		if u.root, err = u.bootstrap(ctx); err != nil {
			return nil, err
		}
	} else {
		u.root = old.root
	}
	repo, err := u.run(ctx)
	if err != nil {
		// What did verify must not be rolled back, even if the rest did not. If
		// it cannot be stored, the answer is no better than it would have been.
		_ = v.store(gun, rec, func(r *record) (*record, error) {
			return r.raised(u.root, u.walked, u.verified, v.pins.anchor, v.clock()), nil
		})
		return nil, err
	}
	if repo == old {
		return repo, nil
	}
	return repo, v.store(gun, rec, func(r *record) (*record, error) {
		r.forget()
		return r.with(repo, v.pins.anchor, v.clock()), r.check(repo)
	})
}

// updater is one update of one repository.
type updater struct {
	v      *Verifier
	gun    string
	rec    *record
	old    *repository
	root   *trustedRoot
	walked map[int64][]byte // the roots that were verified in this update

	verified []*document // what verified in it, whatever came of it
}

// run follows the reference: first with the root at hand; if something does
// not verify, with a newer root, once.
func (u *updater) run(ctx context.Context) (*repository, error) {
	if !u.root.until().After(u.v.clock()) {
		if _, err := u.rotate(ctx); err != nil && !u.v.frozen(u.v.clock()) {
			return nil, err
		}
	}
	timestamp, err := u.v.fetch.Fetch(ctx, u.gun, roleTimestamp+".json", maxTimestamp)
	if err != nil {
		return nil, fetchError(roleTimestamp, err)
	}
	repo, err := u.build(ctx, timestamp)
	var refusal *verify.Refusal
	if err == nil || !errors.As(err, &refusal) {
		return repo, err
	}
	rotated, rotateErr := u.rotate(ctx)
	if rotateErr != nil {
		return nil, rotateErr
	}
	if !rotated {
		return nil, err
	}
	return u.build(ctx, timestamp)
}

func (u *updater) build(ctx context.Context, timestamp []byte) (*repository, error) {
	if u.old != nil && u.old.root == u.root && bytes.Equal(timestamp, u.old.timestamp.raw) {
		return u.old, u.rec.check(u.old)
	}
	u.rec.forget()
	b := u.v.builder(u.gun, u.rec, u.old.knownFiles())
	b.fetch = func(ctx context.Context, name string, most int64) ([]byte, error) {
		return u.v.fetch.Fetch(ctx, u.gun, name, most)
	}
	repo, err := b.build(ctx, u.root, timestamp)
	u.verified = append(u.verified, b.verified...)
	var refusal *verify.Refusal
	if err != nil && !errors.As(err, &refusal) {
		return nil, &outdatedError{err}
	}
	if err != nil {
		return nil, err
	}
	if err := u.rec.Seen[roleRoot].allows(&u.root.document); err != nil {
		return nil, err
	}
	u.keepRoots(repo)
	return repo, nil
}

// outdatedError says that the server has newer metadata, by a timestamp that
// verified, but that it could not be read: what is known is known to be old.
type outdatedError struct{ err error }

func (e *outdatedError) Error() string { return "there is newer metadata: " + e.err.Error() }
func (e *outdatedError) Unwrap() error { return e.err }

// keepRoots carries the history along for those who still have an old root.
func (u *updater) keepRoots(repo *repository) {
	if u.old != nil {
		for version, raw := range u.old.roots {
			repo.roots[version] = raw
		}
	}
	for version, raw := range u.walked {
		repo.roots[version] = raw
	}
	for version := range repo.roots {
		if version <= repo.root.version-maxRotations {
			delete(repo.roots, version)
		}
	}
}

// bootstrap finds a root to begin with: the one in the state, even if nothing
// else there is of use; else the server's current one, which the pin has to
// vouch for, or one that follows from the pinned file. That the server has none,
// and never had, means that nothing is signed.
func (u *updater) bootstrap(ctx context.Context) (*trustedRoot, error) {
	if root, err := u.v.restoreRoot(u.gun, u.rec); err == nil {
		u.walked = u.rec.roots()
		return root, nil
	}
	raw, err := u.v.fetch.Fetch(ctx, u.gun, roleRoot+".json", maxUnknown)
	if errors.Is(err, fs.ErrNotExist) && u.rec.stored == nil {
		return nil, verify.Refuse(verify.Unsigned, "the trust server has no metadata of %s", u.gun)
	}
	if err != nil {
		return nil, fetchError(roleRoot, err)
	}
	if u.v.pins.root != nil {
		root, err := u.v.pins.verifyRoot(u.gun, u.v.pins.root, nil, u.v.clock())
		if err != nil {
			return nil, err
		}
		u.walked[root.version] = root.raw
		u.root = root
		_, err = u.rotate(ctx)
		return u.root, err
	}
	if u.v.pins.firstUse && u.rec.stored != nil {
		return nil, fmt.Errorf("load the trust state of %s: the root that was trusted on first use does not verify: restore the state, or pin a root", u.gun)
	}
	root, err := parseRoot(raw)
	if err != nil {
		return nil, malformed(roleRoot, err)
	}
	trusted, err := u.v.pins.verifyRoot(u.gun, root, nil, u.v.clock())
	if err != nil {
		return nil, err
	}
	u.walked[trusted.version] = trusted.raw
	return trusted, u.rec.Seen[roleRoot].allows(&root.document)
}

// rotate walks to the newest root through every version between. It reports
// whether there was one.
func (u *updater) rotate(ctx context.Context) (bool, error) {
	rotated := false
	for range maxRotations {
		raw, err := u.nextRoot(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			return rotated, nil
		}
		if err != nil {
			return rotated, fetchError(roleRoot, err)
		}
		root, err := parseRoot(raw)
		if err != nil {
			return rotated, malformed(roleRoot, err)
		}
		if root.version != u.root.version+1 {
			return rotated, verify.Refuse(verify.Rollback, "the root after version %d has version %d", u.root.version, root.version)
		}
		now := u.v.clock()
		trusted, err := u.v.pins.verifyRoot(u.gun, root, u.root, now)
		if err != nil {
			return rotated, err
		}
		if !u.v.frozen(now) && !trusted.certified(now) {
			return rotated, verify.Refuse(verify.Expired, "the certificate of root version %d is not valid now", root.version)
		}
		u.root, rotated = trusted, true
		u.walked[root.version] = raw
	}
	return rotated, verify.Refuse(verify.Malformed, "there are more than %d newer roots of %s", maxRotations, u.gun)
}

// nextRoot fetches the root after the trusted one. Servers before 0.6.0 do not
// serve roots by version: there the current root may be it.
func (u *updater) nextRoot(ctx context.Context) ([]byte, error) {
	next := u.root.version + 1
	raw, err := u.v.fetch.Fetch(ctx, u.gun, strconv.FormatInt(next, 10)+".root.json", maxUnknown)
	if !errors.Is(err, fs.ErrNotExist) {
		return raw, err
	}
	if raw, err = u.v.fetch.Fetch(ctx, u.gun, roleRoot+".json", maxUnknown); err != nil {
		return nil, err
	}
	root, err := parseRoot(raw)
	switch {
	case err != nil:
		return nil, malformed(roleRoot, err)
	case root.version == next:
		return raw, nil
	case root.version < u.root.version:
		return nil, verify.Refuse(verify.Rollback, "the server's root has version %d; version %d was seen before", root.version, u.root.version)
	}
	return nil, fs.ErrNotExist
}

// restore verifies what the State holds, without the network. It returns nil
// if that is not a whole repository, or not one that the pin vouches for: then
// everything starts again from the pin, with the versions that were seen.
func (v *Verifier) restore(ctx context.Context, gun string) (*repository, error) {
	rec, err := v.loadRecord(gun)
	if err != nil || rec.stored == nil {
		return nil, err
	}
	known := map[[sha256.Size]byte][]byte{}
	for _, raw := range rec.Files {
		known[sha256.Sum256(raw)] = raw
	}
	root, err := v.restoreRoot(gun, rec)
	if err != nil {
		return nil, nil //nolint:nilerr // the pin was changed
	}
	b := v.builder(gun, rec, known)
	repo, err := b.build(ctx, root, rec.Files[roleTimestamp])
	if err != nil {
		return nil, nil //nolint:nilerr // the state was damaged
	}
	repo.roots = rec.roots()
	v.floor(rec.At)
	return repo, nil
}

// restoreRoot verifies the stored root. If it was trusted under this pin, that
// stands; else the pin has to vouch for it, a pinned file through every root in
// between.
func (v *Verifier) restoreRoot(gun string, rec *record) (*trustedRoot, error) {
	root, err := parseRoot(rec.Files[roleRoot])
	if err != nil {
		return nil, err
	}
	if rec.Anchor == v.pins.anchor {
		return (&pins{firstUse: true}).verifyRoot(gun, root, nil, v.clock())
	}
	if v.pins.root == nil {
		return v.pins.verifyRoot(gun, root, nil, v.clock())
	}
	trusted, err := v.pins.verifyRoot(gun, v.pins.root, nil, v.clock())
	for err == nil && trusted.version < root.version {
		var next *rootDoc
		if next, err = parseRoot(rec.Roots[strconv.FormatInt(trusted.version+1, 10)]); err == nil {
			trusted, err = v.pins.verifyRoot(gun, next, trusted, v.clock())
		}
	}
	if err == nil && trusted.sum != root.sum {
		err = errors.New("the stored root does not follow from the pinned one")
	}
	return trusted, err
}

func (v *Verifier) builder(gun string, rec *record, known map[[sha256.Size]byte][]byte) *builder {
	return &builder{gun: gun, known: known, seen: rec.Seen, needed: v.needed,
		fetch: func(context.Context, string, int64) ([]byte, error) { return nil, errOffline }}
}

// errOffline says that the state lacks a file.
var errOffline = errors.New("the state does not hold it")
