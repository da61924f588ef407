package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// peer is a running proxy.
type peer struct {
	name string
	addr string
	cmd  *exec.Cmd
}

// suite is one run with what it started.
type suite struct {
	ctx      context.Context
	dir      string
	up       *upstream
	binaries map[string]string
	running  []*peer
	fresh    int
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// countersign starts ours with an empty store; records go to a file, as
// distribution's access log does.
func (s *suite) countersign() (*peer, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddress()
	if err != nil {
		return nil, err
	}
	public, err := s.up.key.PublicPEM()
	if err != nil {
		return nil, err
	}
	dir, err := s.newDir(map[string]string{"team.pub": string(public), "config.yaml": fmt.Sprintf(`server: {listen: %q, admin: %q}
upstreams: {bench.test: {url: "http://%s", default: true}}
storage: {driver: {filesystem: {rootdirectory: content}}, limit: 20GiB}
state: state
decisions: {log: decisions.jsonl}
verifiers: {team: {sigstore: {keys: [{file: team.pub}], transparency_log: optional}}}
rules: [{name: bench, match: bench.test/**, require: team}]
`, addr, admin, s.up.addr)})
	if err != nil {
		return nil, err
	}
	return s.start("countersign", addr, dir, s.binaries["countersign"], "serve", "--config", filepath.Join(dir, "config.yaml"))
}

// distribution starts the peer with its defaults and an empty store.
func (s *suite) distribution() (*peer, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	dir, err := s.newDir(nil)
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\nproxy: {remoteurl: \"http://%s\"}\n",
		filepath.Join(dir, "content"), addr, s.up.addr)
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return s.start("distribution", addr, dir, s.binaries["registry"], "serve", file)
}

func (s *suite) newDir(files map[string]string) (string, error) {
	s.fresh++
	dir := filepath.Join(s.dir, strconv.Itoa(s.fresh))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (s *suite) start(name, addr, dir, binary string, args ...string) (*peer, error) {
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.CommandContext(s.ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &peer{name, addr, cmd}
	s.running = append(s.running, p)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			resp.Body.Close()
			return p, nil
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			return nil, fmt.Errorf("%s did not start: %s", name, text)
		}
	}
}

// end stops one peer and waits for it.
func (p *peer) end() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait()
	timer.Stop()
}

func (s *suite) stop() {
	for _, p := range s.running {
		p.end()
	}
}

// resident returns the greatest resident size of a peer so far, in MiB.
func (p *peer) resident() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmHWM:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmHWM for %s", p.name)
}
