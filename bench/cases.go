package main

import (
	"fmt"
	"net"
	"net/http"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// The targets, as ratios to distribution's proxy in the same run.
const (
	targetByTag    = 30
	targetByDigest = 4
	targetBlob     = 1
	targetFetches  = 16
	// targetResident is in MiB.
	targetResident = 100
)

const (
	mib       = 1 << 20
	warmBlob  = 256 * mib
	largeBlob = 1024 * mib
)

func manifestPath(ref string) string  { return "/v2/" + repository + "/manifests/" + ref }
func blobPath(d digest.Digest) string { return "/v2/" + repository + "/blobs/" + d.String() }
func (s *suite) pair() ([]*peer, error) {
	ours, err := s.countersign()
	if err != nil {
		return nil, err
	}
	theirs, err := s.distribution()
	return []*peer{ours, theirs}, err
}

// bare serves the same bytes from a plain net/http handler: what the language
// allows.
func bare(body []byte) (*peer, func(), error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	length := []string{strconv.Itoa(len(body))}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Length"] = length
		_, _ = w.Write(body)
	})}
	go server.Serve(l)
	return &peer{name: "net/http", addr: l.Addr().String()}, func() { server.Close() }, nil
}

// manifests: warm, by tag and by digest. By tag distribution asks the upstream
// each time; ours asks once a minute.
func (s *suite) manifests() ([]row, error) {
	d, body, _, err := s.up.image("small", source{body: []byte("a small layer")})
	if err != nil {
		return nil, err
	}
	peers, err := s.pair()
	if err != nil {
		return nil, err
	}
	handler, stop, err := bare(body)
	if err != nil {
		return nil, err
	}
	defer stop()
	peers = append(peers, handler)
	var rows []row
	for _, c := range []struct {
		what, ref   string
		connections int
		target      float64
	}{
		{"warm manifest by tag, 32 connections", "small", 32, targetByTag},
		{"warm manifest by tag, 1 connection", "small", 1, targetByTag},
		{"warm manifest by digest, 32 connections", d.String(), 32, targetByDigest},
		{"warm manifest by digest, 1 connection", d.String(), 1, targetByDigest},
	} {
		got, err := compare(peers, func(p *peer) (float64, error) {
			n := 20_000
			if p.name == "distribution" {
				n = 1_500
			}
			return load(p.addr, manifestPath(c.ref), c.connections, n)
		})
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{c.what, perSecond(got[0]), perSecond(got[1]), got[0] / got[1], c.target},
			row{"  the same, beside a bare net/http handler", perSecond(got[0]), perSecond(got[2]), got[0] / got[2], 0})
	}
	return rows, nil
}

func perSecond(x float64) string { return fmt.Sprintf("%.0f/s", x) }
func rate(size int64, seconds float64) string {
	return fmt.Sprintf("%.0f MiB/s", float64(size)/mib/seconds)
}

// blobs: warm, and cold in one piece.
func (s *suite) blobs() ([]row, error) {
	_, _, layer, err := s.up.image("warm", source{seed: 1, size: warmBlob})
	if err != nil {
		return nil, err
	}
	peers, err := s.pair()
	if err != nil {
		return nil, err
	}
	var cold [2]float64
	for i, p := range peers {
		if _, err := load(p.addr, manifestPath("warm"), 1, 1); err != nil {
			return nil, err
		}
		if cold[i], err = download(p.addr, blobPath(layer), 1, warmBlob); err != nil {
			return nil, err
		}
	}
	got, err := compare(peers, func(p *peer) (float64, error) { return download(p.addr, blobPath(layer), 1, warmBlob) })
	if err != nil {
		return nil, err
	}
	return []row{
		{"warm 256 MiB blob", rate(warmBlob, got[0]), rate(warmBlob, got[1]), got[1] / got[0], targetBlob},
		{"cold 256 MiB blob (one try)", rate(warmBlob, cold[0]), rate(warmBlob, cold[1]), cold[1] / cold[0], 0},
	}, nil
}

// stampede: what sixteen clients on one cold blob cost the upstream.
func (s *suite) stampede() ([]row, error) {
	_, _, layer, err := s.up.image("stampede", source{seed: 2, size: 64 * mib})
	if err != nil {
		return nil, err
	}
	peers, err := s.pair()
	if err != nil {
		return nil, err
	}
	var fetched [2]float64
	for i, p := range peers {
		if _, err := load(p.addr, manifestPath("stampede"), 1, 1); err != nil {
			return nil, err
		}
		before := s.up.fetched(layer)
		if _, err := download(p.addr, blobPath(layer), 16, 64*mib); err != nil {
			return nil, err
		}
		fetched[i] = float64(s.up.fetched(layer) - before)
	}
	return []row{{"16 clients on one cold blob: upstream fetches", fmt.Sprint(fetched[0]), fmt.Sprint(fetched[1]), fetched[1] / fetched[0], targetFetches}}, nil
}

// memory: the most that is resident while eight clients pull a cold GiB.
func (s *suite) memory() ([]row, error) {
	_, _, layer, err := s.up.image("large", source{seed: 3, size: largeBlob})
	if err != nil {
		return nil, err
	}
	p, err := s.countersign()
	if err != nil {
		return nil, err
	}
	if _, err := load(p.addr, manifestPath("large"), 1, 1); err != nil {
		return nil, err
	}
	if _, err := download(p.addr, blobPath(layer), 8, largeBlob); err != nil {
		return nil, err
	}
	mem, err := p.resident()
	return []row{{"resident while 8 clients pull a cold GiB, of 100 MiB", fmt.Sprintf("%.0f MiB", mem), "-", targetResident / mem, 1}}, err
}
