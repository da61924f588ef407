package notary

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/verify"
)

// Report is what is known of a repository: what "docker trust inspect
// --pretty" and "notary list" show, with every expiry.
type Report struct {
	GUN       string       `json:"gun"`
	Server    string       `json:"server,omitempty"`
	Tags      []TagReport  `json:"tags"`
	Signers   []RoleReport `json:"signers"` // the delegations below targets but targets/releases
	Roles     []RoleReport `json:"roles"`   // all, signers too
	Expires   time.Time    `json:"expires"` // the earliest of root, timestamp, snapshot and targets
	Refreshed time.Time    `json:"refreshed,omitzero"`
	Frozen    bool         `json:"frozen,omitempty"` // expired, and standing until FrozenUntil only
	Problem   string       `json:"problem,omitempty"`
}

// TagReport is a tag as one accepted role has it; the first role that has it
// decides what is admitted.
type TagReport struct {
	Tag     string        `json:"tag"`
	Digest  digest.Digest `json:"digest"`
	Size    int64         `json:"size"`
	Role    string        `json:"role"`
	Signers []string      `json:"signers"` // the delegations that say the same
}

// RoleReport is a role with its keys.
type RoleReport struct {
	Name      string        `json:"name"`
	Version   int64         `json:"version,omitempty"` // 0 if nothing was published or it does not verify
	Expires   time.Time     `json:"expires,omitzero"`
	Digest    digest.Digest `json:"digest,omitempty"` // of the metadata
	Paths     []string      `json:"paths,omitempty"`
	Threshold int64         `json:"threshold"`
	Keys      []KeyReport   `json:"keys"`
	Problem   string        `json:"problem,omitempty"`
}

// KeyReport is a key of a role.
type KeyReport struct {
	ID          string `json:"id"`                     // as metadata and Pin.RootKeys have it
	CanonicalID string `json:"canonical_id,omitempty"` // as docker trust shows it
	Signer      string `json:"signer,omitempty"`       // as verify.Signer has it
	Type        string `json:"type"`
	Signed      bool   `json:"signed"`
}

// Inspect returns what is known of a repository after asking the server if
// the knowledge is older than the refresh interval. Expired or refused metadata
// is shown with its Problem; the error is that of a pull if there is nothing to
// show.
func (v *Verifier) Inspect(ctx context.Context, gun string) (Report, error) {
	e, _, err := v.open(ctx, gun)
	if err != nil {
		return Report{}, err
	}
	w := e.view()
	if w.repo == nil {
		return Report{}, w.err
	}
	r := v.reader(w)
	out := Report{GUN: gun, Server: v.conf.Server, Refreshed: w.refreshed, Roles: r.roleReports(), Tags: r.tagReports()}
	out.Expires, _ = r.until(r.repo.roles[roleTargets])
	out.Frozen = r.frozen && !r.now.Before(out.Expires)
	for _, role := range out.Roles {
		if parentRole(role.Name) == roleTargets && role.Name != releasesRole {
			out.Signers = append(out.Signers, role)
		}
	}
	if err := r.usable(); err != nil {
		out.Problem = err.Error()
	} else if w.err != nil {
		out.Problem = w.err.Error()
	}
	return out, nil
}

func (r *reader) roleReports() []RoleReport {
	root := r.repo.root
	rootKeys := make([]*key, 0, len(root.signers))
	for _, k := range root.signers {
		rootKeys = append(rootKeys, k.key)
	}
	out := []RoleReport{roleReport(root.roles[roleRoot], &root.document, rootKeys)}
	out[0].Expires = root.until()
	for _, d := range []*document{&r.repo.timestamp.document, &r.repo.snapshot.document} {
		by := root.roles[d.role]
		signers, _ := by.check(d)
		out = append(out, roleReport(by, d, signers))
	}
	targets := r.repo.roles[roleTargets]
	out = append(out, roleReport(targets.by, &targets.document, targets.signers))
	return append(out, r.delegationReports(targets)...)
}

// delegationReports lists the delegations below a role, published or not.
func (r *reader) delegationReports(parent *loadedRole) []RoleReport {
	var out []RoleReport
	for _, d := range parent.delegations {
		role, ok := r.repo.roles[d.name]
		if !ok {
			report := roleReport(d, nil, nil)
			report.Problem = "nothing is published"
			if broken, ok := r.repo.broken[d.name]; ok {
				report.Problem = broken.err.Error()
			}
			out = append(out, report)
			continue
		}
		out = append(out, roleReport(role.by, &role.document, role.signers))
		out = append(out, r.delegationReports(role)...)
	}
	return out
}

