package policy

import (
	"strings"
	"testing"
)

func pattern(t testing.TB, s string) Pattern {
	t.Helper()
	var p Pattern
	if err := p.UnmarshalText([]byte(s)); err != nil {
		t.Fatalf("pattern %q: %v", s, err)
	}
	return p
}

func TestPatternMatches(t *testing.T) {
	for _, test := range []struct {
		pattern string
		match   []string
		refuse  []string
	}{
		{"docker.io/library/alpine", []string{"docker.io/library/alpine"},
			[]string{"docker.io/library/alpine2", "docker.io/library/alpine/x", "xdocker.io/library/alpine", "docker.io/library"}},
		{"docker.io/library/*", []string{"docker.io/library/alpine"}, []string{"docker.io/library/a/b", "docker.io/library", "docker.io/library-evil/x"}},
		{"docker.io/library*", []string{"docker.io/library-evil"}, []string{"docker.io/library-evil/x", "docker.io/library/x"}},
		{"docker.io/**", []string{"docker.io/a", "docker.io/a/b/c"}, []string{"docker.io", "docker.io/", "docker.iox/a"}},
		{"ghcr.io/acme/**", []string{"ghcr.io/acme/a", "ghcr.io/acme/a/b"}, []string{"ghcr.io/acme", "ghcr.io/acme-evil/a", "ghcr.io/acmex"}},
		{"*.azurecr.io/app/*", []string{"a.azurecr.io/app/x"}, []string{"a.azurecr.io/app/x/y", "evil.com/a.azurecr.io/app/x"}},
		{"**/nginx", []string{"docker.io/library/nginx"}, []string{"nginx", "docker.io/library/xnginx"}},
		{"registry.internal:5000/a.b/c", []string{"registry.internal:5000/a.b/c"}, []string{"registry.internal:5000/aXb/c"}},
		{"**", []string{"docker.io/a"}, nil},
	} {
		p := pattern(t, test.pattern)
		for _, name := range test.match {
			if !p.Matches(name) {
				t.Errorf("%s: got no match for %s, want one", test.pattern, name)
			}
		}
		for _, name := range test.refuse {
			if p.Matches(name) {
				t.Errorf("%s: got a match for %s, want none", test.pattern, name)
			}
		}
	}
	if (Pattern{}).Matches("") || (Pattern{}).Matches("docker.io/a") {
		t.Error("the zero pattern matches something")
	}
}

func TestPatternMistakes(t *testing.T) {
	for _, s := range []string{"", "docker.io", "Docker.io/library/*", "docker.io//x", "docker.io/x/", "/docker.io/x", "docker.io/***",
		"docker.io/[", "docker.io/x y", "docker.io/é", "docker.io/x\x00", strings.Repeat("a/", 400) + "a"} {
		var p Pattern
		if err := p.UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q: got no error", s)
		}
	}
}

func FuzzPattern(f *testing.F) {
	for _, s := range []string{"docker.io/**", "a/*", "**/x", "a/b*c/**"} {
		f.Add(s, "docker.io/library/x")
	}
	f.Fuzz(func(t *testing.T, s, name string) {
		var p Pattern
		if p.UnmarshalText([]byte(s)) != nil {
			return
		}
		if p.String() != s {
			t.Fatalf("got %q back, want %q", p.String(), s)
		}
		// What precedes the first star is literal, whatever follows.
		head, _, _ := strings.Cut(s, "*")
		if p.Matches(name) && !strings.HasPrefix(name, head) {
			t.Fatalf("%q matches %q", s, name)
		}
	})
}
