package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// client is one real container client.
type client interface {
	// pull pulls an image, named at the registry that it comes from, and
	// returns what the client printed and the digest that it stored.
	pull(t *testing.T, repository, reference string) (output, digest string, ok bool)
	// via makes the client use another host as the proxy, or the proxy as a
	// mirror with a fallback.
	via(t *testing.T, host string, mirror bool)
}

func (s *site) caEnv() []string { return []string{"SSL_CERT_FILE=" + s.authority.file} }

// proxied is the name of an image through the proxy, for clients that are
// told by names.
func proxied(host, repository, reference string) string {
	sep := ":"
	if strings.Contains(reference, ":") {
		sep = "@"
	}
	return host + "/" + upstreamHost + "/" + repository + sep + reference
}

func direct(repository, reference string) string {
	return strings.Replace(proxied("", repository, reference), "/"+upstreamHost, upstreamHost, 1)
}

// craneClient is go-containerregistry's CLI. It has no mirrors.
type craneClient struct {
	s      *site
	binary string
	host   string
}

func (c *craneClient) via(_ *testing.T, host string, _ bool) { c.host = host }

func (c *craneClient) pull(t *testing.T, repository, reference string) (string, string, bool) {
	name := proxied(c.host, repository, reference)
	out, ok := command(t, c.s.caEnv(), c.binary, "pull", "--format", "oci", name, filepath.Join(t.TempDir(), "layout"))
	if !ok {
		return out, "", false
	}
	body, ok := command(t, c.s.caEnv(), c.binary, "manifest", name)
	return out, fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(body))), ok
}

// skopeoClient and podmanClient read registries.conf.
type skopeoClient struct{ s *site }

func (s *site) registriesConf(t *testing.T, host string, mirror bool) {
	t.Helper()
	text := fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\n", upstreamHost, host+"/"+upstreamHost)
	if mirror {
		text = fmt.Sprintf("[[registry]]\nprefix = %[1]q\nlocation = %[1]q\n[[registry.mirror]]\nlocation = %[2]q\n", upstreamHost, host+"/"+upstreamHost)
	}
	must(t, os.WriteFile("/etc/containers/registries.conf", []byte(text), 0o644))
	must(t, os.WriteFile("/etc/containers/policy.json", []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o644))
}

func (c skopeoClient) via(t *testing.T, host string, mirror bool) {
	c.s.registriesConf(t, host, mirror)
}

func (c skopeoClient) pull(t *testing.T, repository, reference string) (string, string, bool) {
	dir := filepath.Join(t.TempDir(), "image")
	name := "docker://" + direct(repository, reference)
	out, ok := command(t, c.s.caEnv(), "skopeo", "copy", "--preserve-digests", name, "dir:"+dir)
	if !ok {
		return out, "", false
	}
	// Of an index, copy keeps this platform's image; the index itself is read raw.
	body, ok := command(t, c.s.caEnv(), "skopeo", "inspect", "--raw", name)
	return out, fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(body))), ok
}

type podmanClient struct{ s *site }

func (c podmanClient) via(t *testing.T, host string, mirror bool) {
	c.s.registriesConf(t, host, mirror)
}

func (c podmanClient) pull(t *testing.T, repository, reference string) (string, string, bool) {
	global := []string{"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--root", filepath.Join(c.s.dir, "podman"), "--runroot", filepath.Join(c.s.dir, "podman-run")}
	run := func(args ...string) (string, bool) {
		return command(t, c.s.caEnv(), "podman", append(global, args...)...)
	}
	name := direct(repository, reference)
	// An image that is there already would not be pulled; its absence is no error.
	_, _ = run("rmi", "--force", name)
	out, ok := run("pull", name)
	if !ok {
		return out, "", false
	}
	digests, ok := run("image", "inspect", "--format", "{{json .RepoDigests}}", name)
	return out, pickDigest(digests, c.s.digest(repository, reference)), ok
}

// digest is that of the fixture.
func (s *site) digest(repository, reference string) string {
	if strings.Contains(reference, ":") {
		return reference
	}
	return s.set.Tags[repository+":"+reference]
}

// pickDigest returns want if it is among the repository digests, else all.
func pickDigest(list, want string) string {
	var all []string
	if json.Unmarshal([]byte(strings.TrimSpace(list)), &all) != nil {
		return list
	}
	for _, d := range all {
		if want != "" && strings.HasSuffix(d, "@"+want) {
			return want
		}
	}
	return strings.Join(all, " ")
}

// containerdClient is containerd with ctr, which reads hosts.toml.
type containerdClient struct {
	s      *site
	name   string
	ctr    string
	built  bool
	socket string
	hosts  string
}

