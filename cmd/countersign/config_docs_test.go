package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/verify"
)

func readDoc(t *testing.T, name string) string {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(moduleRoot, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// parseExample parses a configuration whose files need not exist: an example
// may name keys that only its reader has.
func parseExample(t *testing.T, what, body string) *Config {
	t.Helper()
	c, err := parseConfig(filepath.Join(t.TempDir(), "config.yaml"), []byte(body))
	var mistakes *ConfigError
	if err != nil && !errors.As(err, &mistakes) {
		t.Fatalf("%s: %v", what, err)
	}
	if mistakes != nil {
		for _, m := range mistakes.Mistakes {
			if !strings.Contains(m.Text, "no such file or directory") {
				t.Errorf("%s: %s", what, m)
			}
		}
	}
	return c
}

var (
	yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	tomlBlock = regexp.MustCompile("(?s)```toml\n(.*?)```")
)

// Every YAML block of the documentation is a configuration, or a part of one.
func TestDocumentedConfigurations(t *testing.T) {
	names := []string{"README.md"}
	err := fs.WalkDir(os.DirFS(moduleRoot), "docs", func(name string, d fs.DirEntry, err error) error {
		if strings.HasSuffix(name, ".md") {
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for _, block := range yamlBlock.FindAllStringSubmatch(readDoc(t, name), -1) {
			body := block[1]
			if !strings.Contains(body, "upstreams:") {
				body = "upstreams: {docker.io: {default: true}, ghcr.io: {}, registry.k8s.io: {}}\n" + body
			}
			parseExample(t, name, body)
		}
	}
}

func TestDeployedConfigurations(t *testing.T) {
	c := parseExample(t, "deploy/config.yaml", readDoc(t, "deploy/config.yaml"))
	if !isLoopback(c.Server.Listen) || len(c.Policy.Rules()) != 0 {
		t.Errorf("deploy/config.yaml: got %s and %d rules, want this machine only and none", c.Server.Listen, len(c.Policy.Rules()))
	}
	found := false
	dec := yaml.NewDecoder(strings.NewReader(readDoc(t, "deploy/kubernetes.yaml")))
	for {
		var object struct {
			Kind string
			Data map[string]string
		}
		if dec.Decode(&object) != nil {
			break
		}
		if body, ok := object.Data[configName]; ok {
			found = true
			c := parseExample(t, "deploy/kubernetes.yaml", body)
			if !isLoopback(c.Server.Listen) {
				t.Errorf("deploy/kubernetes.yaml listens on %s; without client certificates it must be the node only", c.Server.Listen)
			}
		}
	}
	if !found {
		t.Error("deploy/kubernetes.yaml has no config.yaml")
	}
}

// A client that knows another place to ask goes there after a refusal.
func TestClientConfigurationsDoNotFallBack(t *testing.T) {
	hosts := []string{readDoc(t, "deploy/clients/containerd/hosts.toml")}
	for _, block := range tomlBlock.FindAllStringSubmatch(readDoc(t, "README.md"), -1) {
		hosts = append(hosts, block[1])
	}
	server, host := regexp.MustCompile(`(?m)^server = "(.*)"$`), regexp.MustCompile(`(?m)^\[host\."(.*)"\]$`)
	for _, text := range hosts {
		if !strings.Contains(text, "[host.") {
			continue
		}
		s, h := server.FindStringSubmatch(text), host.FindAllStringSubmatch(text, -1)
		if s == nil || len(h) != 1 || h[0][1] != s[1] {
			t.Errorf("got server %v and hosts %v, want one and the same in\n%s", s, h, text)
		}
		if !strings.Contains(text, `capabilities = ["pull", "resolve"]`) {
			t.Errorf("got no capabilities for pull and resolve in\n%s", text)
		}
	}
	registries := readDoc(t, "deploy/clients/containers/countersign.conf")
	prefixes := regexp.MustCompile(`(?m)^prefix = "(.*)"\nlocation = "127\.0\.0\.1:5000/(.*)"$`).FindAllStringSubmatch(registries, -1)
	c := parseExample(t, "deploy/config.yaml", readDoc(t, "deploy/config.yaml"))
	for _, u := range c.Upstreams {
		if !slices.ContainsFunc(prefixes, func(m []string) bool { return m[1] == u.Name && m[2] == u.Name }) {
			t.Errorf("countersign.conf does not rewrite %s to the proxy", u.Name)
		}
	}
	if regexp.MustCompile(`(?m)^\[\[registry\.mirror`).MatchString(registries) {
		t.Error("countersign.conf has a mirror")
	}
}

// Every reason word has a paragraph, and the lists have the order that decides
// which reason is reported.
func TestReasonsAreDocumented(t *testing.T) {
	var want []string
	for _, r := range verify.Reasons() {
		want = append(want, string(r))
	}
	for _, test := range []struct{ file, pattern string }{
		{"docs/reasons.md", `(?m)^## (\S+)$`},
		{"docs/reasons.md", `(?m)^\| \[([a-z-]+)\]\(#`},
		{"README.md", `(?m)^\| \[([a-z-]+)\]\(docs/reasons\.md#`},
	} {
		var got []string
		for _, m := range regexp.MustCompile(test.pattern).FindAllStringSubmatch(readDoc(t, test.file), -1) {
			got = append(got, m[1])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", test.file, got, want)
		}
	}
}

func TestReadmeIsShort(t *testing.T) {
	const limit = 200
	if n := strings.Count(readDoc(t, "README.md"), "\n"); n > limit {
		t.Errorf("got %d lines, want at most %d", n, limit)
	}
}
