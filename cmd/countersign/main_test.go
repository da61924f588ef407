package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestDemo(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"demo", "--once"}, &out, &errs); code != 0 {
		t.Fatalf("got exit code %d: %s%s", code, out.String(), errs.String())
	}
	for _, image := range demoImages {
		if !strings.Contains(out.String(), image.reference) {
			t.Errorf("the table lacks %s:\n%s", image.reference, out.String())
		}
	}
}

// demoSite is the demo's registry with its configuration in a directory.
func demoSite(t *testing.T) (config string) {
	t.Helper()
	dir := t.TempDir()
	registry := newDemoRegistry()
	if err := registry.fill(dir); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(registry)
	t.Cleanup(s.Close)
	config = filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf(demoConfig, "127.0.0.1:0", strings.TrimPrefix(s.URL, "http://"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}

func TestVerifyExitCodes(t *testing.T) {
	config := demoSite(t)
	for _, test := range []struct {
		ref  string
		code int
		want string
	}{
		{"signed", exitAdmitted, "ADMITTED"},
		{"bundle", exitAdmitted, "bundle"},
		{"pinned", exitAdmitted, "ADMITTED"},
		{"unsigned", exitRefused, "REFUSED unsigned"},
		{"moved", exitRefused, "REFUSED unsigned"},
		{"wrong-key", exitRefused, "REFUSED untrusted-signer"},
		{"copied", exitRefused, "REFUSED digest-mismatch"},
		{"absent", exitUndecided, "UNDECIDED"},
	} {
		var out, errs bytes.Buffer
		ref := demoRegistryName + "/demo/app:" + test.ref
		if code := run(t.Context(), []string{"verify", "--config", config, ref}, &out, &errs); code != test.code || !strings.Contains(out.String(), test.want) {
			t.Errorf("%s: got exit code %d, want %d and %q in:\n%s%s", test.ref, code, test.code, test.want, out.String(), errs.String())
		}
		out.Reset()
		run(t.Context(), []string{"verify", "-o", "json", "--config", config, ref}, &out, &errs)
		var e explanation
		if err := json.Unmarshal(out.Bytes(), &e); err != nil || !strings.HasPrefix(test.want, strings.ToUpper(e.Outcome)) && test.ref != "bundle" {
			t.Errorf("%s: got %v, %s", test.ref, err, out.String())
		}
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"verify", "--config", config, "not a reference"}, &out, &errs); code != exitUndecided && code != exitUsage {
		t.Errorf("bad reference: got exit code %d", code)
	}
	if code := run(t.Context(), []string{"verify", "--config", config}, &out, &errs); code != exitUsage {
		t.Errorf("no reference: got exit code %d, want %d", code, exitUsage)
	}
	if code := run(t.Context(), []string{"no-such-command"}, &out, &errs); code != exitUsage {
		t.Errorf("unknown command: got exit code %d, want %d", code, exitUsage)
	}
}

// freeAddress returns a loopback address that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("not within 20 s: " + what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func status(url string) int {
	resp, err := http.Get(url)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// A transfer that is under way when the signal comes is finished, and new
// connections are not accepted.
func TestServeLetsTransfersFinish(t *testing.T) {
	dir := t.TempDir()
	registry := newDemoRegistry()
	if err := registry.fill(dir); err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(registry.manifests["demo/app:signed"], &m); err != nil {
		t.Fatal(err)
	}
	slow := m.Layers[0].Digest.String()
	held, release := make(chan struct{}), make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, slow) {
			close(held)
			<-release
		}
		registry.ServeHTTP(w, r)
	}))
	defer s.Close()
	config, listen, admin := filepath.Join(dir, "config.yaml"), freeAddress(t), freeAddress(t)
	text := strings.Replace(fmt.Sprintf(demoConfig, listen, strings.TrimPrefix(s.URL, "http://")), "server: {", "server: {admin: \""+admin+"\", ", 1)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	var errs bytes.Buffer
	go func() { ended <- run(ctx, []string{"serve", "--config", config}, io.Discard, &errs) }()
	eventually(t, "ready", func() bool { return status("http://"+admin+"/readyz") == 200 })
	if got := status("http://" + admin + "/healthz"); got != 200 {
		t.Errorf("healthz: got %d", got)
	}
	if got := status("http://" + listen + "/v2/demo/app/manifests/signed"); got != 200 {
		t.Fatalf("manifest: got %d", got)
	}
	got := make(chan int)
	go func() { got <- status("http://" + listen + "/v2/demo/app/blobs/" + slow) }()
	<-held
	stop()
	eventually(t, "not ready", func() bool { return status("http://"+admin+"/readyz") != 200 })
	close(release)
	if got := <-got; got != 200 {
		t.Errorf("the transfer that was under way: got %d, want 200", got)
	}
	if code := <-ended; code != 0 {
		t.Errorf("got exit code %d: %s", code, errs.String())
	}
}

// writePair writes a self-signed certificate for 127.0.0.1 with this serial.
func writePair(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "proxy"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestCertificateIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	cert, key := writePair(t, dir, 1)
	c, err := newCertificates(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		got, err := c.get(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(got.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	writePair(t, dir, 2)
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(cert, later, later); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 1 {
		t.Errorf("got serial %d before the files are looked at, want 1", got)
	}
	c.checked = time.Time{}
	if got := serial(); got != 2 {
		t.Errorf("got serial %d, want the renewed 2", got)
	}
	if err := os.WriteFile(cert, []byte("half written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(cert, later.Add(time.Minute), later.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c.checked = time.Time{}
	if got := serial(); got != 2 {
		t.Errorf("got serial %d from a broken file, want the old 2", got)
	}
}

func TestDailyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "decisions.jsonl")
	for name, age := range map[string]time.Duration{"decisions-2020-01-01.jsonl": 1000 * time.Hour, "decisions-2020-01-02.jsonl": time.Hour, "decisions.jsonl": 48 * time.Hour, "other-2020-01-01.jsonl": 1000 * time.Hour} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(file, then, then); err != nil {
			t.Fatal(err)
		}
	}
	f, err := openDailyFile(path, 100*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("today\n")); err != nil {
		t.Fatal(err)
	}
	f.ends = time.Now().Add(-time.Minute)
	if _, err := f.Write([]byte("tomorrow\n")); err != nil {
		t.Fatal(err)
	}
	f.close()
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"decisions-2020-01-02.jsonl", "decisions-" + day(time.Now().Add(-48*time.Hour)) + ".jsonl", "decisions-" + day(f.ends.Add(-24*time.Hour)) + ".jsonl", "decisions.jsonl", "other-2020-01-01.jsonl"}
	for _, w := range want[:2] {
		if !strings.Contains(strings.Join(names, " "), w) {
			t.Errorf("got files %v, want %s among them", names, w)
		}
	}
	if strings.Contains(strings.Join(names, " "), "decisions-2020-01-01") {
		t.Errorf("got files %v, want the one older than keep removed", names)
	}
	if body, err := os.ReadFile(path); err != nil || string(body) != "tomorrow\n" {
		t.Errorf("got %q, %v, want only the new day's line", body, err)
	}
}
