package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/countersign/countersign/policy"
)

func TestFingerprints(t *testing.T) {
	dir := trustRoots(t)
	prints := func(body string) []string {
		var all []string
		for _, r := range parse(t, dir, body).Policy.Rules() {
			all = append(all, r.Fingerprint)
		}
		return all
	}
	base := prints(wholeConfig)
	if again := prints("# a comment\n" + strings.Replace(wholeConfig, "limit: 2TB", "limit: 1TB", 1)); !slices.Equal(base, again) {
		t.Error("a change that no decision rests on changed a fingerprint")
	}
	if len(slices.Compact(slices.Sorted(slices.Values(base)))) != len(base) {
		t.Error("two rules share a fingerprint")
	}
	// Of the four rules, which must forget their decisions?
	for _, test := range []struct {
		name, old, new string
		want           [4]bool
	}{
		{"match", "docker.io/library/*", "docker.io/library/**", [4]bool{1: true}},
		{"threshold", "at_least: 2, of", "at_least: 3, of", [4]bool{1: true}},
		{"kind", "agree: [team", "all: [team", [4]bool{2: true}},
		{"exemption", "2099-01-31", "2099-01-30", [4]bool{3: true}},
		{"verifier's threshold", "at_least: 2, tr", "at_least: 1, tr", [4]bool{true, true, true, false}},
		{"key's end", "2035-12-31", "2035-12-30", [4]bool{true, true, true, false}},
		{"key", "release.pub", "server.pub", [4]bool{true, true, false, false}},
	} {
		if !strings.Contains(wholeConfig, test.old) {
			t.Fatalf("%s: nothing to replace", test.name)
		}
		var got [4]bool
		for i, p := range prints(strings.Replace(wholeConfig, test.old, test.new, 1)) {
			got[i] = p != base[i]
		}
		if got != test.want {
			t.Errorf("%s: changed %v, want %v", test.name, got, test.want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "pinned.txt"), []byte("docker.io/library/alpine@sha256:"+strings.Repeat("b", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	if now := prints(wholeConfig); now[2] == base[2] || now[3] != base[3] {
		t.Error("the contents of a verifier's file are not in the fingerprint")
	}
}

func TestWarnings(t *testing.T) {
	day := func(d int) string { return time.Now().UTC().AddDate(0, 0, d).Format(time.DateOnly) }
	c := parse(t, trustRoots(t), `
server: {listen: ":5000", admin: "10.0.0.1:5001"}
upstreams:
  docker.io: {}
  "*.example.com": {}
  plain.example: {url: "http://plain.example", credentials: {docker_config: docker.json}}
verifiers:
  team: {sigstore: {keys: [{file: team.pub, name: team, not_after: `+day(3)+`}], transparency_log: optional}}
  spare: {digests: {file: pinned.txt}}
rules:
  - {name: a, match: docker.io/acme/**, require: team}
  - {name: b, match: docker.io/acme/app, require: team}
  - {name: c, match: docker.io/alpine, require: team}
  - {name: d, match: ghcr.io/acme/*, require: team}
  - {name: e, match: docker.io/library/*, require: team}
  - {name: f, match: docker.io/library/alp*, require: team}
  - {name: g, match: docker.io/library/**, require: team}
  - {name: h, match: a.example.com/x, unsigned: allow, why: moving, until: `+day(3)+`}
  - {name: i, match: b.example.com/x, unsigned: allow, why: moving, until: `+day(-3)+`}
  - {name: j, match: c.example.com/x, unsigned: allow, why: moving, until: `+day(300)+`}
  - {name: k, match: a.b.example.com/x, require: team}
`)
	want := []string{
		"server.listen: :5000 is open to other hosts",
		"server.admin: 10.0.0.1:5001 is open to other hosts",
		"upstreams.plain.example: the password goes over the network in the clear",
		`verifiers.team.sigstore.keys[0]: key "team" ends ` + day(3),
		`rule "b" can never apply: rule "a" (docker.io/acme/**) matches first`,
		`rule "c" can never apply: on Docker Hub every name has two parts: write docker.io/library/alpine`,
		`rule "d" can never apply: no upstream is named "ghcr.io"`,
		`rule "f" can never apply: rule "e" (docker.io/library/*) matches first`,
		`rule "h": its exemption ends soon: a.example.com/x is served without signatures until ` + day(3),
		`rule "i": its exemption ended ` + day(-3),
		`rule "j": c.example.com/x is served without signatures until ` + day(300),
		`rule "k" can never apply: no upstream is named "a.b.example.com"`,
		`verifier "spare" is not used by any rule`,
	}
	for i := range max(len(c.Warnings), len(want)) {
		switch {
		case i >= len(c.Warnings):
			t.Errorf("got nothing, want %q", want[i])
		case i >= len(want):
			t.Errorf("got %q, want nothing more", c.Warnings[i])
		case !strings.HasPrefix(c.Warnings[i], want[i]):
			t.Errorf("got %q, want %q", c.Warnings[i], want[i])
		}
	}
}

// Whatever a pattern shadows it must really match: the warning says "never".
func TestShadowedByIsTrue(t *testing.T) {
	patterns := []string{"a/**", "a/*", "a/b", "a/b/**", "a/b/*", "a/b*", "a/**/c", "a/*/c", "**", "a*/b", "a/b/c", "*/b", "a/b**"}
	names := []string{"a/b", "a/bb", "a/b/c", "a/b/c/d", "a/x/c", "a/x/y/c", "ab/b", "b/b", "a/c", "b/c"}
	for _, first := range patterns {
		for _, second := range patterns {
			if shadowedBy(map[string]string{first: "first"}, second) == "" {
				continue
			}
			var p, q policy.Pattern
			if err := p.UnmarshalText([]byte(first)); err != nil {
				t.Fatal(err)
			}
			if err := q.UnmarshalText([]byte(second)); err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if q.Matches(name) && !p.Matches(name) {
					t.Errorf("%s is said to shadow %s, but not for %s", first, second, name)
				}
			}
		}
	}
}
