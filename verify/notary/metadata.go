package notary

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
)

// Limits on what one document may list. Real repositories have a handful of
// keys and roles; the largest of Docker's had some thousand tags.
const (
	maxKeys       = 256
	maxSignatures = 256
	maxRoles      = 256
	maxTargets    = 100_000
)

// The top-level roles, and one below.
const (
	roleRoot      = "root"
	roleTimestamp = "timestamp"
	roleSnapshot  = "snapshot"
	roleTargets   = "targets"
	// releasesRole is the delegation that docker trust publishes in.
	releasesRole = "targets/releases"
)

// fileMeta is what a parent says about a child or a role about a target.
type fileMeta struct {
	length int64
	sha256 []byte // nil if it is not given
	sha512 []byte
}

// delegation is a role with the keys that may sign it: one of the four that
// the root names, or one that a targets role delegates to.
type delegation struct {
	name      string
	keys      []*key
	threshold int64
	paths     []string
}

type rootDoc struct {
	document
	roles map[string]*delegation
}

type metaDoc struct { // timestamp and snapshot
	document
	meta map[string]fileMeta
}

type targetsDoc struct {
	document
	targets     map[string]fileMeta
	delegations []*delegation
}

func parseRoot(raw []byte) (*rootDoc, error) {
	d, err := parseDocument(roleRoot, "Root", raw)
	if err != nil {
		return nil, err
	}
	r := &rootDoc{document: d, roles: map[string]*delegation{}}
	if c, ok := d.signed["consistent_snapshot"]; ok {
		if _, ok := c.(bool); !ok {
			return nil, errors.New("\"consistent_snapshot\" is not a boolean")
		}
	}
	keys, err := parseKeys(d.signed)
	if err != nil {
		return nil, err
	}
	roles, err := asObject(d.signed["roles"], roleRoot, roleTimestamp, roleSnapshot, roleTargets)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{roleRoot, roleTimestamp, roleSnapshot, roleTargets} {
		o, err := asObject(roles[name], "keyids", "threshold")
		if err != nil {
			return nil, fmt.Errorf("role %s: %w", name, err)
		}
		if r.roles[name], err = parseRole(o, name, keys); err != nil {
			return nil, fmt.Errorf("role %s: %w", name, err)
		}
	}
	return r, nil
}

// parseKeys reads a map of keys. A key whose id is not the hash of it is
// refused: the reference refuses it when it is used.
func parseKeys(o object) (map[string]*key, error) {
	m, err := asObject(o["keys"])
	if err != nil {
		return nil, err
	}
	if len(m) > maxKeys {
		return nil, fmt.Errorf("it has more than %d keys", maxKeys)
	}
	keys := make(map[string]*key, len(m))
	for id, v := range m {
		k, err := parseKey(v)
		if err != nil {
			return nil, err
		}
		if k.id != id {
			return nil, errors.New("a key is listed under another key's id")
		}
		keys[id] = k
	}
	return keys, nil
}

// parseRole reads who may sign a role. A threshold below one would let
// anybody sign (CVE-2026-23992).
func parseRole(o object, name string, keys map[string]*key) (*delegation, error) {
	threshold, err := o.integer("threshold", 1)
	if err != nil {
		return nil, err
	}
	ids, err := o.names("keyids")
	if err != nil {
		return nil, err
	}
	d := &delegation{name: name, threshold: threshold}
	seen := map[string]bool{}
	for _, id := range ids {
		k, ok := keys[id]
		if !ok {
			return nil, errors.New("it names a key that is not there")
		}
		if !seen[id] {
			d.keys = append(d.keys, k)
		}
		seen[id] = true
	}
	return d, nil
}

func parseTimestamp(raw []byte) (*metaDoc, error) {
	return parseMeta(roleTimestamp, "Timestamp", raw, roleSnapshot)
}

func parseSnapshot(raw []byte) (*metaDoc, error) {
	return parseMeta(roleSnapshot, "Snapshot", raw, roleRoot, roleTargets)
}

