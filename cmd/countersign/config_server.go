package main

import (
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/policy"
)

// The defaults of keys that are left out. config.yaml says the same.
const (
	defaultListen   = "127.0.0.1:5000"
	defaultAdmin    = "127.0.0.1:5001"
	defaultContent  = "data/content"
	defaultLimit    = 50 << 30
	defaultState    = "data/state"
	defaultTags     = time.Minute
	defaultMaxStale = 24 * time.Hour
	defaultKeep     = 30 * 24 * time.Hour
	// maxDecisions bounds the memory of decisions to about 25 GB.
	maxDecisions = 100_000_000
	// soon is when the end of a certificate, key or exemption is worth a warning.
	soon = 14 * 24 * time.Hour
)

func (r *reader) server(s *section) Server {
	server := Server{
		Listen: value(s, "listen", defaultListen, parseAddress),
		Admin:  value(s, "admin", defaultAdmin, parseAddress),
	}
	if server.Listen == server.Admin && !strings.HasSuffix(server.Listen, ":0") {
		s.wrong("admin", "%s is also what listen says: give it a port of its own", server.Admin)
	}
	s.unsupported("auth")
	if s.has("tls") {
		server.TLS = r.tls(s.sub("tls"))
	} else {
		s.get("tls")
	}
	s.finish()
	if !isLoopback(server.Listen) && (server.TLS == nil || server.TLS.ClientCA == nil) {
		r.warn("server.listen: %s is open to other hosts, and whoever reaches it pulls with the upstreams' credentials: set tls.client_ca or restrict the network", server.Listen)
	}
	if !isLoopback(server.Admin) {
		r.warn("server.admin: %s is open to other hosts: metrics name repositories' rules; restrict the network", server.Admin)
	}
	return server
}

func (r *reader) tls(s *section) *TLS {
	s.need("certificate", "name the file of the certificate and its chain (PEM)")
	s.need("key", "name the file of the certificate's private key (PEM)")
	certFile, certPEM := s.read("certificate")
	keyFile, keyPEM := s.read("key")
	t := &TLS{Certificate: certFile, Key: keyFile, ClientCA: s.pool("client_ca")}
	s.finish()
	if certPEM == nil || keyPEM == nil {
		return t
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		s.wrong("certificate", "%v: write the certificate that belongs to the key", err)
		return t
	}
	if left := time.Until(pair.Leaf.NotAfter); left < soon {
		r.warn("%s: the certificate's last day is %s: renew it", s.path("certificate"), pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
	}
	return t
}

// pool reads a file of CA certificates.
func (s *section) pool(key string) *x509.CertPool {
	path, body := s.read(key)
	if body == nil {
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(body) {
		s.wrong(key, "%s holds no certificate: write PEM (BEGIN CERTIFICATE)", path)
		return nil
	}
	return pool
}

func (r *reader) storage(root *section) Storage {
	s := root.sub("storage")
	storage := Storage{Driver: "filesystem", RootDirectory: r.filePath(defaultContent), Limit: value(s, "limit", defaultLimit, parseSize)}
	if s.has("driver") {
		r.driver(s.sub("driver"), &storage)
	} else {
		s.get("driver")
	}
	s.finish()
	return storage
}

// driver reads {name: {parameters}}.
func (r *reader) driver(s *section, storage *Storage) {
	for _, key := range s.keys {
		switch key.Value {
		case "filesystem", "inmemory":
		default:
			s.get(key.Value)
			s.mistake(key.Line, "%s: this build has no storage driver %s: write filesystem (or inmemory for trials)", s.name, quote(key.Value))
		}
	}
	switch {
	case s.has("filesystem") && s.has("inmemory"):
		s.get("filesystem")
		s.get("inmemory")
		s.mistake(s.line, "%s: there are two drivers: keep one", s.name)
	case s.has("filesystem"):
		p := s.sub("filesystem")
		p.need("rootdirectory", "name the directory that content is kept in")
		storage.RootDirectory = r.filePath(p.text("rootdirectory"))
		p.unsupported("maxthreads")
		p.finish()
	case s.has("inmemory"):
		storage.Driver, storage.RootDirectory = "inmemory", ""
		s.section(s.orEmpty("inmemory", yaml.MappingNode), s.path("inmemory"), s.line).finish()
	case len(s.keys) == 0 && !s.broken:
		s.mistake(s.line, "%s: no driver: write filesystem: {rootdirectory: DIRECTORY}", s.name)
	}
	s.finish()
}

// state reads the directory of trusted state. It must lie outside the content
// store, which nobody has to trust.
func (r *reader) state(s *section, storage Storage) string {
	dir := r.filePath(s.text("state"))
	if dir == "" {
		dir = r.filePath(defaultState)
	}
	if storage.Driver == "filesystem" && (isWithin(dir, storage.RootDirectory) || isWithin(storage.RootDirectory, dir)) {
		s.wrong("state", "%s and the content store %s lie within each other: the state is trusted and the content is not: keep them apart", dir, storage.RootDirectory)
	}
	return dir
}

// isWithin reports whether a path is a directory or lies below it.
func isWithin(path, dir string) bool {
	path, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return false
	}
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, string(filepath.Separator))+string(filepath.Separator))
}

func (r *reader) cache(s *section) CacheConfig {
	c := CacheConfig{
		Decisions: value(s, "decisions", policy.DefaultDecisions, parseCount),
		Refusals:  value(s, "refusals", policy.DefaultRefusals, parsePositiveDuration),
		Tags:      value(s, "tags", defaultTags, parseDuration),
		MaxStale:  value(s, "max_stale", defaultMaxStale, parseDuration),
	}
	if c.Decisions > maxDecisions {
		s.wrong("decisions", "%d decisions do not fit into memory: write at most %d", c.Decisions, maxDecisions)
	}
	s.unsupported("shared")
	s.finish()
	return c
}

func (r *reader) decisions(s *section) Decisions {
	d := Decisions{
		Log:  r.filePath(s.text("log")),
		Keep: value(s, "keep", defaultKeep, parsePositiveDuration),
	}
	if d.Log == "" && s.has("keep") {
		s.wrong("keep", "there is no log to keep: write log: FILE beside it")
	}
	s.finish()
	return d
}
