package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func runCheck(t *testing.T, dir, config string) (code int, stdout, stderr string) {
	t.Helper()
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	code = run(t.Context(), []string{"check", "--config", path}, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCheckPrintsWhatAConfigurationMeans(t *testing.T) {
	dir := trustRoots(t)
	code, stdout, stderr := runCheck(t, dir, wholeConfig)
	if code != 0 || stderr != "" {
		t.Fatalf("got exit code %d, stderr %q", code, stderr)
	}
	public, err := os.ReadFile(filepath.Join(dir, "team.pub"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(public)
	for _, want := range []string{
		"0.0.0.0:443 (TLS, clients must show a certificate)",
		"at https://registry-1.docker.io, for names without a registry, as user hub",
		"up to 2TB",
		"decisions.jsonl, kept 7d",
		"5 decisions, refusals 1s, tags 0s, tags of an upstream that is down 36h0m0s",
		"every host with one more label, over https",
		"sigstore: 2 of these keys, transparency log optional",
		fmt.Sprintf("team key:sha256:%x", sha256.Sum256(block.Bytes)),
		"from 2025-01-01 until 2035-12-31",
		"digests: the list pinned.txt, sha256:",
		"requires {at_least: 2, of: [team, pinned, release]}",
		"requires nothing until 2099-01-31: T-12: moving",
		`rule "old": url.example/old/* is served without signatures until 2099-01-31: T-12: moving`,
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("got no %q in\n%s", want, stdout)
		}
	}
	if strings.Contains(stdout, "hunter2") {
		t.Errorf("a password is in\n%s", stdout)
	}
}

func TestCheckPrintsAllMistakes(t *testing.T) {
	dir := trustRoots(t)
	config := strings.NewReplacer("limit: 2TB", "limit: many", "require: {agree", "requires: {agree").Replace(wholeConfig)
	code, stdout, stderr := runCheck(t, dir, config)
	if code != 3 || stdout != "" {
		t.Errorf("got exit code %d, stdout %q, want 3 and none", code, stdout)
	}
	for _, want := range []string{
		"countersign: reading the configuration: 2 mistakes\n",
		filepath.Join(dir, "config.yaml") + `:12: storage.limit: "many" is not a size: write`,
		filepath.Join(dir, "config.yaml") + `:23: rules[2] "agreed": unknown key "requires": did you mean "require"?`,
	} {
		if !strings.Contains(stderr, want) {
			t.Errorf("got no %q in\n%s", want, stderr)
		}
	}
}

func TestCheckOfAMissingFile(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"check", "--config", "none.yaml"}, &out, &errs); code != 3 {
		t.Errorf("got exit code %d, want 3", code)
	}
	if want := "reading the configuration: none.yaml: no such file"; !strings.Contains(errs.String(), want) {
		t.Errorf("got %q, want %q", errs.String(), want)
	}
}
