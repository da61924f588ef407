package e2e

import (
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// insideEnv marks the test process that runs in its own network and mount
// namespace: only loopback, so that a client that goes around the proxy is seen
// and nothing leaves the machine.
const insideEnv = "COUNTERSIGN_E2E_INSIDE"

// inNamespace runs the named test again, in namespaces of its own, or returns
// true if this already is that run.
func inNamespace(t *testing.T, binary string) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		isolate(t)
		return true
	}
	cmd := exec.Command("unshare", "-n", "-m", "--propagation", "private", os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), insideEnv+"=1", "COUNTERSIGN_BINARY="+binary)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("in its namespace: %v", err)
	}
	return false
}

func isolate(t *testing.T) {
	t.Helper()
	must(t, loopbackUp())
	dir := t.TempDir()
	var text strings.Builder
	text.WriteString("127.0.0.1 localhost\n")
	for name, ip := range hosts {
		fmt.Fprintf(&text, "%s %s\n", ip, name)
	}
	bindFile(t, filepath.Join(dir, "hosts"), "/etc/hosts", text.String())
	bindFile(t, filepath.Join(dir, "resolv.conf"), "/etc/resolv.conf", "nameserver 127.0.0.1\n")
	for _, name := range []string{"/etc/containers", "/etc/docker"} {
		must(t, os.MkdirAll(name, 0o755))
		must(t, unix.Mount("tmpfs", name, "tmpfs", 0, ""))
	}
}

func bindFile(t *testing.T, file, over, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o644))
	must(t, unix.Mount(file, over, "", unix.MS_BIND, ""))
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
