package cache

import (
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"
)

const (
	// memoCountersPerEntry is ristretto's advice for the accuracy of evictions.
	memoCountersPerEntry = 10
	// memoMaxCounters bounds what a memo costs before it holds anything: about
	// 4 bytes a counter, so 4 MiB. A memo for more entries than that chooses
	// less well what to evict, and nothing else.
	memoMaxCounters = 1 << 20
	// memoBufferItems is ristretto's advice: reads are counted in lots of 64.
	memoBufferItems = 64
)

// Memo remembers immutable facts: once a value was added for a key it is the
// only right one until it expires, whoever adds again. To take a fact back,
// make the key name a state of the world (a generation) that no longer holds.
//
// Any entry may be lost at any time, and an entry is not always there at once:
// a miss means "ask again", never "no". What Get returns was added under exactly
// that key and has not expired. Below lies ristretto v2, which may drop or
// delay writes and finds entries by a hash of the key, so each entry carries
// its whole key and its own expiry, and both are compared. Methods are safe
// for concurrent use, also with Close.
type Memo[K comparable, V any] struct {
	seed maphash.Seed
	// mu guards against closing below a reader: ristretto would panic.
	mu     sync.RWMutex
	cache  *ristretto.Cache[uint64, *fact[K, V]]
	closed bool
}

type fact[K comparable, V any] struct {
	key     K
	value   V
	expires time.Time // zero: never
}

func (f *fact[K, V]) live(now time.Time) bool { return f.expires.IsZero() || now.Before(f.expires) }

// NewMemo returns a memo for about capacity entries. Close ends its goroutines.
func NewMemo[K comparable, V any](capacity int64) (*Memo[K, V], error) {
	if capacity <= 0 {
		return nil, errors.New("memo: capacity must be positive")
	}
	counters := int64(memoMaxCounters)
	if capacity < memoMaxCounters/memoCountersPerEntry {
		counters = capacity * memoCountersPerEntry
	}
	c, err := ristretto.NewCache(&ristretto.Config[uint64, *fact[K, V]]{
		NumCounters:        counters,
		MaxCost:            capacity,
		BufferItems:        memoBufferItems,
		IgnoreInternalCost: true, // capacity counts entries, not bytes
		KeyToHash:          func(k uint64) (uint64, uint64) { return k, 0 },
		// Looking first does not suffice: what somebody else has added may
		// become visible between the look and the write.
		ShouldUpdate: func(f, known *fact[K, V]) bool { return known.key != f.key || !known.live(time.Now()) },
	})
	if err != nil {
		return nil, fmt.Errorf("memo: %w", err)
	}
	return &Memo[K, V]{seed: maphash.MakeSeed(), cache: c}, nil
}

// Get returns the value added for k, if it is still known and has not expired.
func (m *Memo[K, V]) Get(k K) (V, bool) {
	if f := m.find(maphash.Comparable(m.seed, k), k); f != nil {
		return f.value, true
	}
	var none V
	return none, false
}

func (m *Memo[K, V]) find(h uint64, k K) *fact[K, V] {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return nil
	}
	f, ok := m.cache.Get(h)
	if !ok || f.key != k {
		return nil
	}
	if !f.expires.IsZero() && !f.live(time.Now()) {
		return nil
	}
	return f
}

// Add remembers that v is the value for k until expires; zero is never. It does
// nothing if a value is already known or expires is not in the future.
func (m *Memo[K, V]) Add(k K, v V, expires time.Time) {
	var ttl time.Duration // zero: never, for ristretto too
	if !expires.IsZero() {
		if ttl = time.Until(expires); ttl <= 0 {
			return
		}
	}
	h := maphash.Comparable(m.seed, k)
	if m.find(h, k) != nil {
		return
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if !m.closed {
		m.cache.SetWithTTL(h, &fact[K, V]{key: k, value: v, expires: expires}, 1, ttl)
	}
}

// Close forgets everything; Get misses from then on.
func (m *Memo[K, V]) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.closed = true
		m.cache.Close()
	}
}
