package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"
)

// broken sends n bytes and then fails.
func broken(body []byte, offset int64, n int, err error) io.ReadCloser {
	part := body[offset:min(int(offset)+n, len(body))]
	return io.NopCloser(io.MultiReader(bytes.NewReader(part), failing{err}))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		const n = 5 * LastBlock
		body, d := blob(n, 1)
		var offsets []int64
		c := mustFetch(t, e.Store, d, n, func(_ context.Context, offset int64) (io.ReadCloser, error) {
			offsets = append(offsets, offset)
			if len(offsets) == 3 {
				return nil, errors.New("connection refused")
			}
			return broken(body, offset, 2*LastBlock+1, io.ErrUnexpectedEOF), nil
		})
		if got := readClose(t, c); !bytes.Equal(got, body) {
			t.Error("got other content")
		}
		want := []int64{0, 2*LastBlock + 1, 4*LastBlock + 2, 4*LastBlock + 2}
		if fmt.Sprint(offsets) != fmt.Sprint(want) {
			t.Errorf("offsets: got %v, want %v", offsets, want)
		}
	})
}

func TestResumeGivesUp(t *testing.T) {
	reset := errors.New("connection reset")
	for name, c := range map[string]struct {
		again error
		opens int
	}{
		"always breaks": {nil, 1 + maxResumes},
		"refuses":       {reset, 1 + maxResumes},
		"gone":          {fs.ErrNotExist, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnv(t, nil)
				const n = 1000 * LastBlock
				body, d := blob(LastBlock, 1)
				opens := 0
				content := mustFetch(t, e.Store, d, n, func(context.Context, int64) (io.ReadCloser, error) {
					if opens++; opens > 1 && c.again != nil {
						return nil, c.again
					}
					return broken(body, 0, 10, reset), nil
				})
				want := reset
				if c.again != nil {
					want = c.again
				}
				if _, err := io.ReadAll(content); !errors.Is(err, want) || !errors.Is(content.Err(), want) {
					t.Errorf("got %v, want %v", err, want)
				}
				_ = content.Close()
				if opens != c.opens {
					t.Errorf("got %d opens, want %d", opens, c.opens)
				}
				e.wantAbsent(d)
			})
		})
	}
}

// TestResumeBudget: progress earns a new budget, so a large blob passes a line that breaks often.
func TestResumeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		const n = (maxResumes + 3) * resumeProgress
		body, d := blob(n, 1)
		c := mustFetch(t, e.Store, d, n, func(_ context.Context, offset int64) (io.ReadCloser, error) {
			return broken(body, offset, resumeProgress, io.ErrUnexpectedEOF), nil
		})
		if got := readClose(t, c); !bytes.Equal(got, body) {
			t.Error("got other content")
		}
	})
}

func TestFailsAtOnce(t *testing.T) {
	e := newEnv(t, nil)
	_, d := blob(10, 1)
	denied := errors.New("upstream: denied")
	opens := 0
	_, err := e.Fetch(t.Context(), "up", d, 10, func(context.Context, int64) (io.ReadCloser, error) {
		opens++
		return nil, denied
	})
	if !errors.Is(err, denied) || opens != 1 {
		t.Errorf("got %v after %d opens, want the upstream's error after 1", err, opens)
	}
	// A failure is not remembered.
	if _, err := e.Fetch(t.Context(), "up", d, 10, func(context.Context, int64) (io.ReadCloser, error) {
		return nil, fs.ErrNotExist
	}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

// deaf is a body whose Read only Close ends.
type deaf struct{ closed chan struct{} }

func (d deaf) Read([]byte) (int, error) { <-d.closed; return 0, errors.New("read on closed body") }
func (d deaf) Close() error             { close(d.closed); return nil }

func TestStalls(t *testing.T) {
	bodies := map[string]Opener{
		"no answer": func(ctx context.Context, _ int64) (io.ReadCloser, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"no byte": func(context.Context, int64) (io.ReadCloser, error) { return deaf{make(chan struct{})}, nil },
		"nothing for ever": func(ctx context.Context, _ int64) (io.ReadCloser, error) {
			return io.NopCloser(idle{}), nil
		},
	}
	for name, open := range bodies {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnv(t, nil)
				_, d := blob(LastBlock, 1)
				start := time.Now()
				c, err := e.Fetch(t.Context(), "up", d, 2*LastBlock, open)
				if err == nil {
					_, err = io.ReadAll(c)
					_ = c.Close()
				}
				if !errors.Is(err, ErrStalled) {
					t.Errorf("got %v, want ErrStalled", err)
				}
				if took := time.Since(start); took > (maxResumes+2)*idleTimeout {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// idle returns neither bytes nor errors; it sleeps so that time passes.
type idle struct{}

func (idle) Read([]byte) (int, error) { time.Sleep(time.Second); return 0, nil }

// TestSlowIsNotStalled: a byte in time keeps a transfer alive.
func TestSlowIsNotStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		body, d := blob(LastBlock+5, 1)
		up := newPipe()
		c := mustFetch(t, e.Store, d, len(body), up.open)
		go func() {
			_, _ = up.writer.Write(body[:LastBlock])
			for _, b := range body[LastBlock:] {
				time.Sleep(idleTimeout - time.Second)
				_, _ = up.writer.Write([]byte{b})
			}
			_ = up.writer.Close()
		}()
		if got := readClose(t, c); !bytes.Equal(got, body) {
			t.Error("got other content")
		}
	})
}

// TestCompleteWithoutEnd: the digest holds and only the upstream's end is missing.
func TestCompleteWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		body, d := blob(3*LastBlock, 1)
		up := newPipe()
		c := mustFetch(t, e.Store, d, len(body), up.open)
		up.send(t, body)
		if got := readClose(t, c); !bytes.Equal(got, body) {
			t.Error("got other content")
		}
		if up.opens.Load() != 1 {
			t.Errorf("got %d opens, want 1", up.opens.Load())
		}
	})
}

