package cache

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// evictEvery is how often the size is looked at. In between the store may
	// grow beyond its limit by what the network brings in that time.
	evictEvery = time.Second
	// evictTo is how far the store shrinks, in percent of the limit: looking for
	// what was used least is not worth it for every blob.
	evictTo = 90
	// evictGrace keeps what was just fetched or read: a pull asks for a manifest
	// and then for its blobs.
	evictGrace = time.Minute
)

// usage remembers when content was last read, since the start. Before that
// counts when it was stored.
type usage struct {
	mu   sync.Mutex
	last map[digest.Digest]time.Time
}

func (u *usage) touch(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last[d] = time.Now()
}

func (u *usage) forget(d digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.last, d)
}

// of returns when d was last used, given its stamp.
func (u *usage) of(d digest.Digest, st stamp) time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	if t, ok := u.last[d]; ok {
		return t
	}
	return time.Unix(0, st.mtime)
}

// upkeep lists what has no stamp, and then evicts what was used least recently
// whenever the store has grown beyond its limit, until ctx ends.
func (s *Store) upkeep(ctx context.Context) {
	if s.local() {
		s.adopt(ctx)
	}
	if s.config.Limit <= 0 {
		return
	}
	tick := time.NewTicker(evictEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.evict(ctx)
		}
	}
}

// evict deletes content, least recently used first. What is being read stays
// readable, and what is asked for again is fetched again.
func (s *Store) evict(ctx context.Context) {
	limit := s.config.Limit
	if bytes, _ := s.Size(ctx); bytes <= limit {
		return
	}
	type candidate struct {
		digest digest.Digest
		used   time.Time
	}
	var all []candidate
	youngest := time.Now().Add(-evictGrace)
	err := s.stamps.each(func(d digest.Digest, st stamp) {
		if used := s.usage.of(d, st); used.Before(youngest) {
			all = append(all, candidate{d, used})
		}
	})
	if err != nil {
		s.report("", err)
		return
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.digest, b.digest))
	})
	for _, c := range all {
		if bytes, _ := s.Size(ctx); bytes <= limit/100*evictTo || ctx.Err() != nil {
			return
		}
		if err := s.Delete(ctx, c.digest); err != nil && ctx.Err() == nil {
			s.report(c.digest, err)
		}
	}
}

// each calls fn for every stamp once, those that are not durable yet too.
func (s *stamps) each(fn func(digest.Digest, stamp)) error {
	s.mu.RLock()
	known := maps.Clone(s.known)
	s.mu.RUnlock()
	for d, st := range known {
		fn(d, st)
	}
	if s.table == nil {
		return nil
	}
	return s.table.Scan("", func(key string, value []byte) error {
		d := digest.Digest(key)
		if st, err := parseStamp(value); err == nil && known[d] == (stamp{}) {
			fn(d, st)
		}
		return nil
	})
}
