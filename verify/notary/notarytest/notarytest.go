// Package notarytest is a Notary v1 repository in memory: it writes root,
// targets, delegations, snapshot and timestamp as notary v0.7.0 and docker
// trust do, serves them as a notary.Fetcher or over HTTP, and can be told to
// misbehave. It is for tests and demonstrations: keys live in memory only.
package notarytest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Role is one role. Change its fields, then call Publish with its name.
type Role struct {
	Name      string
	Keys      []*Key
	Threshold int
	Signers   []*Key // who signs; nil is Keys
	Version   int64  // of the latest publication
	Expires   time.Time
	Paths     []string          // of a delegation
	Targets   map[string]Target // of targets and delegations, by tag
}

// Target is what a tag means.
type Target struct {
	Digest digest.Digest // sha256
	Size   int64
}

// Repository is one GUN. Its methods are safe for concurrent use; its fields
// are set between publications.
type Repository struct {
	GUN   string
	Roles map[string]*Role

	// Edit changes what is about to be signed.
	Edit func(role string, signed map[string]any)
	// EditEnvelope changes what was signed, before it is hashed into the parent.
	EditEnvelope func(role string, envelope map[string]any)
	// EditRaw changes the bytes, before they are hashed into the parent.
	EditRaw func(role string, raw []byte) []byte

	mu       sync.Mutex
	files    map[string][]byte // as served
	current  map[string][]byte // by role
	rootKeys []*Key            // that signed the latest root
	requests []string
	serve    func(name string, raw []byte) ([]byte, error)
}

// The lifetimes that notary gives.
const (
	tenYears   = 10 * 365 * 24 * time.Hour
	threeYears = 3 * 365 * 24 * time.Hour
	twoWeeks   = 14 * 24 * time.Hour
)

// New publishes a repository without delegations: an ecdsa-x509 root key and
// ecdsa keys for the rest.
func New(gun string, now time.Time) (*Repository, error) {
	r := &Repository{GUN: gun, Roles: map[string]*Role{}, files: map[string][]byte{}, current: map[string][]byte{}}
	for name, life := range map[string]time.Duration{"root": tenYears, "targets": threeYears, "snapshot": threeYears, "timestamp": twoWeeks} {
		k, err := NewKey("ecdsa")
		if err == nil && name == "root" {
			k, err = k.Certify(Certificate(gun, now.Add(-time.Hour)), nil)
		}
		if err != nil {
			return nil, err
		}
		r.Roles[name] = &Role{Name: name, Keys: []*Key{k}, Threshold: 1, Expires: now.Add(life), Targets: map[string]Target{}}
	}
	return r, r.Publish("root", "targets")
}

// Delegate adds or replaces a delegation and publishes its parent and it. Without
// paths it may speak for every tag.
func (r *Repository) Delegate(name string, keys []*Key, paths ...string) error {
	if paths == nil {
		paths = []string{""}
	}
	d := &Role{Name: name, Keys: keys, Threshold: 1, Paths: paths, Targets: map[string]Target{}, Expires: r.Roles["targets"].Expires}
	if old, ok := r.Roles[name]; ok {
		d.Version = old.Version
	}
	r.Roles[name] = d
	return r.Publish(parent(name), name)
}

// Sign says in the roles what a tag means, as docker trust sign does in
// targets/releases and targets/<signer>.
func (r *Repository) Sign(tag string, t Target, roles ...string) error {
	for _, name := range roles {
		r.Roles[name].Targets[tag] = t
	}
	return r.Publish(roles...)
}

// Remove takes a tag out of the roles, as docker trust revoke does.
func (r *Repository) Remove(tag string, roles ...string) error {
	for _, name := range roles {
		delete(r.Roles[name].Targets, tag)
	}
	return r.Publish(roles...)
}

