package notary

import (
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/verify/notary/notarytest"
)

// BenchmarkVerifyFiveRoles verifies root, timestamp, snapshot, targets and
// targets/releases (and bob's delegation) from bytes.
func BenchmarkVerifyFiveRoles(b *testing.B) {
	v := fixture(b, Config{Pin: Pin{RootKeys: []string{fixtureRoot}}}, testStart)
	for b.Loop() {
		if _, err := v.update(b.Context(), fixtureGUN, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUnchangedRefresh is what the background does every minute for each
// repository, over HTTP; the server's part is in it. The metric is the share of
// one core that 1,000 repositories take.
func BenchmarkUnchangedRefresh(b *testing.B) {
	w := newWorld(b)
	server := httptest.NewServer(w.repo)
	defer server.Close()
	remote := must[*Remote](b)(NewRemote(RemoteConfig{Server: server.URL}))
	defer remote.Close()
	v := must[*Verifier](b)(New(w.conf, remote, &notarytest.State{}))
	v.now = w.clock
	repo := must[*repository](b)(v.update(b.Context(), testGUN, nil))
	start, n := cpuTime(b), 0
	for b.Loop() {
		again, err := v.update(b.Context(), testGUN, repo)
		if err != nil || again != repo {
			b.Fatalf("got %v, want what was known", err)
		}
		n++
	}
	each := (cpuTime(b) - start).Seconds() / float64(n)
	b.ReportMetric(100*each*1000/time.Minute.Seconds(), "core-%")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
