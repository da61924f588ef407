package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// wanted returns the mistakes that a file announces at the ends of its lines,
// as "line: text".
func wanted(body string) []string {
	var all []string
	for i, line := range strings.Split(body, "\n") {
		if _, texts, ok := strings.Cut(line, "#! "); ok && !strings.HasPrefix(line, "#") {
			for text := range strings.SplitSeq(texts, " | ") {
				all = append(all, strconv.Itoa(i+1)+": "+text)
			}
		}
	}
	return all
}

func TestMistakesAreReportedAllAtOnceWithTheirLines(t *testing.T) {
	files, err := filepath.Glob("testdata/mistakes/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("got %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = parseConfig(filepath.Join(trustRoots(t), "config.yaml"), body)
			var mistakes *ConfigError
			if !errors.As(err, &mistakes) {
				t.Fatalf("got %v, want a *ConfigError", err)
			}
			compareMistakes(t, mistakes.Mistakes, wanted(string(body)))
		})
	}
}

// compareMistakes pairs every mistake with one announcement in its line.
func compareMistakes(t *testing.T, got []Mistake, want []string) {
	t.Helper()
	left := map[string]bool{}
	for _, w := range want {
		left[w] = true
	}
	last := 0
	for _, m := range got {
		if m.Line < last {
			t.Errorf("line %d is reported after line %d", m.Line, last)
		}
		last = m.Line
		found := ""
		for w := range left {
			line, text, _ := strings.Cut(w, ": ")
			if line == strconv.Itoa(m.Line) && strings.Contains(m.Text, text) {
				found = w
			}
		}
		if found == "" {
			t.Errorf("got %q in line %d, want nothing more there", m.Text, m.Line)
		}
		delete(left, found)
		if !strings.Contains(m.Text, ": ") || strings.Contains(m.Text, "hunter2") {
			t.Errorf("got %q, want what, why and what to do, and no secret", m.Text)
		}
	}
	for w := range left {
		t.Errorf("got nothing, want %s", w)
	}
}

func TestSyntaxMistakes(t *testing.T) {
	for _, test := range []struct{ name, body, want string }{
		{"empty", "", "c.yaml: the file is empty"},
		{"comments only", "# nothing\n", "c.yaml: the file is empty"},
		{"a lone ---", "---", "c.yaml: the file is empty"},
		{"a list", "[]", "c.yaml:1: got a list"},
		{"a tab", "a: b\n\tc: d", "c.yaml:2: not YAML: found a tab"},
		{"a star without quotes", "upstreams:\n  *.azurecr.io: {}", "c.yaml:2: not YAML"},
		{"a pattern without quotes in the first line", "rules: [{match: **}]", "c.yaml:1: not YAML"},
		{"an alias of nothing", "a: b\nrules: *none", "c.yaml:2: not YAML: unknown anchor 'none'"},
		{"text after the document", "a: b\n...\nc", "not YAML: did not find expected <document start>"},
		{"not UTF-8", "a: \xff", "c.yaml: the file is not UTF-8"},
		{"UTF-16", "\xff\xfea\x00", "c.yaml: the file is not UTF-8"},
		{"too long", strings.Repeat("#", maxConfig+1), "more than 8388608 bytes"},
		{"too deep", strings.Repeat("[", 100) + strings.Repeat("]", 100), "nested more than 32 levels deep"},
	} {
		_, err := parseConfig("c.yaml", []byte(test.body))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

func TestMistakesAreBounded(t *testing.T) {
	body := "upstreams: {ghcr.io: {}}\n" + strings.Repeat("? [x]\n: y\n", 1000)
	_, err := parseConfig("c.yaml", []byte(body))
	var mistakes *ConfigError
	if !errors.As(err, &mistakes) || len(mistakes.Mistakes) != maxMistakes {
		t.Errorf("got %d mistakes, want %d", len(mistakes.Mistakes), maxMistakes)
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{"requires": "require", "reqiure": "require", "mtach": "match",
		"x": "", "": "", "require": "require", "something": ""} {
		if got := nearest(word, []string{"name", "match", "require"}); got != want {
			t.Errorf("nearest to %q: got %q, want %q", word, got, want)
		}
	}
}
