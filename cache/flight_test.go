package cache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
)

// pipe is an upstream that sends what the test writes.
type pipe struct {
	opens  atomic.Int64
	writer *io.PipeWriter
	ended  chan struct{} // closed when the transfer's context has ended
	open   Opener
}

func newPipe() *pipe {
	r, w := io.Pipe()
	p := &pipe{writer: w, ended: make(chan struct{})}
	p.open = func(ctx context.Context, _ int64) (io.ReadCloser, error) {
		p.opens.Add(1)
		context.AfterFunc(ctx, func() { close(p.ended) })
		return r, nil
	}
	return p
}

func (p *pipe) send(t *testing.T, b []byte) {
	t.Helper()
	if _, err := p.writer.Write(b); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// TestReadersFollow: everything but the last block flows at once, to readers
// that start early, late, and in the middle; the rest when the digest holds.
func TestReadersFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		const n = 4 * LastBlock
		body, d := blob(n, 1)
		up := newPipe()
		early := mustFetch(t, e.Store, d, n, up.open)
		up.send(t, body[:LastBlock])
		head := make([]byte, LastBlock)
		if _, err := io.ReadFull(early, head); err != nil || !bytes.Equal(head, body[:LastBlock]) {
			t.Fatalf("the first block before the others are sent: %v", err)
		}
		middle := mustFetch(t, e.Store, d, n, up.open)
		if _, err := middle.Seek(2*LastBlock+5, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		up.send(t, body[LastBlock:])
		got := make([]byte, 10)
		if _, err := io.ReadFull(middle, got); err != nil || !bytes.Equal(got, body[2*LastBlock+5:][:10]) {
			t.Fatalf("a range in flight: %v", err)
		}
		rest := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(early)
			rest <- b
		}()
		tail := mustFetch(t, e.Store, d, n, up.open)
		if _, err := tail.Seek(-1, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		last := make(chan error)
		go func() { _, err := tail.Read(make([]byte, 1)); last <- err }()
		synctest.Wait()
		select {
		case <-rest:
			t.Fatal("the end was read before the digest was known")
		case <-last:
			t.Fatal("the last byte was read before the digest was known")
		default:
		}
		if err := up.writer.Close(); err != nil {
			t.Fatal(err)
		}
		if b := <-rest; !bytes.Equal(b, body[LastBlock:]) {
			t.Errorf("the rest: got %d bytes, want %d", len(b), n-LastBlock)
		}
		if err := <-last; err != nil {
			t.Errorf("the last byte: %v", err)
		}
		for _, c := range []*Content{early, middle, tail} {
			if c.Err() != nil || c.FromStore() || c.File() != nil {
				t.Errorf("err %v, from store %v", c.Err(), c.FromStore())
			}
			_ = c.Close()
		}
		e.settled()
		if up.opens.Load() != 1 {
			t.Errorf("got %d transfers, want 1", up.opens.Load())
		}
		if c := mustFetch(t, e.Store, d, n, up.open); !c.FromStore() || !bytes.Equal(readClose(t, c), body) {
			t.Error("not stored")
		}
	})
}

// TestWithheld: before the digest holds a reader gets all but the last block, to the byte.
func TestWithheld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		const n = 3*LastBlock + 17
		body, d := blob(n, 1)
		up := newPipe()
		c := mustFetch(t, e.Store, d, n, up.open)
		defer c.Close()
		up.send(t, body)
		var got atomic.Int64
		go func() {
			buf := make([]byte, 1000)
			for {
				m, err := c.Read(buf)
				got.Add(int64(m))
				if err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		if got.Load() != n-LastBlock {
			t.Errorf("got %d bytes, want %d", got.Load(), n-LastBlock)
		}
		_ = up.writer.Close()
		synctest.Wait()
		if got.Load() != n {
			t.Errorf("after the end: got %d bytes, want %d", got.Load(), n)
		}
	})
}

func TestBadContent(t *testing.T) {
	const n = 3 * LastBlock
	body, d := blob(n, 1)
	flipped := bytes.Clone(body)
	flipped[n-1] ^= 1
	first := bytes.Clone(body)
	first[0] ^= 1
	for name, sent := range map[string][]byte{
		"last byte": flipped, "first byte": first, "short": body[:n-1], "nothing": nil,
		"long": append(bytes.Clone(body), 0), "endless": bytes.Repeat(body, 10),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnv(t, nil)
				var opens atomic.Int64
				var wg sync.WaitGroup
				for range 4 {
					wg.Go(func() {
						c, err := e.Fetch(t.Context(), "up", d, n, opener(sent, &opens))
						var got []byte
						if err == nil {
							got, err = io.ReadAll(c)
							if !errors.Is(c.Err(), err) {
								t.Errorf("Err: got %v, want %v", c.Err(), err)
							}
							_ = c.Close()
						}
						var bad *DigestError
						if !errors.As(err, &bad) || bad.Want != d || bad.Source != "up" {
							t.Errorf("got %v, want *DigestError", err)
						}
						if len(got) > n-LastBlock {
							t.Errorf("got %d bytes, want at most %d", len(got), n-LastBlock)
						}
					})
				}
				wg.Wait()
				e.wantAbsent(d)
				if opens.Load() != 1 {
					t.Errorf("got %d transfers, want 1", opens.Load())
				}
				// Another source and another size are not to blame.
				if c := mustFetchFrom(t, e.Store, "other", d, n, body); !bytes.Equal(readClose(t, c), body) {
					t.Error("another source: other content")
				}
				e.settled()
				if err := e.Delete(t.Context(), d); err != nil {
					t.Fatal(err)
				}
				time.Sleep(badTTL - time.Second)
				if _, err := e.Fetch(t.Context(), "up", d, n, opener(body, &opens)); err == nil || opens.Load() != 1 {
					t.Errorf("within a minute: got %v and %d transfers", err, opens.Load())
				}
				time.Sleep(2 * time.Second)
				if c := mustFetch(t, e.Store, d, n, opener(body, &opens)); !bytes.Equal(readClose(t, c), body) {
					t.Error("after a minute: other content")
				}
			})
		})
	}
}

