package notary

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strconv"
	"time"

	"github.com/countersign/countersign/verify"
)

// maxSwaps bounds how often a change of the state is tried again because
// another process was quicker.
const maxSwaps = 8

// State keeps what must survive a restart and be shared by replicas: for each
// GUN the highest version and the hash of every role that verified, and the
// verified metadata itself. It is trusted: whoever can change it can roll
// metadata back, and with Pin.FirstUse replace the root. Use one State for each
// trust server. *cache.Table is one.
type State interface {
	// Load returns the value of a key, or an error that wraps fs.ErrNotExist.
	Load(key string) ([]byte, error)
	// Swap replaces the value if it is still old; old is nil for a key that is
	// not there. Any error makes the caller load and try again, a few times.
	Swap(key string, old, new []byte) error
}

// seen is the highest version of a role that verified, and its hash.
type seen struct {
	Version int64  `json:"version"`
	SHA256  string `json:"sha256"`
}

// allows refuses a version below the one that was seen (CVE-2022-29173), and
// the same version with other bytes. The zero value allows everything.
func (s seen) allows(doc *document) error {
	if doc.version < s.Version {
		return verify.Refuse(verify.Rollback, "the metadata of %s has version %d; version %d was seen before", doc.role, doc.version, s.Version)
	}
	if doc.version == s.Version && hex.EncodeToString(doc.sum[:]) != s.SHA256 {
		return verify.Refuse(verify.Rollback, "the metadata of %s has version %d as before, but other content", doc.role, doc.version)
	}
	return nil
}

// record is what the State holds for one GUN.
type record struct {
	Seen  map[string]seen   `json:"seen"`
	Files map[string][]byte `json:"files"` // by role, as last read below a snapshot that verified
	Roots map[string][]byte `json:"roots"` // by version
	// Anchor names the pin that the roots were trusted by: under another pin
	// they have to satisfy that one.
	Anchor string `json:"anchor"`
	// At is when it was written: a clock that is behind it has been set back.
	At time.Time `json:"at"`

	stored []byte // what the State holds; nil if nothing
}

func (v *Verifier) loadRecord(gun string) (*record, error) {
	stored, err := v.state.Load(gun)
	if errors.Is(err, fs.ErrNotExist) {
		return &record{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load the trust state of %s: %w", gun, err)
	}
	r := &record{stored: stored}
	if err := json.Unmarshal(stored, r); err != nil {
		return nil, fmt.Errorf("load the trust state of %s: it is damaged: %w", gun, err)
	}
	return r, nil
}

// check refuses a repository that is older than the record.
func (r *record) check(repo *repository) error {
	for _, d := range repo.documents() {
		if err := r.Seen[d.role].allows(d); err != nil {
			return err
		}
	}
	return nil
}

// roots returns the stored roots by version.
func (r *record) roots() map[int64][]byte {
	out := map[int64][]byte{}
	for version, raw := range r.Roots {
		if n, err := strconv.ParseInt(version, 10, 64); err == nil {
			out[n] = raw
		}
	}
	return out
}

// with returns the record after repo was verified. What was seen is kept also
// for roles that are gone: a role that comes back goes on from there.
func (r *record) with(repo *repository, anchor string, at time.Time) *record {
	next := &record{Seen: map[string]seen{}, Files: map[string][]byte{}, Roots: map[string][]byte{}, Anchor: anchor, At: at}
	maps.Copy(next.Seen, r.Seen)
	for _, d := range repo.documents() {
		next.Seen[d.role] = seen{Version: d.version, SHA256: hex.EncodeToString(d.sum[:])}
		next.Files[d.role] = d.raw
	}
	for name, broken := range repo.broken {
		next.Files[name] = broken.raw
	}
	for version, raw := range repo.roots {
		next.Roots[strconv.FormatInt(version, 10)] = raw
	}
	return next
}

// forget drops what was seen of timestamp and snapshot if the stored root no
// longer names the keys that signed one of them: that is how a repository
// recovers from a stolen online key with which versions were run up (TUF 1.0,
// 5.3.11). As in the reference, it takes one refresh that is refused: in that
// one the new root is stored.
func (r *record) forget() {
	root, err := parseRoot(r.Files[roleRoot])
	if err != nil {
		return
	}
	for role, parse := range map[string]func([]byte) (*metaDoc, error){roleTimestamp: parseTimestamp, roleSnapshot: parseSnapshot} {
		doc, err := parse(r.Files[role])
		if err != nil {
			continue
		}
		if _, err := root.roles[role].check(&doc.document); err != nil {
			r.Seen = maps.Clone(r.Seen)
			delete(r.Seen, roleTimestamp)
			delete(r.Seen, roleSnapshot)
			return
		}
	}
}

// raised returns the record after some documents verified and others did not:
// their versions are seen, and the root is the one to go on from.
func (r *record) raised(root *trustedRoot, walked map[int64][]byte, docs []*document, anchor string, at time.Time) *record {
	next := *r
	next.Seen, next.Files, next.Roots, next.At = map[string]seen{}, map[string][]byte{}, map[string][]byte{}, at
	maps.Copy(next.Seen, r.Seen)
	maps.Copy(next.Files, r.Files)
	maps.Copy(next.Roots, r.Roots)
	for _, d := range append(docs, &root.document) {
		if d.version > next.Seen[d.role].Version {
			next.Seen[d.role] = seen{Version: d.version, SHA256: hex.EncodeToString(d.sum[:])}
			next.Files[d.role] = d.raw
		}
	}
	if next.Seen[roleRoot].SHA256 == hex.EncodeToString(root.sum[:]) {
		next.Files[roleRoot], next.Anchor = root.raw, anchor
		for version, raw := range walked {
			next.Roots[strconv.FormatInt(version, 10)] = raw
		}
	}
	return &next
}

// store replaces the record by what change makes of it; if another process was
// quicker, of what that one wrote. An error of change ends it.
func (v *Verifier) store(gun string, rec *record, change func(*record) (*record, error)) error {
	for try := 0; ; try++ {
		next, err := change(rec)
		if err != nil || unchanged(rec, next) {
			return err
		}
		encoded, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("store the trust state of %s: %w", gun, err)
		}
		if err = v.state.Swap(gun, rec.stored, encoded); err == nil {
			return nil
		}
		if try == maxSwaps {
			return fmt.Errorf("store the trust state of %s: %w", gun, err)
		}
		if rec, err = v.loadRecord(gun); err != nil {
			return err
		}
	}
}

func unchanged(a, b *record) bool {
	return a.stored != nil && a.Anchor == b.Anchor && maps.Equal(a.Seen, b.Seen) && maps.EqualFunc(a.Files, b.Files, bytes.Equal) &&
		maps.EqualFunc(a.Roots, b.Roots, bytes.Equal)
}
