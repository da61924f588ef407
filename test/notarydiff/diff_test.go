package notarydiff

import (
	"cmp"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/countersign/countersign/verify/notary/notarytest"
)

// repositories is how many are compared each time; NOTARYDIFF_REPOSITORIES
// overrides it, and `make differential` compares 10,000.
const repositories = 2_000

// stricter lists the reasons for which we may refuse what the reference
// accepts: what our error says, and why.
var stricter = []struct{ says, why string }{
	{`the same key twice`, "duplicate JSON keys: the reference takes the last"},
	{`written in another case`, "JSON keys in another case: the reference takes them for the field"},
	{`a number is not an integer`, "a float: the reference takes it if it has no fraction"},
	{`an integer is out of range`, "an integer beyond 2^53: the reference signs what float64 makes of it"},
	{`it is not made of "signed" and "signatures"`, "more in the envelope: the reference ignores it"},
	{`method is written in another case`, "a signature's method in another case: the reference lowers it"},
	{`a value is not base64`, "base64 with line breaks: the reference skips them"},
	{`a key has its private part with it`, "a private key is published: the reference ignores it"},
	{`a key is listed under another key's id`, "a key under another's id: the reference only minds when it signs"},
	{`is missing or is not|an object is missing|is not a list|holds something that is not a string|"consistent_snapshot" is not`, "a field is missing or null: the reference takes its zero value"},
	{`"expires" is not a time`, "a time that is not RFC 3339"},
	{`"length" is less than 0`, "a negative length"},
	{`a hash is malformed`, "a target's hash of the wrong length"},
	{`lists a role without a sha256`, "a role without a sha256 hash in the snapshot: the reference minds when it is fetched"},
	{`version \d+ as before, but other content`, "equivocation: the same version with other bytes"},
	{`has version \d+; version \d+ was seen before`, "rollback of a role whose cached copy the reference could not use for comparing"},
	{`no longer lists targets`, "a delegated role vanishes from the snapshot"},
	{`a role is delegated twice`, "a role delegated twice: the reference takes the first"},
	{`targets/[a-z/]+ is not signed by any of its keys|of targets/[a-z/]+ does not verify|targets/[a-z/]+ is signed by \d+ keys`, "an under-signed delegation: the reference skips it and asks targets"},
	{`\(targets/[a-z/]+\) expired at`, "an expired delegation: the reference skips it and asks targets"},
	{`is signed by \d+ keys, not by \d+`, "a threshold met by one key in two wrappings: the reference counts ids"},
	{`metadata of root is malformed|of root by the keys of the root before it|root after version|made with another root`, "an intermediate root is damaged or missing: the reference skips it if the newest has the old keys' signatures"},
	{`a delegation has a name that it may not have`, "a delegation with a bad name"},
}

func TestDifferential(t *testing.T) {
	n := repositories
	if s := os.Getenv("NOTARYDIFF_REPOSITORIES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	pool := keyPool(t)
	counts := map[string]int{}
	for i := range n {
		class := compare(t, pool, uint64(i))
		counts[class]++
		if counts["unexplained"]+counts["we accept more"] > 20 {
			break
		}
	}
	for _, class := range slices.SortedFunc(maps.Keys(counts), func(a, b string) int { return cmp.Compare(counts[b], counts[a]) }) {
		t.Logf("%6d  %s", counts[class], class)
	}
	if counts["both accept"] < n/10 || counts["both refuse"] < n/10 {
		t.Errorf("got %d accepted and %d refused by both of %d: the damage is too little or too much to tell", counts["both accept"], counts["both refuse"], n)
	}
}

func keyPool(t *testing.T) []*notarytest.Key {
	var pool []*notarytest.Key
	for _, kind := range []string{"ecdsa", "ecdsa", "ecdsa", "rsa", "ed25519"} {
		k, err := notarytest.NewKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		pool = append(pool, k)
		if kind == "rsa" {
			old := *k
			old.Method = "rsapkcs1v15"
			pool = append(pool, &old)
		}
	}
	return pool
}

// compare makes one repository and damages it up to three times. It asks both
// after each, and perhaps before, and returns what came of it last.
func compare(t *testing.T, pool []*notarytest.Key, seed uint64) string {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 7))
	a := &author{rng: rng, pool: pool}
	if err := a.create(); err != nil {
		t.Fatal(err)
	}
	var now files
	pins := one(rng, []string{a.repo.Roles["root"].Keys[0].ID()}, nil)
	ref, own := newReference(pins, &now), newOurs(pins, &now)
	if rng.IntN(2) == 0 {
		now = a.repo.Files()
		r, o := ref.resolve("v1"), own.resolve("v1")
		if r.err != nil || o.err != nil {
			t.Fatalf("seed %d: a sound repository: the reference says %v, we say %v", seed, r.err, o.err)
		}
		a.note("updated")
	}
	class := ""
	for range 1 + rng.IntN(3) { // a history, as long as both agree about it
		for range 1 + rng.IntN(2) {
			if err := a.damage(); err != nil {
				t.Fatalf("seed %d: %v: %v", seed, a.did, err)
			}
		}
		now = a.repo.Files()
		if class = classify(t, seed, a.did, ref.resolve("v1"), own.resolve("v1")); !strings.HasPrefix(class, "both") {
			break
		}
		a.note("(%s)", class)
	}
	return class
}

func classify(t *testing.T, seed uint64, did []string, ref, own answer) string {
	t.Helper()
	switch {
	case ref.err == nil && own.err == nil && ref.target.Digest == own.target.Digest && ref.target.Size == own.target.Size:
		return "both accept"
	case own.err == nil:
		t.Errorf("seed %d: %s:\nwe accept %v,\nthe reference says %v, %v", seed, strings.Join(did, "; "), own.target, ref.target, ref.err)
		return "we accept more"
	case errors.Is(ref.err, errPanic):
		return "we refuse, the reference panics"
	case ref.err != nil:
		return "both refuse"
	}
	for _, s := range stricter {
		if regexp.MustCompile(s.says).MatchString(own.err.Error()) {
			return "we refuse more: " + s.why
		}
	}
	t.Errorf("seed %d: %s:\nthe reference accepts %v,\nwe say %v", seed, strings.Join(did, "; "), ref.target, own.err)
	return "unexplained"
}