func mustFetchFrom(t *testing.T, s *Store, source string, d digest.Digest, n int, body []byte) *Content {
	t.Helper()
	var opens atomic.Int64
	c, err := s.Fetch(t.Context(), source, d, int64(n), opener(body, &opens))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestWrongSize: one manifest's wrong size does not fail the pull of another.
func TestWrongSize(t *testing.T) {
	e := newEnv(t, nil)
	body, d := blob(1000, 1)
	var opens atomic.Int64
	var bad *DigestError
	if _, err := e.Fetch(t.Context(), "up", d, 999, opener(body, &opens)); !errors.As(err, &bad) || bad.GotSize != 1000 {
		t.Errorf("got %v, want *DigestError", err)
	}
	if got := readClose(t, mustFetch(t, e.Store, d, 1000, opener(body, &opens))); !bytes.Equal(got, body) {
		t.Error("the right size: got other content")
	}
}

// endless sends zeros for ever and counts them.
type endless struct{ sent *int64 }

func (z endless) Read(p []byte) (int, error) {
	clear(p)
	*z.sent += int64(len(p))
	if *z.sent > 100<<20 {
		return 0, errors.New("nobody stops reading")
	}
	return len(p), nil
}

func TestEndlessContent(t *testing.T) {
	e := newEnv(t, nil)
	_, d := blob(10, 1)
	var sent int64
	c := mustFetch(t, e.Store, d, 3*LastBlock, func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(endless{&sent}), nil
	})
	var bad *DigestError
	if _, err := io.ReadAll(c); !errors.As(err, &bad) || bad.GotSize != bad.WantSize+1 {
		t.Errorf("got %v, want *DigestError", err)
	}
	_ = c.Close()
	e.wantAbsent(d)
	if sent > 3*LastBlock+transferBuffer {
		t.Errorf("got %d bytes from the upstream, want at most one buffer too many", sent)
	}
}

// TestSpoolCut: a spool file that somebody shortens does not look like the end.
func TestSpoolCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		body, d := blob(3*LastBlock, 1)
		up := newPipe()
		c := mustFetch(t, e.Store, d, len(body), up.open)
		defer c.Close()
		up.send(t, body)
		synctest.Wait()
		if err := c.flight.spool.file.Truncate(LastBlock / 2); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); !errors.Is(err, io.ErrUnexpectedEOF) || c.Err() == nil {
			t.Errorf("got %d bytes and %v, want io.ErrUnexpectedEOF", len(got), err)
		}
		_ = up.writer.Close()
		e.wantAbsent(d)
		if len(e.failed) != 1 {
			t.Errorf("reported: got %v, want the failed commit", e.failed)
		}
	})
}

// lateMiss is a driver whose first miss is told late.
type lateMiss struct {
	storagedriver.StorageDriver
	told         atomic.Bool
	missed, goOn chan struct{}
}

func (l *lateMiss) Reader(ctx context.Context, path string, offset int64) (io.ReadCloser, error) {
	r, err := l.StorageDriver.Reader(ctx, path, offset)
	if err != nil {
		if l.told.CompareAndSwap(false, true) {
			close(l.missed)
			<-l.goOn
		}
	}
	return r, err
}

// TestStoredWhileLooking: content that is committed between a caller's look
// into the store and its transfer is not fetched again.
func TestStoredWhileLooking(t *testing.T) {
	slow := &lateMiss{missed: make(chan struct{}), goOn: make(chan struct{})}
	e := newEnv(t, func(c *StoreConfig) { slow.StorageDriver, c.Driver = c.Driver, slow })
	body, d := blob(1000, 1)
	var opens atomic.Int64
	first := make(chan *Content)
	go func() {
		c, err := e.Fetch(t.Context(), "up", d, 1000, opener(body, &opens))
		if err != nil {
			t.Error(err)
		}
		first <- c
	}()
	<-slow.missed
	if err := e.Put(t.Context(), d, body); err != nil {
		t.Fatal(err)
	}
	close(slow.goOn)
	if c := <-first; !bytes.Equal(readClose(t, c), body) || !c.FromStore() || opens.Load() != 0 {
		t.Errorf("got %d transfers, want the stored content", opens.Load())
	}
}

func TestSixteenShareOneTransfer(t *testing.T) {
	eachDriver(t, func(t *testing.T, e *env) {
		for round, n := range []int{0, 10, 20_000, 3 << 20} {
			body, d := blob(n, uint64(100+round))
			var opens atomic.Int64
			var wg sync.WaitGroup
			for range 16 {
				wg.Go(func() {
					c, err := e.Fetch(t.Context(), "up", d, int64(n), opener(body, &opens))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(c)
					if err != nil || !bytes.Equal(got, body) {
						t.Errorf("%d bytes: got %d, %v", n, len(got), err)
					}
					_ = c.Close()
				})
			}
			wg.Wait()
			e.settled()
			if opens.Load() != 1 {
				t.Errorf("%d bytes: got %d transfers, want 1", n, opens.Load())
			}
		}
	})
}