func roleReport(by *delegation, doc *document, signers []*key) RoleReport {
	out := RoleReport{Name: by.name, Paths: by.paths, Threshold: by.threshold, Keys: []KeyReport{}}
	if doc != nil {
		out.Version, out.Expires = doc.version, doc.expires
		out.Digest = digest.NewDigestFromBytes(digest.SHA256, doc.sum[:])
	}
	for _, k := range by.keys {
		report := KeyReport{ID: k.id, CanonicalID: k.docker, Type: k.kind,
			Signed: slices.ContainsFunc(signers, func(s *key) bool { return s.id == k.id })}
		if k.spki != "" {
			report.Signer = "key:sha256:" + k.spki
		}
		out.Keys = append(out.Keys, report)
	}
	return out
}

// tagReports lists the tags of the accepted roles in their order.
func (r *reader) tagReports() []TagReport {
	out := []TagReport{}
	for _, name := range r.conf.Roles {
		role, ok := r.repo.roles[name]
		if !ok {
			continue
		}
		for _, tag := range slices.Sorted(maps.Keys(role.targets)) {
			meta := role.targets[tag]
			if meta.sha256 == nil || !permits(role.by.paths, tag) {
				continue
			}
			out = append(out, TagReport{Tag: tag, Role: name, Size: meta.length,
				Digest: digest.NewDigestFromBytes(digest.SHA256, meta.sha256), Signers: r.signersOf(tag, meta)})
		}
	}
	return out
}

func (r *reader) signersOf(tag string, meta fileMeta) []string {
	out := []string{}
	for _, name := range r.repo.order {
		role, ok := r.repo.roles[name]
		if !ok || parentRole(name) != roleTargets || name == releasesRole || !permits(role.by.paths, tag) {
			continue
		}
		if m, ok := role.targets[tag]; ok && m.same(meta) {
			out = append(out, strings.TrimPrefix(name, roleTargets+"/"))
		}
	}
	return out
}

// Status is the state of one repository in use, for metrics and readiness.
type Status struct {
	GUN       string
	Expires   time.Time // the earliest of root, timestamp, snapshot and targets; zero if nothing was verified
	Refreshed time.Time // when the server last confirmed it; zero if it did not since the start
	Frozen    bool      // expired, and standing until FrozenUntil only
	Err       error     // of the latest refresh
}

// Status returns the state of every repository asked about lately, by name.
func (v *Verifier) Status() []Status {
	v.mu.Lock()
	entries := slices.Collect(maps.Values(v.entries))
	v.mu.Unlock()
	var out []Status
	for _, e := range entries {
		w := e.view()
		if w == nil {
			continue
		}
		s := Status{GUN: e.gun, Refreshed: w.refreshed, Err: w.err}
		if w.repo != nil {
			r := v.reader(w)
			s.Expires, _ = r.until(w.repo.roles[roleTargets])
			s.Frozen = r.frozen && !r.now.Before(s.Expires)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Status) int { return cmp.Compare(a.GUN, b.GUN) })
	return out
}

// Raw returns verified metadata by its name in the URL: the current
// <role>.json, <role>.<sha256>.json, and N.root.json as far back as roots were
// seen. Anything else is an error that wraps fs.ErrNotExist. Expiry, and whether
// a delegation has signatures enough, is for the client to judge.
func (v *Verifier) Raw(ctx context.Context, gun, name string) ([]byte, error) {
	f, ok := parseFileName(name)
	if !ok || checkGUN(gun) != nil {
		return nil, fmt.Errorf("trust metadata: the name is malformed: %w", fs.ErrNotExist)
	}
	e, _, err := v.open(ctx, gun)
	if err != nil {
		return nil, err
	}
	w := e.view()
	if w.repo == nil {
		var refusal *verify.Refusal
		if errors.As(w.err, &refusal) && refusal.Reason == verify.Unsigned {
			return nil, fmt.Errorf("trust metadata of %s: there is none: %w", gun, fs.ErrNotExist)
		}
		return nil, w.err
	}
	if raw := w.repo.file(f); raw != nil {
		return raw, nil
	}
	return nil, fmt.Errorf("trust metadata of %s: %s: %w", gun, name, fs.ErrNotExist)
}

func (r *repository) file(f fileName) []byte {
	if f.version != "" {
		n, err := strconv.ParseInt(f.version, 10, 64)
		if err != nil {
			return nil
		}
		if n == r.root.version {
			return r.root.raw
		}
		return r.roots[n]
	}
	for _, d := range r.documents() {
		if d.role == f.role && (f.sum == "" || f.sum == hex.EncodeToString(d.sum[:])) {
			return d.raw
		}
	}
	if broken, ok := r.broken[f.role]; ok && (f.sum == "" || f.sum == fmt.Sprintf("%x", sha256.Sum256(broken.raw))) {
		return broken.raw
	}
	return nil
}
