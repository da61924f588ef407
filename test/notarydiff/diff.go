// Package notarydiff compares verify/notary with the archived reference
// implementation, notary v0.7.0, on repositories that were damaged on purpose.
// The reference may refuse what it likes; what it refuses we have to refuse
// too, and where we refuse more there has to be a reason that is known.
package notarydiff

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"github.com/theupdateframework/notary/client"
	"github.com/theupdateframework/notary/storage"
	"github.com/theupdateframework/notary/trustpinning"
	"github.com/theupdateframework/notary/tuf/data"

	"github.com/countersign/countersign/verify/notary"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

const gun = "registry.test/team/app"

// answer is what a tag means, or why there is no answer.
type answer struct {
	target ocispec.Descriptor
	err    error
}

// resolver is one implementation with what it remembers.
type resolver interface {
	resolve(tag string) answer
}

// files is what the server serves.
type files map[string][]byte

// reference is notary v0.7.0's client as the docker CLI uses it.
type reference struct {
	cache *storage.MemoryStore
	pins  trustpinning.TrustPinConfig
	now   *files
}

func newReference(rootKeys []string, now *files) *reference {
	logrus.SetOutput(io.Discard)
	pins := trustpinning.TrustPinConfig{DisableTOFU: len(rootKeys) > 0}
	if len(rootKeys) > 0 {
		pins.Certs = map[string][]string{gun: rootKeys}
	}
	return &reference{cache: storage.NewMemoryStore(nil), pins: pins, now: now}
}

func (r *reference) resolve(tag string) (out answer) {
	defer func() {
		if p := recover(); p != nil {
			out = answer{err: fmt.Errorf("%w: %v", errPanic, p)}
		}
	}()
	repo, _, err := client.LoadTUFRepo(client.TUFLoadOptions{GUN: gun, TrustPinning: r.pins, Cache: r.cache, RemoteStore: remote{files: *r.now}})
	if err != nil {
		return answer{err: err}
	}
	t, err := client.NewReadOnly(repo).GetTargetByName(tag, "targets/releases", "targets")
	if err != nil {
		return answer{err: err}
	}
	if t.Role != "targets/releases" && t.Role != data.CanonicalTargetsRole {
		return answer{err: fmt.Errorf("found in %s only", t.Role)}
	}
	sum, ok := t.Hashes["sha256"]
	if !ok {
		return answer{err: errors.New("no sha256 hash")}
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum))
	return answer{target: ocispec.Descriptor{Digest: d, Size: t.Length}}
}

var errPanic = errors.New("the reference panicked")

// remote is the reference's HTTP store without HTTP.
type remote struct {
	*storage.MemoryStore
	files files
}

func (r remote) GetSized(name string, size int64) ([]byte, error) {
	raw, ok := r.files[name+".json"]
	if !ok {
		return nil, storage.ErrMetaNotFound{Resource: name}
	}
	if size >= 0 && int64(len(raw)) > size {
		return nil, storage.ErrMaliciousServer{}
	}
	return raw, nil
}

func (remote) GetKey(data.RoleName) ([]byte, error)    { return nil, errors.New("not here") }
func (remote) RotateKey(data.RoleName) ([]byte, error) { return nil, errors.New("not here") }
func (remote) Location() string                        { return "test" }

// ours is verify/notary. Every question is asked of a new process with the
// same state, so that nothing is answered from memory.
type ours struct {
	conf  notary.Config
	state *notarytest.State
	now   *files
}

func newOurs(rootKeys []string, now *files) *ours {
	c := notary.Config{Pin: notary.Pin{RootKeys: rootKeys, FirstUse: len(rootKeys) == 0}}
	return &ours{conf: c, state: &notarytest.State{}, now: now}
}

func (o *ours) resolve(tag string) answer {
	v, err := notary.New(o.conf, o, o.state)
	if err != nil {
		return answer{err: err}
	}
	defer v.Close()
	d, err := v.Resolve(context.Background(), gun, tag)
	return answer{target: d, err: err}
}

// Fetch implements notary.Fetcher.
func (o *ours) Fetch(_ context.Context, _, name string, most int64) ([]byte, error) {
	raw, ok := (*o.now)[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	if int64(len(raw)) > most {
		return nil, notary.ErrTooLarge
	}
	return bytes.Clone(raw), nil
}
