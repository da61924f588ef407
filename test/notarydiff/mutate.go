package notarydiff

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/verify/notary/notarytest"
)

var roles = []string{"root", "targets", "snapshot", "timestamp", "targets/releases", "targets/alice"}

// author makes one repository and damages it in one or two ways.
type author struct {
	rng  *rand.Rand
	pool []*notarytest.Key // bare keys of all types: making RSA keys takes long
	repo *notarytest.Repository
	did  []string // what was done, in words
}

func (a *author) note(format string, args ...any) {
	a.did = append(a.did, fmt.Sprintf(format, args...))
}

func one[T any](rng *rand.Rand, of ...T) T { return of[rng.IntN(len(of))] }

func (a *author) key() *notarytest.Key { return one(a.rng, a.pool...) }

func target(content string) notarytest.Target {
	return notarytest.Target{Digest: digest.FromString(content), Size: int64(len(content))}
}

// certify wraps a key for the root role.
func (a *author) certify(name string) (*notarytest.Key, error) {
	k := a.key()
	for k.Type == "ed25519" {
		k = a.key()
	}
	return k.Certify(notarytest.Certificate(name, time.Now().Add(-time.Hour)), nil)
}

// create makes a sound repository with keys of random types.
func (a *author) create() error {
	repo, err := notarytest.New(gun, time.Now())
	if err != nil {
		return err
	}
	a.repo = repo
	root, err := a.certify(one(a.rng, gun, "registry.test/team/*"))
	if err != nil {
		return err
	}
	repo.Roles["root"].Keys = []*notarytest.Key{root}
	for _, name := range []string{"targets", "snapshot", "timestamp"} {
		repo.Roles[name].Keys = []*notarytest.Key{a.key()}
	}
	if err := repo.Publish("root", "targets"); err != nil {
		return err
	}
	k := []*notarytest.Key{a.key()}
	if err := repo.Delegate("targets/releases", k); err != nil {
		return err
	}
	if err := repo.Delegate("targets/alice", k); err != nil {
		return err
	}
	if a.rng.IntN(3) == 0 {
		repo.Roles["targets"].Targets["v1"] = target("older")
	}
	return repo.Sign("v1", target("one"), "targets", "targets/releases", "targets/alice")
}

// damage publishes everything again with something wrong, or not.
func (a *author) damage() error {
	role := one(a.rng, roles...)
	var serve func(files)
	switch a.rng.IntN(6) {
	case 0:
		a.editSigned(role)
	case 1:
		a.editTree(role)
	case 2:
		a.editEnvelope(role)
	case 3:
		a.editText(role)
	case 4:
		if err := a.rearrange(role); err != nil {
			return err
		}
	case 5:
		serve = a.editServed(role)
	}
	if err := a.repo.Publish(a.published()...); err != nil {
		return err
	}
	a.repo.Edit, a.repo.EditEnvelope, a.repo.EditRaw = nil, nil, nil
	if serve != nil {
		f := files(a.repo.Files())
		serve(f)
		a.repo.Restore(f)
	}
	return nil
}

func (a *author) published() []string {
	names := slices.Sorted(maps.Keys(a.repo.Roles))
	return slices.DeleteFunc(names, func(n string) bool { return n == "snapshot" || n == "timestamp" })
}

// editSigned changes a field that matters, signed properly.
func (a *author) editSigned(role string) {
	field := one(a.rng, "version", "version", "expires", "_type", "missing", "case", "extra")
	now := time.Now().UTC()
	value := map[string][]any{
		"version": {0, -1, 1, 2, 1.5, int64(1)<<53 + 1, "1", nil, 1000},
		"expires": {now.Add(-time.Hour), now.Add(time.Hour), now.In(time.FixedZone("x", 3600)).Add(time.Hour), "2030", "", nil, 1, "2030-01-01t00:00:00z", "2030-01-01T00:00:00,5Z"},
		"_type":   {"Root", "root", "Targets", "Snapshot", "", nil, 1},
	}
	choice := a.rng.IntN(100)
	a.repo.Edit = func(name string, signed map[string]any) {
		if name != role {
			return
		}
		keys := slices.Sorted(maps.Keys(signed))
		key := keys[choice%len(keys)]
		switch field {
		case "missing":
			a.note("%s: %s is missing", role, key)
			delete(signed, key)
		case "case":
			other := strings.ToUpper(key[:1]) + key[1:]
			if key[0] == '_' {
				other = "_Type"
			}
			a.note("%s: %s also as %s", role, key, other)
			signed[other] = signed[key]
		case "extra":
			a.note("%s: an extra field", role)
			signed["extra"] = map[string]any{"x": "<&\u2028\x00\x7f>", "y": []any{1, nil, true}}
		default:
			v := value[field][choice%len(value[field])]
			a.note("%s: %s is %v", role, field, v)
			signed[field] = v
		}
	}
}