func TestFollowerOutlivesStarter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		const n = 3 * LastBlock
		body, d := blob(n, 1)
		up := newPipe()
		ctx, cancel := context.WithCancel(t.Context())
		starter, err := e.Fetch(ctx, "up", d, n, up.open)
		if err != nil {
			t.Fatal(err)
		}
		follower := mustFetch(t, e.Store, d, n, up.open)
		waits := make(chan error)
		go func() { _, err := io.ReadAll(starter); waits <- err }()
		synctest.Wait()
		cancel()
		if err := <-waits; !errors.Is(err, context.Canceled) {
			t.Errorf("the starter's read: got %v, want context.Canceled", err)
		}
		_ = starter.Close()
		time.Sleep(2 * linger)
		go func() {
			_, _ = up.writer.Write(body)
			_ = up.writer.Close()
		}()
		if got := readClose(t, follower); !bytes.Equal(got, body) {
			t.Error("the follower got other content")
		}
		if up.opens.Load() != 1 {
			t.Errorf("got %d opens, want 1", up.opens.Load())
		}
	})
}

func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		const n = 3 * LastBlock
		body, d := blob(n, 1)
		up := newPipe()
		a, b := mustFetch(t, e.Store, d, n, up.open), mustFetch(t, e.Store, d, n, up.open)
		up.send(t, body[:LastBlock])
		_ = a.Close()
		_ = a.Close() // counts once
		time.Sleep(2 * linger)
		up.send(t, body[LastBlock:2*LastBlock])
		_ = b.Close()
		time.Sleep(linger - time.Second)
		// A client that comes back in time finds the transfer going on.
		c := mustFetch(t, e.Store, d, n, up.open)
		time.Sleep(2 * linger)
		if got := make([]byte, 2*LastBlock); true {
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, body[:2*LastBlock]) {
				t.Errorf("coming back: %v", err)
			}
		}
		_ = c.Close()
		time.Sleep(linger + time.Second)
		select {
		case <-up.ended:
		default:
			t.Error("the transfer goes on without readers")
		}
		if up.opens.Load() != 1 {
			t.Errorf("got %d opens, want 1", up.opens.Load())
		}
		e.wantAbsent(d)
		if got := readClose(t, mustFetchFrom(t, e.Store, "up", d, n, body)); !bytes.Equal(got, body) {
			t.Error("afterwards: got other content")
		}
		e.settled()
		if len(e.transfers()) != 0 {
			t.Errorf("left in the spool: %v", e.transfers())
		}
	})
}

// TestCancelWhileUpstreamIsAsked: the caller goes, the upstream has not answered.
func TestCancelWhileUpstreamIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		_, d := blob(10, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		asked := make(chan error, 1)
		_, err := e.Fetch(ctx, "up", d, 10, func(ctx context.Context, _ int64) (io.ReadCloser, error) {
			<-ctx.Done()
			asked <- context.Cause(ctx)
			return nil, ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want context.DeadlineExceeded", err)
		}
		if err := <-asked; !errors.Is(err, errAbandoned) {
			t.Errorf("the upstream: got %v, want errAbandoned", err)
		}
	})
}

func TestCloseEndsWaitingRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		_, d := blob(10, 1)
		up := newPipe()
		c := mustFetch(t, e.Store, d, 2*LastBlock, up.open)
		got := make(chan error)
		go func() { _, err := c.Read(make([]byte, 1)); got <- err }()
		synctest.Wait()
		_ = c.Close()
		if err := <-got; !errors.Is(err, fs.ErrClosed) {
			t.Errorf("got %v, want fs.ErrClosed", err)
		}
		if c.Err() != nil {
			t.Errorf("Err: got %v, want nil: nothing was cut", c.Err())
		}
	})
}

func TestStoreCloseCutsTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnv(t, nil)
		_, d := blob(10, 1)
		up := newPipe()
		c := mustFetch(t, e.Store, d, 2*LastBlock, up.open)
		got := make(chan error)
		go func() { _, err := io.ReadAll(c); got <- err }()
		synctest.Wait()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-got; !errors.Is(err, ErrClosed) || !errors.Is(c.Err(), ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		_ = c.Close()
	})
}
