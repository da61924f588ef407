package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// EnvBuilt names a directory with containerd 2 and Docker Engine 29, built from
// source: e2e-full.sh sets it.
const EnvBuilt = "COUNTERSIGN_FULL_BIN"

// builtClients are the clients that take minutes to build.
func (s *site) builtClients(t *testing.T) []subjectClient {
	t.Helper()
	bin := os.Getenv(EnvBuilt)
	if bin == "" {
		return nil
	}
	// Content is shared within a containerd: each client has one of its own.
	engine := newContainerd(t, s, "containerd29", bin)
	return []subjectClient{
		{"containerd 2.4", newContainerd(t, s, "containerd2", bin), facts{message: true, mirrors: true, resumes: true}},
		{"docker 29", newEngine(t, s, bin, engine.socket), facts{message: true, mirrors: true, resumes: true}},
	}
}

// engineClient is Docker Engine 29 with the containerd image store, which reads
// hosts.toml, asked over its API: no CLI of Debian's speaks to it.
type engineClient struct {
	s    *site
	http *http.Client
}

func newEngine(t *testing.T, s *site, bin, containerd string) *engineClient {
	t.Helper()
	dir := filepath.Join(s.dir, "docker29")
	must(t, os.MkdirAll(dir, 0o755))
	socket := filepath.Join(dir, "d.sock")
	config := s.write(t, "docker29/daemon.json", fmt.Sprintf(`{"iptables":false,"ip6tables":false,"bridge":"none","data-root":%q,"exec-root":%q,"pidfile":%q,
"hosts":[%q],"features":{"containerd-snapshotter":true},"storage-driver":"native","exec-opts":["native.cgroupdriver=cgroupfs"],"containerd":%q,"userland-proxy":false}`,
		filepath.Join(dir, "root"), filepath.Join(dir, "exec"), filepath.Join(dir, "pid"), "unix://"+socket, containerd))
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	cmd := exec.Command(filepath.Join(bin, "dockerd"), "--config-file", config)
	cmd.Env = append(os.Environ(), append(s.caEnv(), "PATH="+bin+":"+os.Getenv("PATH"))...)
	cmd.Stdout, cmd.Stderr = log, log
	startProcess(t, cmd)
	c := &engineClient{s: s, http: &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}}
	waitFor(t, "dockerd 29", func() bool {
		resp, err := c.http.Get("http://docker/_ping")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return c
}

func (c *engineClient) via(t *testing.T, host string, mirror bool) {
	t.Helper()
	dir := "/etc/docker/certs.d/" + upstreamHost
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hostsToml(host, mirror)), 0o644))
}

func (c *engineClient) pull(t *testing.T, repository, reference string) (string, string, bool) {
	t.Helper()
	name := direct(repository, reference)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://docker/images/"+url.PathEscape(name)+"?force=1", nil)
	must(t, err)
	if resp, err := c.http.Do(req); err == nil {
		resp.Body.Close()
	}
	q := url.Values{"fromImage": {name}}
	resp, err := c.http.Post("http://docker/images/create?"+q.Encode(), "", nil)
	must(t, err)
	out, err := io.ReadAll(resp.Body)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || bytes.Contains(out, []byte(`"error"`)) {
		return string(out), "", false
	}
	resp, err = c.http.Get("http://docker/images/" + name + "/json")
	must(t, err)
	defer resp.Body.Close()
	var image struct{ RepoDigests []string }
	must(t, json.NewDecoder(resp.Body).Decode(&image))
	want := c.s.digest(repository, reference)
	for _, d := range image.RepoDigests {
		if strings.HasSuffix(d, "@"+want) {
			return string(out), want, true
		}
	}
	return string(out), strings.Join(image.RepoDigests, " "), true
}
