package notary

import (
	"context"
	"math/rand/v2"
	"path"
	"testing"

	"github.com/countersign/countersign/verify/notary/notarytest"
)

var fixtureFiles = []string{"root.json", "timestamp.json", "snapshot.json", "targets.json", "targets/releases.json", "targets/bob.json"}

// Every bit of the signed documents is covered by a signature or a hash. The
// delegation that nobody asks may break without harm.
func TestEveryFlippedBitIsNoticed(t *testing.T) {
	for _, name := range fixtureFiles[:5] {
		raw := must[[]byte](t)(readFixture(name))
		step := 8
		if testing.Short() {
			step = 128
		}
		for bit := 0; bit < 8*len(raw); bit += step {
			flipped := append([]byte{}, raw...)
			flipped[bit/8] ^= 1 << ((bit / 8) % 8)
			if evidence := admits(t, name, flipped); evidence {
				t.Errorf("%s: bit %d of byte %d flipped: got evidence", name, (bit/8)%8, bit/8)
			}
		}
	}
}

func TestEveryTruncationIsNoticed(t *testing.T) {
	for _, name := range fixtureFiles[:5] {
		raw := must[[]byte](t)(readFixture(name))
		for n := 0; n < len(raw); n += 7 {
			if admits(t, name, raw[:n]) {
				t.Errorf("%s cut to %d bytes: got evidence", name, n)
			}
		}
	}
}

// admits asks for the fixture's tag with one of its files replaced.
func admits(t *testing.T, file string, content []byte) bool {
	t.Helper()
	fetch := fetcherFunc(func(ctx context.Context, gun, name string, most int64) ([]byte, error) {
		if path.Base(byHash.ReplaceAllString(name, ".json")) == path.Base(file) {
			return content, nil
		}
		return staticDir("testdata/docker-trust").Fetch(ctx, gun, name, most)
	})
	v := must[*Verifier](t)(New(Config{Pin: Pin{RootKeys: []string{fixtureRoot}}}, fetch, &notarytest.State{}))
	repo, err := v.update(t.Context(), fixtureGUN, nil)
	if err != nil {
		return false
	}
	r := v.reader(&view{repo: repo})
	r.now = testStart
	_, err = r.verify(fixtureSubject())
	return err == nil
}

func fuzzRole(f *testing.F, name string, parse func([]byte) (*document, error)) {
	raw, err := readFixture(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"signatures":[{}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := parse(in)
		if err != nil {
			return
		}
		// What was accepted is canonical once more.
		v, err := parseJSON(d.message)
		if err != nil {
			t.Fatalf("the canonical form does not parse: %v", err)
		}
		if again := appendCanonical(nil, v); string(again) != string(d.message) {
			t.Fatalf("got %q, then %q", d.message, again)
		}
	})
}

func FuzzRoot(f *testing.F) {
	fuzzRole(f, "root.json", func(in []byte) (*document, error) {
		r, err := parseRoot(in)
		if err != nil {
			return nil, err
		}
		p := &pins{firstUse: true}
		if t, err := p.verifyRoot(fixtureGUN, r, nil, testStart); err == nil {
			t.until()
		}
		return &r.document, nil
	})
}

func fuzzMeta(f *testing.F, name string, parse func([]byte) (*metaDoc, error)) {
	fuzzRole(f, name, func(in []byte) (*document, error) {
		m, err := parse(in)
		if err != nil {
			return nil, err
		}
		return &m.document, nil
	})
}

func FuzzTimestamp(f *testing.F) { fuzzMeta(f, "timestamp.json", parseTimestamp) }
func FuzzSnapshot(f *testing.F)  { fuzzMeta(f, "snapshot.json", parseSnapshot) }

func FuzzTargets(f *testing.F) {
	fuzzRole(f, "targets.json", func(in []byte) (*document, error) {
		t, err := parseTargets(roleTargets, in)
		if err != nil {
			return nil, err
		}
		for _, d := range t.delegations {
			_, _ = d.check(&t.document)
		}
		return &t.document, nil
	})
}

func FuzzDelegation(f *testing.F) {
	fuzzRole(f, "targets/releases.json", func(in []byte) (*document, error) {
		t, err := parseTargets(releasesRole, in)
		if err != nil {
			return nil, err
		}
		return &t.document, nil
	})
}

// Random edits of a whole repository never panic and never admit another digest.
func TestMutatedRepositories(t *testing.T) {
	n := 3000
	if testing.Short() {
		n = 300
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range n {
		name := fixtureFiles[rng.IntN(5)]
		raw := must[[]byte](t)(readFixture(name))
		at, length := rng.IntN(len(raw)), 1+rng.IntN(40)
		from := rng.IntN(len(raw))
		out := append([]byte{}, raw[:at]...)
		out = append(out, raw[from:min(from+length, len(raw))]...)
		out = append(out, raw[min(at+rng.IntN(40), len(raw)):]...)
		if string(out) != string(raw) && admits(t, name, out) {
			t.Fatalf("%s, edited at %d: got evidence", name, at)
		}
	}
}