// newContainerd starts the containerd of the directory bin, or that of the
// system for "".
func newContainerd(t *testing.T, s *site, name, bin string) *containerdClient {
	t.Helper()
	dir := filepath.Join(s.dir, name)
	must(t, os.MkdirAll(dir, 0o755))
	program := func(name string) string {
		if bin == "" {
			return name
		}
		return filepath.Join(bin, name)
	}
	c := &containerdClient{s: s, name: name, ctr: program("ctr"), built: bin != "", socket: filepath.Join(dir, "c.sock"), hosts: filepath.Join(dir, "certs.d")}
	config := s.write(t, name+"/config.toml", fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.socket))
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	cmd := exec.Command(program("containerd"), "--config", config)
	cmd.Env = append(os.Environ(), s.caEnv()...)
	cmd.Stdout, cmd.Stderr = log, log
	startProcess(t, cmd)
	waitFor(t, "containerd", func() bool {
		_, ok := command(t, nil, c.ctr, "--address", c.socket, "version")
		return ok
	})
	return c
}

func (c *containerdClient) via(t *testing.T, host string, mirror bool) {
	t.Helper()
	c.s.write(t, c.name+"/certs.d/"+upstreamHost+"/hosts.toml", hostsToml(host, mirror))
}

// hostsToml is the configuration that does not fall back: containerd 1.6
// ignores `server` alone, so the proxy has to be a host as well.
func hostsToml(host string, mirror bool) string {
	server := host
	if mirror {
		server = upstreamHost
	}
	return fmt.Sprintf("server = \"https://%s\"\n[host.\"https://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", server, host)
}

func (c *containerdClient) pull(t *testing.T, repository, reference string) (string, string, bool) {
	name := direct(repository, reference)
	ctr := func(args ...string) (string, bool) {
		return command(t, c.s.caEnv(), c.ctr, append([]string{"--address", c.socket}, args...)...)
	}
	_, _ = ctr("images", "rm", "--sync", name)
	args := []string{"images", "pull", "--hosts-dir", c.hosts, "--snapshotter", "native", name}
	if c.built {
		// Its transfer service unpacks with the snapshotter of its configuration only.
		args = slices.Insert(args, 2, "--local")
	}
	out, ok := ctr(args...)
	if !ok {
		return out, "", false
	}
	list, ok := ctr("images", "ls", "name=="+name)
	for _, field := range strings.Fields(list) {
		if strings.HasPrefix(field, "sha256:") {
			return out, field, ok
		}
	}
	return out, list, false
}

// dockerClient is Docker Engine with the classic store, which has no mirror
// configuration without fallback: images are named through the proxy.
type dockerClient struct {
	s      *site
	socket string
	host   string
	mirror bool
}

func newDocker(t *testing.T, s *site, containerd string) *dockerClient {
	t.Helper()
	return &dockerClient{s: s, socket: "unix://" + startDockerd(t, s, containerd), host: proxyHost}
}

func startDockerd(t *testing.T, s *site, containerd string) string {
	t.Helper()
	dir := filepath.Join(s.dir, "docker")
	must(t, os.MkdirAll(dir, 0o755))
	socket := filepath.Join(dir, "d.sock")
	config := s.write(t, "docker/daemon.json", fmt.Sprintf(`{"registry-mirrors":["https://%s"],"iptables":false,"ip6tables":false,"bridge":"none","data-root":%q,"exec-root":%q,
"pidfile":%q,"hosts":[%q],"storage-driver":"vfs","exec-opts":["native.cgroupdriver=cgroupfs"],"containerd":%q,"userland-proxy":false}`,
		proxyHost, filepath.Join(dir, "root"), filepath.Join(dir, "exec"), filepath.Join(dir, "pid"), "unix://"+socket, containerd))
	log, err := os.Create(filepath.Join(dir, "log"))
	must(t, err)
	cmd := exec.Command("/usr/sbin/dockerd", "--config-file", config)
	cmd.Env = append(os.Environ(), s.caEnv()...)
	cmd.Stdout, cmd.Stderr = log, log
	startProcess(t, cmd)
	waitFor(t, "dockerd", func() bool {
		_, ok := command(t, nil, "docker", "-H", "unix://"+socket, "version")
		return ok
	})
	return socket
}

func (c *dockerClient) via(_ *testing.T, host string, mirror bool) { c.host, c.mirror = host, mirror }

func (c *dockerClient) pull(t *testing.T, repository, reference string) (string, string, bool) {
	name := proxied(c.host, repository, reference)
	if c.mirror {
		// Mirrors work for Docker Hub's names only.
		name = strings.TrimPrefix(direct(repository, reference), upstreamHost+"/")
	}
	docker := func(args ...string) (string, bool) {
		return command(t, nil, "docker", append([]string{"-H", c.socket}, args...)...)
	}
	_, _ = docker("rmi", "--force", name)
	out, ok := docker("pull", name)
	if !ok {
		return out, "", false
	}
	digests, ok := docker("image", "inspect", "--format", "{{json .RepoDigests}}", name)
	return out, pickDigest(digests, c.s.digest(repository, reference)), ok
}

// firstPull pulls through the proxy before anything else was pulled.
func (c *containerdClient) firstPull(t *testing.T, repository, reference string) (string, string, bool) {
	c.via(t, proxyHost, false)
	return c.pull(t, repository, reference)
}
