package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	// stateFile is the name of the database in the state directory.
	stateFile = "state.db"
	// stateLockTimeout is how long OpenState waits for another process to let
	// go: enough for one that is just stopping, short enough to say so.
	stateLockTimeout = 2 * time.Second
	// stateBatchDelay is how long Put waits for company. One sync of the disk
	// takes about as long, so a lone Put is hardly slower.
	stateBatchDelay = 2 * time.Millisecond
	// stateBatchSize bounds the Puts that share one sync.
	stateBatchSize = 1000
)

// ErrConflict is returned by Table.Swap if the value is not the expected one.
var ErrConflict = errors.New("the stored value is not the expected one")

// State is durable small state: trusted metadata versions, admissions, the
// stamps of stored files. It is one bbolt database, held by one process at a
// time, and trusted like the configuration. Its methods and those of its
// tables are safe for concurrent use.
type State struct {
	db *bbolt.DB
}

// OpenState opens the state in directory dir, which is created with mode 0700
// if it is absent; the database in it has mode 0600. It fails if another
// process holds the state for longer than two seconds.
func OpenState(dir string) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	path := filepath.Join(dir, stateFile)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout:      stateLockTimeout,
		FreelistType: bbolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open state: %s is in use by another process: stop it, or give each process a state directory of its own: %w", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open state: %s: %w", path, err)
	}
	db.MaxBatchDelay = stateBatchDelay
	db.MaxBatchSize = stateBatchSize
	return &State{db: db}, nil
}

// Close releases the state. Calls in progress finish first, later ones fail.
func (s *State) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close state: %w", err)
	}
	return nil
}

// Table returns the table of that name, which is created if it is absent. If
// that fails, every method of the table returns the error.
func (s *State) Table(name string) *Table {
	t := &Table{db: s.db, name: []byte(name)}
	t.err = s.db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(t.name)
		return err
	})
	return t
}

// Table is one table of a State: keys to values, ordered by key. Keys are not
// empty and have at most 32 KiB.
type Table struct {
	db   *bbolt.DB
	name []byte
	err  error
}

// Load returns the value of key. The error wraps fs.ErrNotExist if there is none.
func (t *Table) Load(key string) ([]byte, error) {
	var value []byte
	err := t.view(func(b *bbolt.Bucket) error {
		v := b.Get([]byte(key))
		if v == nil {
			return fs.ErrNotExist
		}
		value = bytes.Clone(v)
		return nil
	})
	if err != nil {
		return nil, t.wrap("load", key, err)
	}
	return value, nil
}

// Swap replaces the value of key if it is old, and is durable on return.
// A nil old means that there must be no value yet, a nil new deletes it. An
// empty slice is a value. The error wraps ErrConflict if the value is not old.
func (t *Table) Swap(key string, old, new []byte) error {
	if t.err != nil {
		return t.wrap("swap", key, t.err)
	}
	err := t.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(t.name)
		now := b.Get([]byte(key))
		if (now == nil) != (old == nil) || !bytes.Equal(now, old) {
			return ErrConflict
		}
		if new == nil {
			return b.Delete([]byte(key))
		}
		return b.Put([]byte(key), new)
	})
	return t.wrap("swap", key, err)
}

// Put stores all entries or none, and is durable on return. Simultaneous Puts
// share one sync of the disk. The caller must not change the values meanwhile.
func (t *Table) Put(entries map[string][]byte) error {
	return t.batch("put", func(b *bbolt.Bucket) error {
		for k, v := range entries {
			if err := b.Put([]byte(k), v); err != nil {
				return fmt.Errorf("key %q: %w", k, err)
			}
		}
		return nil
	})
}

// Delete removes keys, all or none, and is durable on return. Keys that are
// absent are no error.
func (t *Table) Delete(keys ...string) error {
	return t.batch("delete", func(b *bbolt.Bucket) error {
		for _, k := range keys {
			if err := b.Delete([]byte(k)); err != nil {
				return fmt.Errorf("key %q: %w", k, err)
			}
		}
		return nil
	})
}

// Scan calls fn for each key that begins with prefix, in the order of keys,
// until fn returns an error, which Scan returns. It sees the table as it was
// at the call. The value is valid only until fn returns. A long scan keeps the
// database from reusing pages, and fn must not write to the state.
func (t *Table) Scan(prefix string, fn func(key string, value []byte) error) error {
	return t.view(func(b *bbolt.Bucket) error {
		p := []byte(prefix)
		c := b.Cursor()
		for k, v := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, v = c.Next() {
			if err := fn(string(k), v); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *Table) view(fn func(*bbolt.Bucket) error) error {
	if t.err != nil {
		return t.err
	}
	return t.db.View(func(tx *bbolt.Tx) error { return fn(tx.Bucket(t.name)) })
}

// batch runs fn together with those of others; bbolt may run it twice.
func (t *Table) batch(verb string, fn func(*bbolt.Bucket) error) error {
	err := t.err
	if err == nil {
		err = t.db.Batch(func(tx *bbolt.Tx) error { return fn(tx.Bucket(t.name)) })
	}
	if err != nil {
		return fmt.Errorf("state: %s in %s: %w", verb, t.name, asNoSpace(err))
	}
	return nil
}

func (t *Table) wrap(verb, key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("state: %s %q in %s: %w", verb, key, t.name, asNoSpace(err))
}
