package notarydiff

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/countersign/countersign/verify/notary/notarytest"
)

// BenchmarkFiveRoles verifies root, timestamp, snapshot, targets and
// targets/releases from bytes, with both in turn, and reports the processor
// time of each and their ratio. In turn, because other load on the machine then
// weighs on both alike.
func BenchmarkFiveRoles(b *testing.B) {
	repo, err := notarytest.New(gun, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	k, err := notarytest.NewKey("ecdsa")
	if err != nil {
		b.Fatal(err)
	}
	if err := repo.Delegate("targets/releases", []*notarytest.Key{k}); err != nil {
		b.Fatal(err)
	}
	for i := range 20 {
		repo.Roles["targets/releases"].Targets[fmt.Sprintf("v%d", i)] = target(fmt.Sprint(i))
	}
	if err := repo.Publish("targets/releases"); err != nil {
		b.Fatal(err)
	}
	now := files(repo.Files())
	pins := []string{repo.Roles["root"].Keys[0].ID()}
	spend := func(fresh func() resolver) time.Duration {
		start := cpu(b)
		for range 10 {
			if a := fresh().resolve("v1"); a.err != nil {
				b.Fatal(a.err)
			}
		}
		return cpu(b) - start
	}
	var theirs, ours time.Duration
	rounds := 0
	for b.Loop() {
		theirs += spend(func() resolver { return newReference(pins, &now) })
		ours += spend(func() resolver { return newOurs(pins, &now) })
		rounds += 10
	}
	b.ReportMetric(float64(theirs.Microseconds())/float64(rounds), "reference-cpu-µs")
	b.ReportMetric(float64(ours.Microseconds())/float64(rounds), "ours-cpu-µs")
	b.ReportMetric(float64(ours)/float64(theirs), "ours/reference")
}

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
