package cache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// memoKey is like the keys of decisions.
type memoKey struct {
	digest     digest.Digest
	repository string
	_          [32]byte // the fingerprint of a rule
	generation uint64
}

func newMemo[V any](t testing.TB, capacity int64) *Memo[memoKey, V] {
	t.Helper()
	m, err := NewMemo[memoKey, V](capacity)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}

func key(i int) memoKey {
	return memoKey{digest: digest.FromString(fmt.Sprint(i)), repository: "docker.io/library/alpine", generation: uint64(i)}
}

func TestMemo(t *testing.T) {
	m := newMemo[int](t, 1000)
	for i := range 100 {
		m.Add(key(i), i, time.Time{})
	}
	m.cache.Wait()
	for i := range 100 {
		if v, ok := m.Get(key(i)); !ok || v != i {
			t.Errorf("%d: got %d, %v", i, v, ok)
		}
	}
	if v, ok := m.Get(key(100)); ok {
		t.Errorf("never added: got %d", v)
	}
	m.Add(key(1), 1, time.Now().Add(-time.Second))
	m.Add(key(200), 1, time.Now().Add(-time.Second))
	m.cache.Wait()
	if _, ok := m.Get(key(200)); ok {
		t.Error("added expired: got a hit")
	}
	if _, err := NewMemo[int, int](0); err == nil {
		t.Error("capacity 0: got nil")
	}
}

func TestMemoExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := NewMemo[string, string](1000)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		m.Add("k", "old", time.Now().Add(time.Hour))
		m.Add("forever", "v", time.Time{})
		m.cache.Wait()
		m.Add("k", "other", time.Now().Add(2*time.Hour)) // not right before the first has expired
		m.cache.Wait()
		time.Sleep(time.Hour - time.Nanosecond)
		if v, ok := m.Get("k"); !ok || v != "old" {
			t.Errorf("just before: got %q, %v", v, ok)
		}
		time.Sleep(time.Nanosecond)
		if v, ok := m.Get("k"); ok {
			t.Errorf("at its expiry: got %q", v)
		}
		m.Add("k", "new", time.Now().Add(time.Hour))
		m.cache.Wait()
		if v, ok := m.Get("k"); !ok || v != "new" {
			t.Errorf("added again: got %q, %v", v, ok)
		}
		time.Sleep(1000 * time.Hour)
		if v, ok := m.Get("forever"); !ok || v != "v" {
			t.Errorf("without expiry: got %q, %v", v, ok)
		}
	})
}

// TestMemoCollision: two keys with the same hash never see each other's value.
func TestMemoCollision(t *testing.T) {
	m := newMemo[string](t, 1000)
	const h = 42
	m.cache.SetWithTTL(h, &fact[memoKey, string]{key: key(1), value: "one"}, 1, 0)
	m.cache.Wait()
	if f := m.find(h, key(1)); f == nil || f.value != "one" {
		t.Errorf("the key itself: got %v", f)
	}
	if f := m.find(h, key(2)); f != nil {
		t.Errorf("another key with this hash: got %q", f.value)
	}
}

// TestMemoNeverStale: whatever happens at once, a hit is a fact of that very
// key that has not expired, and a known fact does not change.
func TestMemoNeverStale(t *testing.T) {
	m := newMemo[memoKey](t, 200) // far too small: evictions and rejections all the time
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 7))
			for range 30_000 {
				k := key2(r.IntN(1000))
				if r.IntN(3) == 0 {
					m.Add(k, k, time.Now().Add(time.Duration(r.IntN(int(2*time.Millisecond)))))
				} else if v, ok := m.Get(k); ok && v != k {
					t.Errorf("got %v for %v", v, k)
				}
			}
		})
	}
	wg.Wait()
}

// TestMemoKeepsTheFirst: a known fact does not change, even if the second is
// added while the first is on its way.
func TestMemoKeepsTheFirst(t *testing.T) {
	const rounds, n = 100, 1000 // ristretto's buffer holds 32 Ki writes: none is dropped
	m := newMemo[string](t, 10*rounds*n)
	for round := range rounds {
		for i := range n {
			m.Add(key2(round*n+i), "first", time.Time{})
			m.Add(key2(round*n+i), "second", time.Time{})
		}
		m.cache.Wait()
		for i := range n {
			m.Add(key2(round*n+i), "third", time.Time{})
		}
		m.cache.Wait()
	}
	for i := range rounds * n {
		if v, ok := m.Get(key2(i)); !ok || v != "first" {
			t.Errorf("%d: got %q, %v, want first", i, v, ok)
		}
	}
}