// editTree replaces a random value somewhere in what is signed.
func (a *author) editTree(role string) {
	seed := a.rng.Uint64()
	a.repo.Edit = func(name string, signed map[string]any) {
		if name != role {
			return
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		var tree map[string]any // plain JSON types all the way down
		raw, err := json.Marshal(signed)
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if d.Decode(&tree) != nil {
			return
		}
		a.note("%s: tree, %s", role, mutateTree(rng, tree, 0))
		clear(signed)
		maps.Copy(signed, tree)
	}
}

func mutateTree(rng *rand.Rand, node any, depth int) string {
	values := []any{nil, 0, 1, -1, 2, "", "x", []any{}, map[string]any{}, true, 1.5, int64(1) << 60, "AAAA"}
	switch n := node.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(n))
		if len(keys) == 0 {
			n["x"] = one(rng, values...)
			return "a key more"
		}
		k := one(rng, keys...)
		if inner := rng.IntN(4); inner > 0 && depth < 8 {
			if how := mutateTree(rng, n[k], depth+1); how != "" {
				return k + "." + how
			}
		}
		switch rng.IntN(4) {
		case 0:
			delete(n, k)
			return k + " deleted"
		case 1:
			n[strings.ToUpper(k)] = n[k]
			return k + " in upper case too"
		case 2:
			n[k] = n[one(rng, keys...)]
			return k + " as another"
		}
		n[k] = one(rng, values...)
		return fmt.Sprintf("%s = %v", k, n[k])
	case []any:
		if len(n) > 0 {
			i := rng.IntN(len(n))
			if how := mutateTree(rng, n[i], depth+1); how != "" {
				return how
			}
			n[i] = one(rng, values...)
			return fmt.Sprintf("[] = %v", n[i])
		}
	}
	return ""
}

// editEnvelope changes signatures.
func (a *author) editEnvelope(role string) {
	seed := a.rng.Uint64()
	a.repo.EditEnvelope = func(name string, e map[string]any) {
		if name != role {
			return
		}
		rng := rand.New(rand.NewPCG(seed, 2))
		sigs := e["signatures"].([]any)
		s := sigs[rng.IntN(len(sigs))].(map[string]any)
		how := ""
		switch rng.IntN(9) {
		case 0:
			s["method"] = one(rng, "ecdsa", "rsapss", "rsapkcs1v15", "eddsa", "pycrypto-pkcs#1 pss", "", "ECDSA", "RSApss", "EdDSA")
			how = fmt.Sprint("method ", s["method"])
		case 1:
			sig := bytes.Clone(s["sig"].([]byte))
			sig[rng.IntN(len(sig))] ^= 1 << rng.IntN(8)
			s["sig"], how = sig, "a bit of sig flipped"
		case 2:
			s["keyid"], how = strings.Repeat("0", 64), "another keyid"
		case 3:
			e["signatures"], how = append(sigs, s), "a signature twice"
		case 4:
			e["signatures"], how = []any{}, "no signatures"
		case 5:
			e["signatures"], how = append([]any{map[string]any{"keyid": "x", "method": "ecdsa", "sig": []byte("x")}}, sigs...), "a stranger's signature first"
		case 6:
			bad := maps.Clone(s)
			bad["sig"] = []byte("bad")
			e["signatures"], how = append([]any{bad}, sigs...), "a bad signature of the same key first"
		case 7:
			e["x"], how = 1, "an extra field"
		case 8:
			e["signed"].(map[string]any)["x"], how = 1, "signed changed after signing"
		}
		a.note("%s: %s", role, how)
	}
}

