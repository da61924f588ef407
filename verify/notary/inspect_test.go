package notary

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

func TestInspectFixture(t *testing.T) {
	v := fixture(t, Config{Server: "https://notary.test", Pin: Pin{FirstUse: true}}, testStart)
	r := must[Report](t)(v.Inspect(t.Context(), fixtureGUN))
	if len(r.Tags) != 1 || r.Tags[0].Tag != "v1" || r.Tags[0].Role != releases || r.Tags[0].Size != 526 ||
		r.Tags[0].Digest != fixtureSubject().Digest || !slices.Equal(r.Tags[0].Signers, []string{"bob"}) {
		t.Errorf("got tags %+v, want v1 in targets/releases signed by bob", r.Tags)
	}
	if len(r.Signers) != 1 || r.Signers[0].Name != bob || len(r.Signers[0].Keys) != 1 || !r.Signers[0].Keys[0].Signed ||
		r.Signers[0].Keys[0].CanonicalID != "349bbcdf8ad135a43c4c7dc66d4c9f3a722af95bd6043572ded5c0f49e58b78b" {
		t.Errorf("got signers %+v, want bob with the key 349bbcdf…", r.Signers)
	}
	var names []string
	for _, role := range r.Roles {
		names = append(names, role.Name)
		if role.Version == 0 || role.Expires.IsZero() || role.Digest == "" || len(role.Keys) == 0 {
			t.Errorf("role %+v lacks something", role)
		}
	}
	equal(t, "roles", names, []string{"root", "timestamp", "snapshot", "targets", bob, releases})
	if got := r.Roles[0].Keys[0].ID; got != fixtureRoot {
		t.Errorf("got root key %s, want the one to pin", got)
	}
	if got := r.Expires.Format(time.RFC3339); got != "2026-12-05T01:48:46Z" {
		t.Errorf("got expiry %s, want the timestamp's", got)
	}
	if _, err := json.Marshal(r); err != nil || r.Problem != "" || r.Frozen {
		t.Errorf("got problem %q, frozen %v, %v", r.Problem, r.Frozen, err)
	}
}

func TestInspectShowsWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	w.withRole(bob)
	w.repo.Roles[bob].Signers = []*notarytest.Key{makeKey(t, "ecdsa")}
	check(t, w.repo.Publish(bob))
	r := must[Report](t)(w.v.Inspect(t.Context(), testGUN))
	i := slices.IndexFunc(r.Roles, func(role RoleReport) bool { return role.Name == bob })
	if i < 0 || !strings.HasPrefix(r.Roles[i].Problem, "untrusted-signer") {
		t.Errorf("got roles %+v, want bob with his problem", r.Roles)
	}
	if r.Problem != "" {
		t.Errorf("got problem %q: nobody asks bob", r.Problem)
	}
	w.pass(15 * 24 * time.Hour)
	if r = must[Report](t)(w.v.Inspect(t.Context(), testGUN)); !strings.Contains(r.Problem, "timestamp") {
		t.Errorf("got problem %q, want the timestamp's expiry", r.Problem)
	}
	if _, err := w.v.Inspect(t.Context(), "registry.test/other"); err == nil {
		t.Error("inspected what is not there")
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	s := w.v.Status()
	if len(s) != 1 || s[0].GUN != testGUN || !s[0].Expires.Equal(testStart.Add(14*24*time.Hour)) || !s[0].Refreshed.Equal(testStart) || s[0].Err != nil || s[0].Frozen {
		t.Errorf("got %+v", s)
	}
	w.repo.Misbehave(func(string, []byte) ([]byte, error) { return nil, errors.New("down") })
	w.pass(2 * time.Minute)
	w.admitted("v1", "one")
	if s = w.v.Status(); s[0].Err == nil || !s[0].Refreshed.Equal(testStart) {
		t.Errorf("while the server is down: got %+v, want its error and the time before", s)
	}
}

func TestRaw(t *testing.T) {
	w := newWorld(t)
	w.conf.Pin = Pin{FirstUse: true}
	w.open()
	w.admitted("v1", "one")
	rotate(t, w)
	w.admitted("v1", "one")
	files := w.repo.Files()
	for _, name := range []string{"root.json", "1.root.json", "2.root.json", "timestamp.json", "snapshot.json", "targets.json", "targets/releases.json",
		"targets/alice.json", byChecksum("root", files), byChecksum("timestamp", files), byChecksum("snapshot", files), byChecksum(releases, files)} {
		if raw, err := w.v.Raw(t.Context(), testGUN, name); err != nil || string(raw) != string(files[name]) {
			t.Errorf("%s: got %d bytes, %v; want what the server has", name, len(raw), err)
		}
	}
	for _, name := range []string{"3.root.json", "targets/bob.json", "snapshot." + strings.Repeat("0", 64) + ".json", "../root.json", "root", "", "1.targets.json",
		"timestamp.key", "99999999999999999999.root.json"} {
		if _, err := w.v.Raw(t.Context(), testGUN, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: got %v, want fs.ErrNotExist", name, err)
		}
	}
	if _, err := w.v.Raw(t.Context(), "registry.test/other", "root.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unsigned repository: got %v, want fs.ErrNotExist", err)
	}
	w.repo.Misbehave(func(_ string, raw []byte) ([]byte, error) { return append(raw, '\n'), nil })
	w.open()
	w.state = &notarytest.State{}
	w.open()
	var refusal *verify.Refusal
	if _, err := w.v.Raw(t.Context(), testGUN, "root.json"); !errors.As(err, &refusal) && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		t.Errorf("what does not verify: got %v, want the cause", err)
	}
}

func byChecksum(role string, files map[string][]byte) string {
	return fmt.Sprintf("%s.%x.json", role, sha256.Sum256(files[role+".json"]))
}

func FuzzNames(f *testing.F) {
	f.Add("docker.io/library/alpine", "targets/releases.json")
	f.Add("localhost:5000/a/b", "3.root.json")
	f.Fuzz(func(t *testing.T, gun, name string) {
		if checkGUN(gun) == nil && (strings.Contains(gun, "..") && strings.Contains(gun, "/../") || strings.ContainsAny(gun, "?#%\\@ \x00\n") || strings.Contains(gun, "//")) {
			t.Errorf("GUN %q", gun)
		}
		if file, ok := parseFileName(name); ok && (strings.Contains(name, "..") || strings.HasPrefix(name, "/") || strings.ContainsAny(name, "?#%\\@ \x00\n") || file.role == "") {
			t.Errorf("name %q: %+v", name, file)
		}
	})
}
