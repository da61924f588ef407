package notary

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary/notarytest"
)

// bubble runs a verifier with its background in fake time.
func bubble(t *testing.T, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		time.Sleep(time.Until(testStart)) // synctest begins in 2000
		w.v.now = time.Now
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.v.Run(ctx) }()
		test(t, w)
		cancel()
		check(t, <-done)
		check(t, w.v.Close())
	})
}

func TestBackgroundRefresh(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		e := w.admitted("v1", "one")
		check(t, w.repo.Remove("v1", releases, alice))
		time.Sleep(time.Minute)
		if g := w.v.Scope(subject("v1", "one")).Generation; g == e.Generation || g == "" {
			t.Errorf("a refresh interval after a tag was removed: got generation %q, want another than %q", g, e.Generation)
		}
		w.repo.Requests()
		w.refused("v1", "one", verify.Unsigned)
	})
}

func TestPullsDoNotWaitForTheBackground(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.admitted("v1", "one")
		w.repo.Misbehave(func(string, []byte) ([]byte, error) {
			time.Sleep(20 * time.Second)
			return nil, errors.New("timeout")
		})
		for range 600 {
			start := time.Now()
			w.admitted("v1", "one")
			if d := time.Since(start); d != 0 {
				t.Fatalf("a pull waited %s", d)
			}
			if g := w.v.Scope(subject("v1", "one")).Generation; g == "" {
				t.Fatal("the generation was lost while the server is slow")
			}
			time.Sleep(time.Second)
		}
	})
}

func TestFirstLoadIsCoalesced(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.repo.Misbehave(func(_ string, raw []byte) ([]byte, error) {
			time.Sleep(time.Second)
			return raw, nil
		})
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { w.admitted("v1", "one") })
		}
		wg.Wait()
		if n := len(w.repo.Requests()); n != 6 {
			t.Errorf("100 first pulls cost %d requests, want one for each of six files", n)
		}
	})
}

func TestCallerThatGoesAwayDoesNotEndTheLoad(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.repo.Misbehave(func(_ string, raw []byte) ([]byte, error) {
			time.Sleep(time.Second)
			return raw, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.v.Verify(ctx, subject("v1", "one")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the deadline", err)
		}
		time.Sleep(10 * time.Second)
		w.repo.Requests()
		w.admitted("v1", "one")
		equal(t, "requests", w.repo.Requests(), nil)
	})
}

func TestServerThatHangsIsUndecidedInTime(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.v.fetch = fetcherFunc(func(ctx context.Context, _, _ string, _ int64) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		start := time.Now()
		w.undecided("v1", "one")
		if d := time.Since(start); d > updateTimeout {
			t.Errorf("took %s, want at most %s", d, updateTimeout)
		}
	})
}

func TestIdleRepositoriesAreForgottenNotLost(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.admitted("v1", "one")
		time.Sleep(idle + 2*time.Minute)
		if s := w.v.Status(); len(s) != 0 {
			t.Errorf("after an idle hour: got %v, want nothing in memory", s)
		}
		w.repo.Requests()
		time.Sleep(time.Hour)
		equal(t, "requests", w.repo.Requests(), nil)
		w.admitted("v1", "one")
		equal(t, "requests", w.repo.Requests(), []string{"timestamp.json"})
	})
}

func TestAskingForScopeKeepsARepositoryInUse(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.admitted("v1", "one")
		for range 5 {
			time.Sleep(idle / 2)
			if w.v.Scope(subject("v1", "one")).Generation == "" {
				t.Fatal("the generation was lost")
			}
		}
	})
}

func TestFloodOfUnsignedPulls(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.admitted("v1", "one")
		w.repo.Requests()
		for i := range 1000 {
			w.refused(fmt.Sprintf("no%d", i), "one", verify.Unsigned)
			time.Sleep(10 * time.Millisecond)
		}
		if n := len(w.repo.Requests()); n > 7 {
			t.Errorf("1,000 refused pulls in ten seconds cost %d requests, want one every %s", n, settle)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t)
	w.admitted("v1", "one")
	w.pass(time.Second)
	for i := range maxEntries + 100 {
		w.v.entry(fmt.Sprintf("registry.test/r%d", i))
	}
	if n := len(w.v.entries); n != maxEntries {
		t.Errorf("got %d entries, want %d", n, maxEntries)
	}
	if w.v.entries[testGUN] == nil {
		t.Error("names that are not signed pushed out one that is")
	}
}

func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.v.fetch = fetcherFunc(func(ctx context.Context, _, _ string, _ int64) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		go func() { _, _ = w.v.Verify(context.Background(), subject("v1", "one")) }()
		synctest.Wait()
		start := time.Now()
		check(t, w.v.Close())
		if d := time.Since(start); d != 0 {
			t.Errorf("Close took %s", d)
		}
		w.undecided("v2", "one")
	})
}

