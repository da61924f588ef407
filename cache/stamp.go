package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	// stampTable is the table of State that lists stored content by digest.
	stampTable = "content"
	// maxStampsInMemory bounds the stamps that are held in memory, some 200
	// bytes each; the others are read from State when they are needed.
	maxStampsInMemory = 1 << 15
)

// errNotRegular says that what is stored under a digest is no file.
var errNotRegular = errors.New("it is not a regular file")

// stamp identifies a state of a file without reading it. Without an inode it
// fits no file: it only says that there is content, of a remote driver or not
// hashed yet, and since when.
type stamp struct {
	size, mtime, ctime int64 // bytes; Unix nanoseconds
	inode              uint64
}

// stampOf returns the stamp of an open file. The device is left out: its
// number may change from one mount to the next.
func stampOf(f *os.File) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return stamp{}, &fs.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return stamp{}, &fs.PathError{Op: "fstat", Path: f.Name(), Err: errNotRegular}
	}
	return stamp{size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), inode: uint64(st.Ino)}, nil
}

const stampBytes = 4 * 8

func (s stamp) bytes() []byte {
	b := make([]byte, 0, stampBytes)
	for _, v := range []uint64{uint64(s.size), uint64(s.mtime), uint64(s.ctime), s.inode} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

func parseStamp(b []byte) (stamp, error) {
	if len(b) != stampBytes {
		return stamp{}, fmt.Errorf("a stamp has %d bytes; want %d", len(b), stampBytes)
	}
	u := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	return stamp{size: int64(u(0)), mtime: int64(u(1)), ctime: int64(u(2)), inode: u(3)}, nil
}

// stamps lists what is stored: a bounded map over a table of State. It also
// counts it. Callers hold the digest's lock around set and remove.
type stamps struct {
	table        *Table // nil: memory only
	bytes, blobs atomic.Int64

	mu    sync.RWMutex
	known map[digest.Digest]stamp
}

func newStamps(state *State) (*stamps, error) {
	s := &stamps{known: make(map[digest.Digest]stamp)}
	if state == nil {
		return s, nil
	}
	s.table = state.Table(stampTable)
	err := s.table.Scan("", func(_ string, value []byte) error {
		if st, err := parseStamp(value); err == nil { // else it is replaced when the file is next read
			s.count(st.size, 1)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the stamps of stored content: %w", err)
	}
	return s, nil
}

func (s *stamps) count(size, n int64) {
	s.bytes.Add(size)
	s.blobs.Add(n)
}

func (s *stamps) get(d digest.Digest) (stamp, bool) {
	s.mu.RLock()
	st, ok := s.known[d]
	s.mu.RUnlock()
	if ok || s.table == nil {
		return st, ok
	}
	value, err := s.table.Load(d.String())
	if err != nil {
		return stamp{}, false // unknown: the file is hashed again
	}
	if st, err = parseStamp(value); err != nil {
		return stamp{}, false
	}
	s.remember(d, st)
	return st, true
}

// set notes st for d, durably.
func (s *stamps) set(d digest.Digest, st stamp) {
	s.note(d, st)
	s.save(d, st)
}

// note notes st for d until the process ends.
func (s *stamps) note(d digest.Digest, st stamp) {
	if old, ok := s.get(d); ok {
		s.count(-old.size, -1)
	}
	s.count(st.size, 1)
	s.remember(d, st)
}

// save makes durable what was noted; the file must be durable before. If State
// cannot keep it, the file is hashed once more after the next start: no reason
// to fail.
func (s *stamps) save(d digest.Digest, st stamp) {
	if s.table != nil {
		_ = s.table.Put(map[string][]byte{d.String(): st.bytes()})
	}
}

// remove forgets d. If State fails, a stamp stays that fits no file.
func (s *stamps) remove(d digest.Digest) {
	old, ok := s.get(d)
	if !ok {
		return
	}
	s.count(-old.size, -1)
	if s.table != nil {
		_ = s.table.Delete(d.String())
	}
	s.mu.Lock()
	delete(s.known, d)
	s.mu.Unlock()
}

func (s *stamps) remember(d digest.Digest, st stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxStampsInMemory && s.table != nil {
		for victim := range s.known { // any: it can be read again
			delete(s.known, victim)
			break
		}
	}
	s.known[d] = st
}

// digestLocks serialises what changes one digest's content.
type digestLocks struct {
	mu   sync.Mutex
	held map[digest.Digest]chan struct{} // closed on release
}

// lock waits until nobody else holds d. The caller calls unlock once.
func (l *digestLocks) lock(ctx context.Context, d digest.Digest) (unlock func(), err error) {
	for {
		l.mu.Lock()
		busy, ok := l.held[d]
		if !ok {
			release := make(chan struct{})
			l.held[d] = release
			l.mu.Unlock()
			return func() { l.unlock(d, release) }, nil
		}
		l.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", d, context.Cause(ctx))
		}
	}
}

func (l *digestLocks) unlock(d digest.Digest, release chan struct{}) {
	l.mu.Lock()
	delete(l.held, d)
	l.mu.Unlock()
	close(release)
}
