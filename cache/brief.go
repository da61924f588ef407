package cache

import (
	"container/list"
	"hash/maphash"
	"sync"
	"time"
)

const (
	// briefShards is how many locks a large Brief spreads over.
	briefShards = 16
	// briefShardMin is the least entries that make a shard worth its lock.
	briefShardMin = 64
)

// Brief remembers things for a short, fixed time: refusals, what a tag pointed
// to. Unlike a Memo it never loses an entry before its time unless it is full,
// an entry may be overwritten or deleted, and both are seen at once. When it
// is full the oldest entry goes. Methods are safe for concurrent use.
type Brief[K comparable, V any] struct {
	ttl    time.Duration
	seed   maphash.Seed
	shards []briefShard[K, V]
}

type briefShard[K comparable, V any] struct {
	mu      sync.Mutex
	max     int
	entries map[K]*list.Element
	// order is by age: all entries live equally long, so the front expires first.
	order list.List
}

type briefEntry[K comparable, V any] struct {
	key     K
	value   V
	expires time.Time
}

// NewBrief returns a Brief for at most limit entries (at least one), each of
// which lives for ttl.
func NewBrief[K comparable, V any](limit int, ttl time.Duration) *Brief[K, V] {
	n := min(briefShards, max(1, limit/briefShardMin))
	b := &Brief[K, V]{ttl: ttl, seed: maphash.MakeSeed(), shards: make([]briefShard[K, V], n)}
	for i := range b.shards {
		b.shards[i].max = max(1, limit/n)
		b.shards[i].entries = make(map[K]*list.Element)
	}
	return b
}

// Get returns the value for k if it was set less than ttl ago.
func (b *Brief[K, V]) Get(k K) (V, bool) {
	s := b.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.entries[k]; ok {
		if entry := e.Value.(*briefEntry[K, V]); time.Now().Before(entry.expires) {
			return entry.value, true
		}
		s.remove(e)
	}
	var none V
	return none, false
}

// Set remembers v for k from now on, whatever was known before.
func (b *Brief[K, V]) Set(k K, v V) {
	s := b.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if e, ok := s.entries[k]; ok {
		s.remove(e)
	}
	for e := s.order.Front(); e != nil; e = s.order.Front() {
		if len(s.entries) < s.max && now.Before(e.Value.(*briefEntry[K, V]).expires) {
			break
		}
		s.remove(e)
	}
	s.entries[k] = s.order.PushBack(&briefEntry[K, V]{key: k, value: v, expires: now.Add(b.ttl)})
}

// Delete forgets k.
func (b *Brief[K, V]) Delete(k K) {
	s := b.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.entries[k]; ok {
		s.remove(e)
	}
}

// Len returns how many entries are held, some of which may have expired.
func (b *Brief[K, V]) Len() int {
	n := 0
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		n += len(s.entries)
		s.mu.Unlock()
	}
	return n
}

func (b *Brief[K, V]) shard(k K) *briefShard[K, V] {
	if len(b.shards) == 1 {
		return &b.shards[0]
	}
	return &b.shards[maphash.Comparable(b.seed, k)%uint64(len(b.shards))]
}

func (s *briefShard[K, V]) remove(e *list.Element) {
	s.order.Remove(e)
	delete(s.entries, e.Value.(*briefEntry[K, V]).key)
}