func TestFetcherThatPanics(t *testing.T) {
	w := newWorld(t)
	w.repo.Misbehave(func(string, []byte) ([]byte, error) { panic("crafted") })
	w.undecided("v1", "one")
}

// 1,000 repositories are refreshed within the interval by timestamp alone.
func TestThousandRepositories(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const n = 1000
		guns := map[string]string{}
		k := must[*notarytest.Key](t)(makeKey(t, "ecdsa").Certify(notarytest.Certificate("registry.test/*", testStart), nil))
		w.repo.Roles["root"].Keys = []*notarytest.Key{k}
		republish(t, w)
		for i := range n {
			guns[fmt.Sprintf("registry.test/r%d", i)] = testGUN
		}
		var timestamps, others atomic.Int64
		w.conf.Pin = Pin{FirstUse: true}
		w.v.pins = &pins{firstUse: true}
		w.v.fetch = fetcherFunc(func(ctx context.Context, gun, name string, most int64) ([]byte, error) {
			time.Sleep(50 * time.Millisecond)
			if name == "timestamp.json" {
				timestamps.Add(1)
			} else {
				others.Add(1)
			}
			return w.repo.Fetch(ctx, guns[gun], name, most)
		})
		for gun := range guns {
			check(t, func() error { _, err := w.v.Resolve(t.Context(), gun, "v1"); return err }())
		}
		timestamps.Store(0)
		others.Store(0)
		time.Sleep(10 * time.Minute)
		if got := timestamps.Load(); got < 10*n || got > 17*n {
			t.Errorf("got %d refreshes in ten minutes, want between %d and %d", got, 10*n, 17*n)
		}
		if got := others.Load(); got != 0 {
			t.Errorf("got %d other requests, want none", got)
		}
		for _, s := range w.v.Status() {
			if age := time.Since(s.Refreshed); age > time.Minute || s.Err != nil {
				t.Fatalf("%s was refreshed %s ago: %v", s.GUN, age, s.Err)
			}
		}
	})
}

func TestRefusedMetadataIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		e := w.admitted("v1", "one")
		w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
			return []byte(strings.Replace(string(raw), "Timestamp", "Timestomp", 1)), nil
		})
		time.Sleep(time.Minute)
		g := w.v.Scope(subject("v1", "one")).Generation
		if g == e.Generation || g == "" {
			t.Errorf("got generation %q, want another than %q", g, e.Generation)
		}
		w.refused("v1", "one", verify.Malformed)
		w.repo.Misbehave(nil)
		time.Sleep(time.Minute)
		if again := w.admitted("v1", "one"); again.Generation != e.Generation {
			t.Errorf("got generation %q, want %q again", again.Generation, e.Generation)
		}
	})
}

// The reference keeps using cached metadata only if the timestamp cannot be
// read.
func TestNewerMetadataThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	e := w.admitted("v1", "one")
	check(t, w.repo.Remove("v1", releases, alice))
	w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
		if name == "timestamp.json" {
			return raw, nil
		}
		return nil, errors.New("blocked")
	})
	w.pass(2 * time.Minute)
	w.undecided("v1", "one")
	if g := w.v.Scope(subject("v1", "one")).Generation; g == e.Generation {
		t.Error("the generation did not change")
	}
	w.repo.Misbehave(func(string, []byte) ([]byte, error) { return nil, errors.New("down") })
	w.pass(2 * time.Minute)
	w.undecided("v1", "one") // it stays known
}

func TestAnotherReplicaLoadsFirst(t *testing.T) {
	w := newWorld(t)
	w.conf.Pin = Pin{FirstUse: true}
	files := w.repo.Files()
	w.repo.Restore(nil)
	first := w.open()
	w.refused("v1", "one", verify.Unsigned)
	w.repo.Restore(files)
	w.open()
	w.admitted("v1", "one")
	w.v = first
	w.pass(2 * time.Minute)
	w.admitted("v1", "one")
}

func TestUnsignedIsNotKeptWhenTheServerGoes(t *testing.T) {
	w := newWorld(t)
	files := w.repo.Files()
	w.repo.Restore(nil)
	w.refused("v1", "one", verify.Unsigned)
	w.repo.Restore(files)
	w.repo.Misbehave(func(string, []byte) ([]byte, error) { return nil, errors.New("down") })
	w.pass(2 * time.Minute)
	w.undecided("v1", "one")
}

func TestEntryForgottenWhileItLoads(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.repo.Misbehave(func(_ string, raw []byte) ([]byte, error) {
			time.Sleep(time.Second)
			return raw, nil
		})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { w.admitted("v1", "one") })
			time.Sleep(time.Second / 2)
			w.v.mu.Lock()
			delete(w.v.entries, testGUN)
			w.v.mu.Unlock()
		}
		wg.Wait()
	})
}