// editText writes the same document in another way, and what hangs on its
// hash with it.
func (a *author) editText(role string) {
	seed := a.rng.Uint64()
	a.repo.EditRaw = func(name string, raw []byte) []byte {
		if name != role {
			return raw
		}
		rng := rand.New(rand.NewPCG(seed, 3))
		swap := func(old, new string) []byte { return bytes.Replace(raw, []byte(old), []byte(new), 1) }
		how := rng.IntN(16)
		a.note("%s: text %d", role, how)
		switch how {
		case 0:
			var b bytes.Buffer
			_ = json.Indent(&b, raw, "", "  ")
			return b.Bytes()
		case 1:
			return append(raw, '\n')
		case 2:
			return append(raw, " {}"...)
		case 3:
			return append(raw, "x"...)
		case 4:
			return swap(`"version":`, `"version":0,"version":`)
		case 5:
			return swap(`"_type"`, `"\u005ftype"`)
		case 6:
			return swap(`"expires"`, `"Expires"`)
		case 7:
			return swap(`"threshold":1`, `"threshold":1.0`)
		case 8:
			return swap(`"method"`, `"METHOD"`)
		case 9:
			return swap(`"signatures"`, `"Signatures"`)
		case 10:
			return swap(`"signatures"`, `"x":[],"signatures"`)
		case 11:
			return swap(`"length":`, `"length":1e0,"length":`)
		case 12:
			return swap(`"sig":"`, `"sig":"\n`)
		case 13:
			return append([]byte("\ufeff"), raw...)
		case 14:
			return swap(`"signed":{`, `"signed":{},"signed":{`)
		}
		return swap(`"keyid":"`, `"keyid":"\u0030`)
	}
}

// rearrange changes who may sign what.
func (a *author) rearrange(role string) error {
	r, ok := a.repo.Roles[role]
	if !ok { // an earlier round deleted it
		return nil
	}
	what := a.rng.IntN(13)
	a.note("%s: rearranged %d", role, what)
	switch what {
	case 0:
		r.Threshold = one(a.rng, 0, -1, 2, 1<<40)
	case 1:
		r.Signers = []*notarytest.Key{a.key()}
	case 2:
		r.Keys = append(slices.Clone(r.Keys), a.key())
		r.Threshold = len(r.Keys)
	case 3: // one key in two wrappings
		if twin := r.Keys[0]; role != "root" && twin.Cert == nil && twin.Type != "ed25519" {
			twin, err := twin.Certify(notarytest.Certificate("twin", time.Now()), nil)
			if err != nil {
				return err
			}
			r.Keys, r.Threshold = []*notarytest.Key{r.Keys[0], twin}, 2
		}
	case 4:
		r.Expires = time.Now().Add(one(a.rng, -time.Hour, time.Hour, -10*365*24*time.Hour))
	case 5:
		r.Paths = one(a.rng, []string{"v"}, []string{"x"}, []string{}, []string{"v1", "x"}, []string{"v10"})
	case 6:
		delete(a.repo.Roles, one(a.rng, "targets/releases", "targets/alice"))
	case 7:
		name := one(a.rng, "targets/releases/x", "targets/alice/y", "targets/bob")
		if _, ok := a.repo.Roles[parent(name)]; !ok {
			return nil
		}
		if err := a.repo.Delegate(name, []*notarytest.Key{a.key()}, one(a.rng, "", "v", "x")); err != nil {
			return err
		}
		a.repo.Roles[name].Targets["v1"] = target("nested")
	case 8:
		if releases, ok := a.repo.Roles["targets/releases"]; ok {
			delete(releases.Targets, "v1")
		}
	case 9:
		return a.repo.Withdraw(one(a.rng, "targets/releases", "targets/alice"))
	case 10:
		k, err := a.certify(one(a.rng, gun, "*", "registry.test/*", "registry.test/team", "x"))
		if err != nil {
			return err
		}
		a.repo.Roles["root"].Keys = []*notarytest.Key{k}
	case 11:
		if role != "root" {
			r.Keys = []*notarytest.Key{a.key()}
		}
	case 12:
		r.Version -= int64(1 + a.rng.IntN(3))
	}
	return nil
}

// editServed changes what is served without anybody signing it.
func (a *author) editServed(role string) func(files) {
	return func(f files) {
		names := slices.Sorted(maps.Keys(f))
		current := f[role+".json"]
		replace := func(with []byte) {
			for _, n := range names {
				if bytes.Equal(f[n], current) {
					f[n] = with
				}
			}
		}
		how := a.rng.IntN(7)
		a.note("%s: served %d", role, how)
		switch how {
		case 0, 1, 2:
			out := bytes.Clone(current)
			for range 1 + a.rng.IntN(3) {
				out[a.rng.IntN(len(out))] = byte(a.rng.IntN(256))
			}
			replace(out)
		case 3:
			replace(f[one(a.rng, names...)])
		case 4:
			replace(current[:a.rng.IntN(len(current))])
		case 5:
			for _, n := range names {
				if bytes.Equal(f[n], current) {
					delete(f, n)
				}
			}
		case 6:
			replace([]byte(one(a.rng, `{}`, `null`, `[]`, ``, `{"signatures":[{}]}`, `{"signed":null,"signatures":[]}`, `{"signed":{},"signatures":[]}`)))
		}
	}
}

func parent(role string) string { return role[:strings.LastIndexByte(role, '/')] }
