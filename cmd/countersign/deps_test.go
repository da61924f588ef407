package main

import (
	"go/build"
	"io/fs"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
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

// The list of modules in the documentation is that of the binary, so that
// review sees a new one; and each module that our code imports is explained.
func TestModulesAreDocumented(t *testing.T) {
	doc := readDoc(t, "docs/dependencies.md")
	explained, list, ok := strings.Cut(doc, "```modules\n")
	if !ok {
		t.Fatal("docs/dependencies.md has no list of modules")
	}
	list, _, _ = strings.Cut(list, "```")
	documented := strings.Fields(list)
	linked := goList(t, `{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}`)
	for _, m := range linked {
		if !slices.Contains(documented, m) {
			t.Errorf("%s is linked and not in docs/dependencies.md: add it, with the reason if our code imports it", m)
		}
	}
	for _, m := range documented {
		if !slices.Contains(linked, m) {
			t.Errorf("%s is in docs/dependencies.md and not linked: remove it", m)
		}
	}
	ours := goList(t, `{{with .Module}}{{if .Main}}{{range $.Imports}}{{println .}}{{end}}{{end}}{{end}}`)
	for _, m := range linked {
		imported := slices.ContainsFunc(ours, func(i string) bool { return i == m || strings.HasPrefix(i, m+"/") })
		if name := path.Base(majorVersion.ReplaceAllString(m, "")); imported && !strings.Contains(explained, "/"+name) {
			t.Errorf("%s is imported by our code; say why in docs/dependencies.md", m)
		}
	}
}

var majorVersion = regexp.MustCompile(`/v[0-9]+$`)

// goList returns what the go command prints about each package of the program,
// sorted, each once.
func goList(t *testing.T, format string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return slices.Compact(slices.Sorted(strings.FieldsSeq(string(out))))
}
