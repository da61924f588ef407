package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign"
	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/proxy/upstream"
)

const (
	// configName is the file that is used if none is named.
	configName = "config.yaml"
	// builtinName is what mistakes call the configuration that is built in.
	builtinName = "built-in config.yaml"
	// maxConfig bounds the file: ten thousand rules take one MiB.
	maxConfig = 8 << 20
)

// Config is a whole configuration, parsed and checked: nothing that uses it
// parses a string again.
type Config struct {
	// Path is the file's name, or builtinName.
	Path      string
	Server    Server
	Upstreams []Upstream
	Storage   Storage
	// State is the directory of what must survive a restart. It is trusted.
	State     string
	Cache     CacheConfig
	Decisions Decisions
	Verifiers map[string]VerifierConfig
	Policy    policy.Policy
	// Warnings are what an operator should know and that keeps nothing from working.
	Warnings []string
}

// Server says where the proxy listens.
type Server struct {
	Listen string
	Admin  string
	TLS    *TLS // nil for plain HTTP
}

// TLS names the files of a certificate that was loaded once already.
type TLS struct {
	Certificate, Key string
	// ClientCA, if set, signs the certificates that clients must show.
	ClientCA *x509.CertPool
}

// Upstream is one registry that may be contacted.
type Upstream struct {
	// Default is set for the upstream of names without a registry.
	Default bool
	upstream.Config
}

// Storage is where content is kept. It is not trusted.
type Storage struct {
	Driver        string // "filesystem" or "inmemory"
	RootDirectory string // of filesystem
	Limit         int64  // bytes
}

// CacheConfig says how long things are remembered.
type CacheConfig struct {
	Decisions int64
	Refusals  time.Duration
	Tags      time.Duration
	MaxStale  time.Duration
}

// Decisions is where decision records go besides stderr.
type Decisions struct {
	Log  string // empty for none
	Keep time.Duration
}

// loadConfig reads a configuration file. Without a path it is config.yaml of
// the working directory or, if there is none, the built-in one.
func loadConfig(path string) (*Config, error) {
	if path == "" {
		if _, err := os.Stat(configName); errors.Is(err, fs.ErrNotExist) {
			return parseConfig(builtinName, countersign.Config())
		}
		path = configName
	}
	body, err := readFile(path, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	return parseConfig(path, body)
}

// parseConfig turns a configuration into values. Files that it names are read
// and looked for beside it. The error is a *ConfigError with all mistakes.
func parseConfig(path string, body []byte) (*Config, error) {
	r := &reader{file: path, dir: filepath.Dir(path)}
	root := r.document(body)
	if root == nil {
		return nil, r.err()
	}
	c := &Config{Path: path}
	s := r.section(root, "", root.Line)
	c.Server = r.server(s.sub("server"))
	c.Upstreams = r.upstreams(s)
	c.Storage = r.storage(s)
	c.State = r.state(s, c.Storage)
	c.Cache = r.cache(s.sub("cache"))
	c.Decisions = r.decisions(s.sub("decisions"))
	c.Verifiers = r.verifiers(s)
	c.Policy = r.rules(s, c)
	s.unsupported("exceptions", "access")
	s.finish()
	if err := r.err(); err != nil {
		return nil, err
	}
	c.Warnings = r.warnings
	return c, nil
}

// document returns the root of the only document of a file, or nil if it has
// none that can be read.
func (r *reader) document(body []byte) *yaml.Node {
	switch {
	case len(body) > maxConfig:
		r.mistake(0, "the file has more than %d bytes: is it a configuration?", maxConfig)
		return nil
	case !utf8.Valid(body):
		r.mistake(0, "the file is not UTF-8: save it as UTF-8")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(body))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF), err == nil && isNothing(&doc):
		r.mistake(0, "the file is empty: write at least upstreams and rules")
		return nil
	case err != nil:
		r.syntax(err, body)
		return nil
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		r.mistake(max(second.Line, 1), "a second document begins here: keep everything in one, without ---")
	case !errors.Is(err, io.EOF):
		r.syntax(err, body)
	}
	root := doc.Content[0]
	r.refuseIndirections(root, 0)
	return root
}

// isNothing reports whether a document has no content, as after a lone ---.
func isNothing(doc *yaml.Node) bool {
	return len(doc.Content) != 1 || doc.Content[0].Tag == "!!null"
}

var (
	yamlLine   = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	yamlAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntax reports an error of the YAML library. It has in its text the line at
// or just before which the trouble begins, no line if that is the first, and
// for an unknown anchor none at all.
func (r *reader) syntax(err error, body []byte) {
	line, text := 1, err.Error()
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	if m := yamlAnchor.FindStringSubmatch(text); m != nil {
		before, _, _ := bytes.Cut(body, []byte("*"+m[1]))
		line = bytes.Count(before, []byte("\n")) + 1
	}
	r.mistake(line, "not YAML: %s: look at indentation, brackets and quotes from here on; what begins with * or & needs quotes", text)
}
