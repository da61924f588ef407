package main

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"
)

// certificateCheck is how often the files are looked at: renewals happen days
// before the old certificate ends.
const certificateCheck = 10 * time.Second

// certificates serves a certificate and reads it again when its files change,
// so that a renewal needs no restart. A pair that does not load leaves the old
// one in force.
type certificates struct {
	certFile, keyFile string

	mu      sync.Mutex
	current *tls.Certificate
	changed time.Time // newest modification time of the two files when read
	checked time.Time
}

func newCertificates(certFile, keyFile string) (*certificates, error) {
	c := &certificates{certFile: certFile, keyFile: keyFile}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("loading the server certificate: %w", err)
	}
	return c, nil
}

// get is tls.Config.GetCertificate.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.checked) > certificateCheck && c.modified().After(c.changed) {
		// A renewal in progress may have written one file of two: the old pair
		// stays until both fit.
		_ = c.load()
	}
	return c.current, nil
}

func (c *certificates) load() error {
	changed := c.modified()
	c.checked = time.Now()
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.current, c.changed = &pair, changed
	return nil
}

func (c *certificates) modified() time.Time {
	var newest time.Time
	for _, f := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
	}
	return newest
}
