package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/countersign/countersign"
)

// FuzzParseConfig looks for panics, for an error that is not a list of
// mistakes within the file, and for an accepted file that does not mean the
// same twice.
func FuzzParseConfig(f *testing.F) {
	dir := trustRoots(f)
	f.Add(countersign.Config())
	f.Add([]byte(wholeConfig))
	files, err := filepath.Glob("testdata/mistakes/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Add([]byte("\r0"))
	path := filepath.Join(dir, "config.yaml")
	f.Fuzz(func(t *testing.T, body []byte) {
		first, err := parseConfig(path, body)
		if err != nil {
			var mistakes *ConfigError
			if !errors.As(err, &mistakes) || len(mistakes.Mistakes) == 0 {
				t.Fatalf("got %v, want a *ConfigError with mistakes", err)
			}
			for _, m := range mistakes.Mistakes {
				if n := lines(body); m.Line < 0 || m.Line > n {
					t.Errorf("got line %d of %d: %s", m.Line, n, m.Text)
				}
			}
			return
		}
		second, err := parseConfig(path, body)
		if err != nil {
			t.Fatalf("accepted once, then: %v", err)
		}
		rules, again := first.Policy.Rules(), second.Policy.Rules()
		if len(rules) != len(again) {
			t.Fatalf("got %d rules, then %d", len(rules), len(again))
		}
		for i := range rules {
			if rules[i].Fingerprint == "" || rules[i].Fingerprint != again[i].Fingerprint {
				t.Errorf("rule %d: got fingerprint %q, then %q", i, rules[i].Fingerprint, again[i].Fingerprint)
			}
			if rules[i].Exempt == nil && rules[i].Require.Verifiers() == nil {
				t.Errorf("rule %d requires nothing and exempts nothing", i)
			}
		}
		if _, err := first.verifiers(nil, nil); err != nil {
			t.Errorf("accepted, but a verifier cannot be made: %v", err)
		}
	})
}

// lines counts lines as YAML 1.1 does, with its five line breaks.
func lines(body []byte) int {
	n := 1
	for _, br := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
		n += strings.Count(string(body), br)
	}
	return n
}