// Rotate gives a top-level role other keys and publishes a new root, signed by
// the old root keys too, and the role.
func (r *Repository) Rotate(role string, keys ...*Key) error {
	r.Roles[role].Keys = keys
	if role == "root" {
		return r.Publish("root")
	}
	return r.Publish("root", role)
}

// Publish signs new versions of the named roles, then of the snapshot and the
// timestamp.
func (r *Repository) Publish(roles ...string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range roles {
		if name == "snapshot" || name == "timestamp" {
			continue
		}
		if err := r.write(name, r.body(name)); err != nil {
			return err
		}
	}
	files := map[string]any{}
	for name, raw := range r.current {
		if name != "snapshot" && name != "timestamp" {
			files[name] = meta(raw)
		}
	}
	if err := r.write("snapshot", map[string]any{"meta": files}); err != nil {
		return err
	}
	return r.write("timestamp", map[string]any{"meta": map[string]any{"snapshot": meta(r.current["snapshot"])}})
}

// Withdraw takes a delegation's metadata out of the snapshot; its parent still
// delegates to it unless the role is deleted from Roles and the parent
// published.
func (r *Repository) Withdraw(name string) error {
	r.mu.Lock()
	delete(r.current, name)
	r.mu.Unlock()
	return r.Publish()
}

// body returns the fields that only this role has.
func (r *Repository) body(name string) map[string]any {
	if name == "root" {
		keys, roles := map[string]any{}, map[string]any{}
		for _, top := range []string{"root", "targets", "snapshot", "timestamp"} {
			roles[top] = r.Roles[top].object(keys)
		}
		return map[string]any{"keys": keys, "roles": roles, "consistent_snapshot": false}
	}
	keys, children := map[string]any{}, []any{}
	for _, child := range slices.Sorted(maps.Keys(r.Roles)) {
		if parent(child) != name || child == name {
			continue
		}
		o := r.Roles[child].object(keys)
		o["name"], o["paths"] = child, r.Roles[child].Paths
		children = append(children, o)
	}
	targets := map[string]any{}
	for tag, t := range r.Roles[name].Targets {
		sum, err := hex.DecodeString(t.Digest.Encoded())
		if err != nil {
			sum = nil
		}
		targets[tag] = map[string]any{"length": t.Size, "hashes": map[string]any{"sha256": sum}}
	}
	return map[string]any{"targets": targets, "delegations": map[string]any{"keys": keys, "roles": children}}
}

func (d *Role) object(keys map[string]any) map[string]any {
	ids := []any{}
	for _, k := range d.Keys {
		keys[k.ID()] = k.object()
		ids = append(ids, k.ID())
	}
	return map[string]any{"keyids": ids, "threshold": d.Threshold}
}

// write signs one role and makes it the current one.
func (r *Repository) write(name string, signed map[string]any) error {
	role := r.Roles[name]
	role.Version++
	kind := "Targets"
	if parent(name) == "" {
		kind = strings.ToUpper(name[:1]) + name[1:]
	}
	signed["_type"], signed["version"], signed["expires"] = kind, role.Version, role.Expires.UTC().Format(time.RFC3339Nano)
	if r.Edit != nil {
		r.Edit(name, signed)
	}
	signers := role.Signers
	if signers == nil {
		signers = role.Keys
	}
	if name == "root" {
		signers, r.rootKeys = union(signers, r.rootKeys), role.Keys
	}
	raw, err := r.envelope(name, signed, signers)
	if err != nil {
		return err
	}
	r.store(name, role.Version, raw)
	return nil
}

func (r *Repository) envelope(name string, signed map[string]any, signers []*Key) ([]byte, error) {
	signatures := []any{}
	for _, k := range signers {
		sig, err := k.sign(encode(signed))
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, map[string]any{"keyid": k.ID(), "method": k.Method, "sig": sig})
	}
	envelope := map[string]any{"signed": signed, "signatures": signatures}
	if r.EditEnvelope != nil {
		r.EditEnvelope(name, envelope)
	}
	raw := encode(envelope)
	if r.EditRaw != nil {
		raw = r.EditRaw(name, raw)
	}
	return raw, nil
}

