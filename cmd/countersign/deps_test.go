package main

import (
	"go/build"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	modulePath = "github.com/countersign/countersign"
	moduleRoot = "../.."
)

// imports returns what each package of the module imports outside its tests,
// by its directory in the module. Packages that only tests use, which are
// named …test, are left out.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	err := filepath.WalkDir(moduleRoot, func(dir string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		name := d.Name()
		if dir != moduleRoot && (strings.HasPrefix(name, ".") || name == "testdata" || strings.HasSuffix(name, "test") || name == "bench") {
			return fs.SkipDir
		}
		p, err := build.ImportDir(dir, 0)
		if err != nil {
			// A directory without Go files.
			return nil
		}
		rel, err := filepath.Rel(moduleRoot, dir)
		all[filepath.ToSlash(rel)] = p.Imports
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// layers are in the order of imports: a package imports its own layer and
// those before it, never one after it.
var layers = []string{"cache", "verify", "policy", "proxy", "cmd"}

func TestImportsFormALine(t *testing.T) {
	seen := map[string]bool{}
	for pkg, list := range imports(t) {
		layer, _, _ := strings.Cut(pkg, "/")
		at := slices.Index(layers, layer)
		if at < 0 {
			continue
		}
		seen[layer] = true
		for _, i := range list {
			other, ours := strings.CutPrefix(i, modulePath+"/")
			otherLayer, _, _ := strings.Cut(other, "/")
			if ours && slices.Index(layers, otherLayer) > at {
				t.Errorf("%s imports %s, want only %s", pkg, other, strings.Join(layers[:at+1], ", "))
			}
		}
	}
	if len(seen) != len(layers) {
		t.Errorf("got packages in %d layers, want %d: was one renamed?", len(seen), len(layers))
	}
}

// Each layer stays ignorant of what is none of its business.
func TestImportsThatAreForbidden(t *testing.T) {
	for _, test := range []struct {
		pkg, forbidden, why string
	}{
		{"cache", "net/http", "the cache knows nothing of registries"},
		{"cache", "go.yaml.in/", "configuration is parsed in one place"},
		{"verify", "net/http", "verify knows nothing of HTTP servers"},
		{"verify", modulePath + "/cache", "verify holds words, not storage"},
		{"policy", "net/http", "policy decides, it does not serve"},
		{"policy", "go.yaml.in/", "configuration is parsed in one place"},
		{"policy", modulePath + "/verify/", "policy knows verifiers, not schemes"},
		{"proxy", "go.yaml.in/", "configuration is parsed in one place"},
		{"proxy", modulePath + "/verify/", "the proxy knows verifiers, not schemes"},
		{"proxy/upstream", modulePath + "/policy", "an upstream is read, not judged"},
		{"sign", modulePath + "/proxy", "signing does not serve"},
	} {
		for _, i := range imports(t)[test.pkg] {
			if strings.HasPrefix(i, test.forbidden) {
				t.Errorf("%s imports %s: %s", test.pkg, i, test.why)
			}
		}
	}
}

// A scheme imports verify and its library, never another scheme.
func TestSchemesDoNotKnowEachOther(t *testing.T) {
	for pkg, list := range imports(t) {
		scheme, ok := strings.CutPrefix(pkg, "verify/")
		if !ok {
			continue
		}
		scheme, _, _ = strings.Cut(scheme, "/")
		for _, i := range list {
			other, ours := strings.CutPrefix(i, modulePath+"/verify/")
			if ours && other != scheme && !strings.HasPrefix(other, scheme+"/") {
				t.Errorf("%s imports another scheme, %s", pkg, other)
			}
		}
	}
}

// Private keys are held by the sign package only, and of the program only the
// demo uses it: nothing that serve runs can sign.
func TestServeCannotSign(t *testing.T) {
	for pkg, list := range imports(t) {
		if slices.Contains(list, modulePath+"/sign") && pkg != "cmd/countersign" {
			t.Errorf("%s imports sign", pkg)
		}
	}
	p, err := build.ImportDir(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, pos := range p.ImportPos[modulePath+"/sign"] {
		if file := path.Base(filepath.ToSlash(pos.Filename)); !strings.HasPrefix(file, "demo") {
			t.Errorf("%s imports sign, want only demo*.go to", file)
		}
	}
}
