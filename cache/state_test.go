package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func openTestState(t *testing.T, dir string) *State {
	t.Helper()
	s, err := OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestStateIsDurableAndPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "state")
	s := openTestState(t, dir)
	if err := s.Table("a").Put(map[string][]byte{"x": []byte("1"), "y": {}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Table("b").Load("x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another table: got %v, want fs.ErrNotExist", err)
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, stateFile): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	start := time.Now()
	if _, err := OpenState(dir); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: got %v", err)
	}
	if took := time.Since(start); took > 2*stateLockTimeout {
		t.Errorf("opened twice: it took %v", took)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Table("a").Put(map[string][]byte{"x": nil}); err == nil {
		t.Error("put after Close: got nil")
	}
	a := openTestState(t, dir).Table("a")
	if v, err := a.Load("x"); string(v) != "1" || err != nil {
		t.Errorf("x: got %q, %v", v, err)
	}
	if v, err := a.Load("y"); v == nil || len(v) != 0 || err != nil {
		t.Errorf("y: got %v, %v, want an empty value", v, err)
	}
}

func TestSwap(t *testing.T) {
	table := openTestState(t, t.TempDir()).Table("versions")
	one, two, empty := []byte("1"), []byte("2"), []byte{}
	for i, c := range []struct {
		old, new []byte
		want     error
	}{
		{one, two, ErrConflict}, {nil, one, nil}, {nil, two, ErrConflict}, {two, one, ErrConflict},
		{empty, two, ErrConflict}, {one, two, nil}, {two, empty, nil}, {nil, one, ErrConflict},
		{empty, one, nil}, {one, nil, nil}, {one, nil, ErrConflict}, {nil, two, nil},
	} {
		if err := table.Swap("k", c.old, c.new); !errors.Is(err, c.want) {
			t.Errorf("step %d: got %v, want %v", i, err, c.want)
		}
	}
	if v, err := table.Load("k"); string(v) != "2" || err != nil {
		t.Errorf("got %q, %v, want 2", v, err)
	}
}

// TestSwapCounts: of simultaneous swaps from the same value one succeeds.
func TestSwapCounts(t *testing.T) {
	table := openTestState(t, t.TempDir()).Table("n")
	const workers, each = 8, 20
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for done := 0; done < each; {
				old, err := table.Load("n")
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(old))
				switch err := table.Swap("n", old, []byte(strconv.Itoa(n+1))); {
				case err == nil:
					done++
				case !errors.Is(err, ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if v, err := table.Load("n"); string(v) != strconv.Itoa(workers*each) || err != nil {
		t.Errorf("got %s, %v, want %d", v, err, workers*each)
	}
}

func TestPutAllOrNothing(t *testing.T) {
	table := openTestState(t, t.TempDir()).Table("t")
	if err := table.Put(map[string][]byte{"a": []byte("1"), "b": []byte("2"), "": []byte("no empty keys")}); err == nil {
		t.Fatal("an empty key: got nil")
	}
	if err := table.Scan("", func(k string, _ []byte) error { return fmt.Errorf("found %q", k) }); err != nil {
		t.Errorf("after a failed Put: %v", err)
	}
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if err := table.Put(map[string][]byte{fmt.Sprintf("p/%02d", i): {byte(i)}, fmt.Sprintf("q/%02d", i): {byte(i)}}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := table.Delete("p/01", "absent", "p/49"); err != nil {
		t.Fatal(err)
	}
	var keys []string
	err := table.Scan("p/", func(k string, v []byte) error {
		keys = append(keys, k)
		if want := fmt.Sprintf("p/%02d", v[0]); k != want {
			t.Errorf("got key %s with the value of %s", k, want)
		}
		return nil
	})
	if err != nil || len(keys) != 48 || !slices.IsSorted(keys) {
		t.Errorf("scan: got %d keys, %v", len(keys), err)
	}
	stop := errors.New("stop")
	if err := table.Scan("q/", func(string, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("scan: got %v, want the function's error", err)
	}
}

// TestLoadReturnsOwnCopy: bbolt's values end with their transaction.
func TestLoadReturnsOwnCopy(t *testing.T) {
	table := openTestState(t, t.TempDir()).Table("t")
	want := bytes.Repeat([]byte("x"), 5000)
	if err := table.Put(map[string][]byte{"k": want}); err != nil {
		t.Fatal(err)
	}
	got, err := table.Load("k")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := table.Put(map[string][]byte{"k": bytes.Repeat([]byte{byte(i)}, 5000)}); err != nil {
			t.Fatal(err)
		}
	}
	got[0] = 'x' // it may be written to
	if !bytes.Equal(got, want) {
		t.Error("the loaded value changed")
	}
}