func (r *Repository) store(name string, version int64, raw []byte) {
	sum := sha256.Sum256(raw)
	r.current[name] = raw
	r.files[name+".json"] = raw
	r.files[name+"."+hex.EncodeToString(sum[:])+".json"] = raw
	if name == "root" {
		r.files[fmt.Sprintf("%d.root.json", version)] = raw
	}
}

// Files returns a copy of everything that is served, by name.
func (r *Repository) Files() map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.files)
}

// Restore replaces everything that is served: an older Files is a rollback.
func (r *Repository) Restore(files map[string][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files = maps.Clone(files)
}

// Misbehave makes serve change or fail every answer; nil ends it. Absent files
// are not shown to it.
func (r *Repository) Misbehave(serve func(name string, raw []byte) ([]byte, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.serve = serve
}

// Requests returns the names asked for since the last call.
func (r *Repository) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.requests
	r.requests = nil
	return out
}

// Fetch implements notary.Fetcher without its bounds.
func (r *Repository) Fetch(ctx context.Context, gun, name string, _ int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.requests = append(r.requests, name)
	raw, ok := r.files[name]
	serve := r.serve
	r.mu.Unlock()
	if !ok || gun != r.GUN {
		return nil, fmt.Errorf("notarytest: %s: %s: %w", gun, name, fs.ErrNotExist)
	}
	if serve != nil {
		return serve(name, bytes.Clone(raw))
	}
	return raw, nil
}

// ServeHTTP serves the repository as notary-server does, without
// authentication: GET /v2/ and GET /v2/<gun>/_trust/tuf/<name>.
func (r *Repository) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/v2/" {
		fmt.Fprint(w, "{}")
		return
	}
	name, ok := strings.CutPrefix(req.URL.Path, "/v2/"+r.GUN+"/_trust/tuf/")
	if !ok {
		http.Error(w, `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist.","detail":null}]}`, http.StatusNotFound)
		return
	}
	raw, err := r.Fetch(req.Context(), r.GUN, name, 0)
	if err != nil {
		http.Error(w, `{"errors":[{"code":"METADATA_NOT_FOUND","message":"You have requested metadata that does not exist.","detail":null}]}`, http.StatusNotFound)
		return
	}
	w.Header().Set("Cache-Control", "public, max-age=300")
	_, _ = w.Write(raw)
}

// State is a notary.State in memory.
type State struct {
	mu     sync.Mutex
	values map[string][]byte
	// Err, if set, fails everything.
	Err error
}

// Load implements notary.State.
func (s *State) Load(key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Err != nil {
		return nil, s.Err
	}
	v, ok := s.values[key]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(v), nil
}

// Swap implements notary.State.
func (s *State) Swap(key string, old, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Err != nil {
		return s.Err
	}
	if !bytes.Equal(s.values[key], old) {
		return fmt.Errorf("notarytest: %s was changed meanwhile", key)
	}
	if s.values == nil {
		s.values = map[string][]byte{}
	}
	s.values[key] = bytes.Clone(value)
	return nil
}

// encode is canonical for everything in metadata: encoding/json sorts keys,
// and nothing here holds control characters.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // maps, strings, numbers and bytes always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func meta(raw []byte) map[string]any {
	s256, s512 := sha256.Sum256(raw), sha512.Sum512(raw)
	return map[string]any{"length": len(raw), "hashes": map[string]any{
		"sha256": base64.StdEncoding.EncodeToString(s256[:]), "sha512": base64.StdEncoding.EncodeToString(s512[:])}}
}

func parent(role string) string {
	if i := strings.LastIndexByte(role, '/'); i >= 0 {
		return role[:i]
	}
	return ""
}

func union(a, b []*Key) []*Key {
	out := slices.Clone(a)
	for _, k := range b {
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}
