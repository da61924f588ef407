package digests

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/countersign/countersign/verify"
)

var (
	one   = digest.FromString("one")
	two   = digest.FromString("two")
	three = digest.FromString("three")
)

func subject(repository, tag string, d digest.Digest) verify.Subject {
	return verify.Subject{Registry: "r.test:5000", Repository: repository, Tag: tag, Digest: d}
}

func TestVerify(t *testing.T) {
	v, err := New(Config{Name: "list", Text: []byte("# pinned\n\nr.test:5000/a@" + one.String() + " # why\n" +
		"r.test:5000/b:v1@" + one.String() + "\r\nr.test:5000/b:v1@" + two.String() + "\nr.test:5000/b:v2@" + two.String() + "\n")})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		s    verify.Subject
		want verify.Reason
	}{
		{"any tag", subject("a", "v9", one), ""},
		{"by digest", subject("a", "", one), ""},
		{"another digest", subject("a", "v9", two), verify.Unsigned},
		{"another repository", subject("c", "v1", one), verify.Unsigned},
		{"its tag", subject("b", "v1", one), ""},
		{"the tag's second digest", subject("b", "v1", two), ""},
		{"a listed digest of another tag", subject("b", "v2", one), verify.DigestMismatch},
		{"a listed tag, another digest", subject("b", "v1", three), verify.DigestMismatch},
		{"a tag without a line", subject("b", "v3", one), verify.Unsigned},
		{"a tagged line, pulled by digest", subject("b", "", one), ""},
		{"an unknown digest, pulled by digest", subject("b", "", three), verify.Unsigned},
	} {
		e, err := v.Verify(t.Context(), test.s)
		var r *verify.Refusal
		switch {
		case test.want == "" && (err != nil || len(e.Signers) != 1):
			t.Errorf("%s: got %v, %v, want evidence", test.name, e, err)
		case test.want != "" && (!errors.As(err, &r) || r.Reason != test.want):
			t.Errorf("%s: got %v, want %s", test.name, err, test.want)
		}
	}
	if !v.Scope(verify.Subject{}).Tag {
		t.Error("verdicts of a list with tags are remembered without them")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Verify(ctx, subject("a", "", one)); err == nil || errors.As(err, new(*verify.Refusal)) {
		t.Errorf("cancelled: got %v, want undecided", err)
	}
}

func TestMistakes(t *testing.T) {
	_, err := New(Config{Name: "list", Text: []byte("alpine@" + one.String() + "\nr.test/a\nr.test/a:v1\nr.test/a@sha256:abc\nr.test/A@" + one.String() +
		"\nr.test/b@" + one.String() + "\nr.test/b@" + one.String() + "\nr.test/c@sha384:" + strings.Repeat("a", 96) + "\n")})
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{"list line 1", "list line 2", "list line 3", "list line 4", "list line 5", "list line 7", "list line 8"} {
		if !strings.Contains(err.Error(), want+":") {
			t.Errorf("got %v, want %s among the mistakes", err, want)
		}
	}
	if strings.Contains(err.Error(), "line 6") {
		t.Errorf("got %v, want nothing about line 6", err)
	}
	if _, err := New(Config{Text: []byte("# nothing\n")}); err == nil {
		t.Error("an empty list: got no error")
	}
}

func TestSameListIsOneAuthority(t *testing.T) {
	text := []byte("r.test:5000/a@" + one.String())
	ids := map[string]bool{}
	for _, name := range []string{"x", "y"} {
		v, err := New(Config{Name: name, Text: text})
		if err != nil {
			t.Fatal(err)
		}
		e, err := v.Verify(t.Context(), subject("a", "", one))
		if err != nil {
			t.Fatal(err)
		}
		ids[e.Signers[0].ID] = true
	}
	if len(ids) != 1 {
		t.Errorf("got %d authorities of one list, want 1", len(ids))
	}
}

func FuzzNew(f *testing.F) {
	f.Add([]byte("r.test/a:v1@" + one.String() + " # x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := New(Config{Text: text})
		if err != nil {
			return
		}
		if _, err := v.Verify(t.Context(), verify.Subject{Registry: "unlisted.test", Repository: "x", Digest: three}); err == nil && !strings.Contains(string(text), "unlisted.test") {
			t.Fatal("vouches for what is not listed")
		}
	})
}