func parseMeta(role, kind string, raw []byte, required ...string) (*metaDoc, error) {
	d, err := parseDocument(role, kind, raw)
	if err != nil {
		return nil, err
	}
	m := &metaDoc{document: d}
	if m.meta, err = parseFiles(d.signed["meta"], maxRoles); err != nil {
		return nil, err
	}
	for name, f := range m.meta {
		if f.sha256 == nil && (validRole(name) || name == roleRoot || name == roleSnapshot) {
			return nil, errors.New("it lists a role without a sha256 hash")
		}
	}
	for _, name := range required {
		if m.meta[name].sha256 == nil {
			return nil, fmt.Errorf("it does not list %s", name)
		}
	}
	return m, nil
}

func parseFiles(v any, most int) (map[string]fileMeta, error) {
	o, err := asObject(v)
	if err != nil {
		return nil, err
	}
	if len(o) > most {
		return nil, fmt.Errorf("it lists more than %d files", most)
	}
	files := make(map[string]fileMeta, len(o))
	for name, v := range o {
		if files[name], err = parseFile(v); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// parseFile reads length and hashes. A hash that is not of a known algorithm
// is ignored; where the sha256 is needed, its absence is an error.
func parseFile(v any) (fileMeta, error) {
	o, err := asObject(v, "length", "hashes", "custom")
	if err != nil {
		return fileMeta{}, err
	}
	var f fileMeta
	if f.length, err = o.integer("length", 0); err != nil {
		return f, err
	}
	hashes, err := asObject(o["hashes"], "sha256", "sha512")
	if err != nil {
		return f, err
	}
	for _, h := range []struct {
		name string
		size int
		to   *[]byte
	}{{"sha256", sha256.Size, &f.sha256}, {"sha512", sha512.Size, &f.sha512}} {
		if _, ok := hashes[h.name]; !ok {
			continue
		}
		text, err := hashes.string(h.name)
		if err != nil {
			return f, err
		}
		if *h.to, err = decodeBase64(text); err != nil || len(*h.to) != h.size {
			return f, errors.New("a hash is malformed")
		}
	}
	return f, nil
}

// matches reports whether raw is the file that f describes: its length and
// every hash that is given.
func (f fileMeta) matches(raw []byte) bool {
	s256, s512 := sha256.Sum256(raw), sha512.Sum512(raw)
	return f.sha256 != nil && int64(len(raw)) == f.length && bytes.Equal(f.sha256, s256[:]) &&
		(f.sha512 == nil || bytes.Equal(f.sha512, s512[:]))
}

// same reports whether two roles say the same about a target.
func (f fileMeta) same(g fileMeta) bool {
	return f.length == g.length && bytes.Equal(f.sha256, g.sha256) &&
		(f.sha512 == nil || g.sha512 == nil || bytes.Equal(f.sha512, g.sha512))
}

func parseTargets(role string, raw []byte) (*targetsDoc, error) {
	d, err := parseDocument(role, "Targets", raw)
	if err != nil {
		return nil, err
	}
	t := &targetsDoc{document: d}
	if t.targets, err = parseFiles(d.signed["targets"], maxTargets); err != nil {
		return nil, err
	}
	if d.signed["delegations"] == nil {
		return t, nil
	}
	o, err := asObject(d.signed["delegations"], "keys", "roles")
	if err != nil {
		return nil, err
	}
	keys, err := parseKeys(o)
	if err != nil {
		return nil, err
	}
	list, err := o.list("roles", maxRoles)
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		child, err := parseDelegation(role, v, keys)
		if err != nil {
			return nil, err
		}
		t.delegations = append(t.delegations, child)
	}
	return t, t.checkDelegations()
}

func parseDelegation(parent string, v any, keys map[string]*key) (*delegation, error) {
	o, err := asObject(v, "name", "keyids", "threshold", "paths")
	if err != nil {
		return nil, err
	}
	name, err := o.string("name")
	if err != nil {
		return nil, err
	}
	if !validRole(name) || parentRole(name) != parent {
		return nil, errors.New("a delegation has a name that it may not have")
	}
	d, err := parseRole(o, name, keys)
	if err != nil {
		return nil, err
	}
	d.paths, err = o.names("paths")
	return d, err
}

// checkDelegations refuses a role that is delegated twice: the reference takes
// the first, another reader might take the last.
func (t *targetsDoc) checkDelegations() error {
	seen := map[string]bool{}
	for _, d := range t.delegations {
		if seen[d.name] {
			return errors.New("a role is delegated twice")
		}
		seen[d.name] = true
	}
	return nil
}