func key2(i int) memoKey { return memoKey{digest: "d", repository: "r", generation: uint64(i)} }

// TestMemoClose: ristretto panics if it is used while it closes; a Memo does not.
func TestMemoClose(t *testing.T) {
	for range 20 {
		m := newMemo[int](t, 100)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for j := range 500 {
					m.Add(key2(i*j), 1, time.Time{})
					m.Get(key2(j))
				}
			})
		}
		wg.Go(m.Close)
		wg.Wait()
		m.Add(key2(1), 1, time.Time{})
		if _, ok := m.Get(key2(1)); ok {
			t.Fatal("a hit after Close")
		}
	}
}

func TestMemoGetDoesNotAllocate(t *testing.T) {
	m := newMemo[int](t, 1000)
	k := key(1)
	m.Add(k, 7, time.Now().Add(time.Hour))
	m.cache.Wait()
	if n := testing.AllocsPerRun(10_000, func() {
		if v, ok := m.Get(k); !ok || v != 7 {
			t.Fatalf("got %d, %v", v, ok)
		}
	}); n != 0 {
		t.Errorf("Get: %v allocations, want 0", n)
	}
}

// TestMemoIsSmall: a memo for a million decisions costs little while it is empty,
// also when many keys have been looked for in it.
func TestMemoIsSmall(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m := newMemo[int](t, 1_000_000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if got := int64(after.HeapAlloc) - int64(before.HeapAlloc); got > 10<<20 {
		t.Errorf("got %d MiB, want at most 10", got>>20)
	}
	runtime.KeepAlive(m)
}

func BenchmarkMemoGet(b *testing.B) {
	m := newMemo[int](b, 100_000)
	keys := make([]memoKey, 1000)
	for i := range keys {
		keys[i] = key(i)
		m.Add(keys[i], i, time.Now().Add(time.Hour))
	}
	m.cache.Wait()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, ok := m.Get(keys[i%len(keys)]); !ok {
				b.Error(errors.New("a miss"))
			}
		}
	})
}

func TestBrief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBrief[string, int](10, time.Minute)
		b.Set("a", 1)
		time.Sleep(30 * time.Second)
		b.Set("b", 2)
		b.Set("b", 3)
		if v, ok := b.Get("b"); !ok || v != 3 {
			t.Errorf("overwritten: got %d, %v", v, ok)
		}
		b.Delete("absent")
		time.Sleep(30 * time.Second)
		if _, ok := b.Get("a"); ok {
			t.Error("a is a minute old: got a hit")
		}
		b.Set("c", 4)
		b.Delete("c")
		if _, ok := b.Get("c"); ok {
			t.Error("deleted: got a hit")
		}
		b.Set("b", 5) // its minute begins anew
		time.Sleep(59 * time.Second)
		b.Set("d", 6)
		if v, ok := b.Get("b"); !ok || v != 5 || b.Len() != 2 {
			t.Errorf("got %d, %v, %d entries", v, ok, b.Len())
		}
	})
}

// TestBriefIsBounded: the oldest goes first, and a key that is set again and
// again takes one place.
func TestBriefIsBounded(t *testing.T) {
	for _, limit := range []int{-1, 0, 1, 10, 100, 128, 1000, 5000} {
		b := NewBrief[int, int](limit, time.Hour)
		for i := range 3 * max(limit, 1) {
			b.Set(i, i)
			b.Set(-1, i)
			if b.Len() > max(limit, 1) {
				t.Fatalf("limit %d: got %d entries", limit, b.Len())
			}
		}
		if v, ok := b.Get(-1); !ok || v != 3*max(limit, 1)-1 {
			t.Errorf("limit %d: the newest is gone: %d, %v", limit, v, ok)
		}
		if _, ok := b.Get(0); ok && limit < 64 {
			t.Errorf("limit %d: the oldest is there", limit)
		}
	}
	var wg sync.WaitGroup
	b := NewBrief[int, int](256, time.Millisecond)
	for w := range 4 {
		wg.Go(func() {
			for i := range 20_000 {
				b.Set(i%500, i%500)
				if v, ok := b.Get((i * w) % 500); ok && v != (i*w)%500 {
					t.Errorf("got %d for %d", v, (i*w)%500)
				}
				b.Delete(i % 7)
			}
		})
	}
	wg.Wait()
}
