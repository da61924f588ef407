package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// rounds is how often each case is measured for each peer, in turns.
const rounds = 5

// load sends n requests for path over some connections and returns the requests
// per second. It writes raw requests, so that the client costs little.
func load(addr, path string, connections, n int) (float64, error) {
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAccept: application/vnd.oci.image.manifest.v1+json\r\n\r\n", path, addr)
	var left atomic.Int64
	left.Store(int64(n))
	errs := make(chan error, connections)
	start := time.Now()
	for range connections {
		go func() { errs <- loop(addr, request, &left) }()
	}
	for range connections {
		if err := <-errs; err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

func loop(addr string, request []byte, left *atomic.Int64) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, 64<<10)
	for left.Add(-1) >= 0 {
		if _, err := c.Write(request); err != nil {
			return err
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answered %s", addr, resp.Status)
		}
	}
	return nil
}

// download reads a path over some connections at once and returns the seconds
// until the last byte of the last.
func download(addr, path string, clients int, size int64) (float64, error) {
	start := time.Now()
	var wg sync.WaitGroup
	errs := make(chan error, clients)
	for range clients {
		wg.Go(func() {
			resp, err := http.Get("http://" + addr + path)
			if err != nil {
				errs <- err
				return
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
				errs <- fmt.Errorf("%s%s: %d of %d bytes, %s: %w", addr, path, n, size, resp.Status, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	return time.Since(start).Seconds(), <-errs
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// compare measures all peers in turns and returns the median of each.
func compare(peers []*peer, measure func(*peer) (float64, error)) ([]float64, error) {
	all := make([][]float64, len(peers))
	for range rounds {
		for i, p := range peers {
			x, err := measure(p)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", p.name, err)
			}
			all[i] = append(all[i], x)
		}
	}
	medians := make([]float64, len(peers))
	for i, xs := range all {
		medians[i] = median(xs)
	}
	return medians, nil
}
