package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/cache"
	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/digests"
	"github.com/countersign/countersign/verify/notation"
	"github.com/countersign/countersign/verify/sigstore"
)

// maxKeys bounds a verifier's keys: every signature is tried with each.
const maxKeys = 256

var verifierNameGrammar = regexp.MustCompile(`^[a-z0-9_-]{1,64}$`)

// VerifierConfig is one scheme with one trust root. Exactly one of the scheme
// fields is set.
type VerifierConfig struct {
	Sigstore *sigstore.Config
	Digests  *digests.Config
	Notary   *NotaryConfig
	Notation *notation.Config
	// Fingerprint is a hash over the scheme and its configuration with the
	// contents of all files.
	Fingerprint string
}

// Scheme returns the scheme's name in the configuration.
func (v VerifierConfig) Scheme() string {
	switch {
	case v.Sigstore != nil:
		return "sigstore"
	case v.Digests != nil:
		return "digests"
	case v.Notary != nil:
		return "notary"
	case v.Notation != nil:
		return "notation"
	}
	return ""
}

// verifier makes the verifier; src and state may be nil to see whether it can
// be made.
func (v VerifierConfig) verifier(src verify.Source, state *cache.State) (verify.Verifier, error) {
	switch {
	case v.Sigstore != nil:
		return asVerifier(sigstore.New(*v.Sigstore, src))
	case v.Digests != nil:
		return asVerifier(digests.New(*v.Digests))
	case v.Notary != nil:
		return v.Notary.verifier(state)
	case v.Notation != nil:
		return asVerifier(notation.New(*v.Notation, src))
	}
	return nil, errors.New("no scheme is configured")
}

// asVerifier keeps a nil pointer from becoming a verifier.
func asVerifier[V verify.Verifier](v V, err error) (verify.Verifier, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

// each returns the errors that were joined into one.
func each(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// verifiers makes all verifiers, reading signatures through src and keeping
// what they must remember in state.
func (c *Config) verifiers(src verify.Source, state *cache.State) (map[string]verify.Verifier, error) {
	all := make(map[string]verify.Verifier, len(c.Verifiers))
	for name, config := range c.Verifiers {
		v, err := config.verifier(src, state)
		if err != nil {
			return nil, fmt.Errorf("verifier %s: %w", name, err)
		}
		all[name] = v
	}
	return all, nil
}

func (r *reader) verifiers(root *section) map[string]VerifierConfig {
	s := r.section(root.orEmpty("verifiers", yaml.MappingNode), "verifiers", root.line)
	all := make(map[string]VerifierConfig, len(s.keys))
	for _, key := range s.keys {
		if !verifierNameGrammar.MatchString(key.Value) {
			r.mistake(key.Line, "verifiers: %s is not a name: write up to 64 of a-z, 0-9, _ and -", quote(key.Value))
		}
		// A verifier that has mistakes stays known, so that the rules that
		// name it are not reported as well.
		all[key.Value] = r.verifier(s.sub(key.Value))
	}
	return all
}

// schemes are the keys of a verifier in the configuration's contract.
const schemes = "sigstore, notary, notation or digests"

func (r *reader) verifier(s *section) VerifierConfig {
	before := len(r.mistakes)
	var v VerifierConfig
	found := 0
	for _, key := range s.keys {
		switch key.Value {
		case "sigstore":
			v.Sigstore = r.sigstore(s.sub("sigstore"))
		case "digests":
			v.Digests = r.digests(s.sub("digests"))
		case "notary":
			v.Notary = r.notary(s.sub("notary"))
		case "notation":
			v.Notation = r.notation(s.sub("notation"))
		case "tuf", "attestation":
			s.unsupported(key.Value)
		default:
			continue
		}
		found++
	}
	s.asked = append(s.asked, "sigstore", "notary", "notation", "digests")
	s.finish()
	switch {
	case found > 1:
		r.mistake(s.line, "%s: there are %d schemes: give each a verifier of its own", s.name, found)
	case found == 0 && len(s.keys) == 0 && !s.broken:
		r.mistake(s.line, "%s: there is no scheme: write %s", s.name, schemes)
	}
	if len(r.mistakes) > before {
		return v
	}
	if _, err := v.verifier(nil, nil); err != nil {
		for _, e := range each(err) {
			r.mistake(s.line, "%s: %v", s.name, e)
		}
	}
	v.Fingerprint = fingerprint(struct {
		Scheme   string
		Sigstore *sigstore.Config
		Digests  *digests.Config
		Notary   any
		Notation *notation.Config
	}{v.Scheme(), v.Sigstore, v.Digests, v.Notary.trusted(), v.Notation})
	return v
}

func (r *reader) sigstore(s *section) *sigstore.Config {
	s.unsupported("identities", "trust_root", "timestamps")
	if !s.has("identities") {
		s.need("keys", "list the public keys, like [{file: keys/team.pub}]")
	}
	c := &sigstore.Config{TransparencyLog: value(s, "transparency_log", "required", parseTransparency)}
	if c.TransparencyLog == "required" && !s.broken {
		s.wrong("transparency_log", "required, which is the default, cannot be met yet for keys: write optional; a misused key is then not seen in any log")
	}
	nodes := s.list("keys")
	if len(nodes) > maxKeys {
		s.wrong("keys", "there are %d: at most %d are tried for each signature: remove some", len(nodes), maxKeys)
		nodes = nil
	}
	files := map[string]int{}
	for i, n := range nodes {
		k := r.section(n, fmt.Sprintf("%s[%d]", s.path("keys"), i), n.Line)
		key, file := r.sigstoreKey(k)
		if line, twice := files[file]; twice && file != "" {
			k.wrong("file", "%s is the key in line %d already: remove one", file, line)
		}
		files[file] = n.Line
		c.Keys = append(c.Keys, key)
	}
	c.AtLeast = int(min(s.count("at_least"), maxKeys+1))
	if c.AtLeast > len(nodes) && len(nodes) > 0 {
		s.wrong("at_least", "%d of %d keys can never be met: write a smaller number", c.AtLeast, len(nodes))
	}
	s.finish()
	return c
}

func parseTransparency(s string) (string, error) {
	if s != "required" && s != "optional" {
		return "", fmt.Errorf("%s is not a value: write required or optional", quote(s))
	}
	return s, nil
}

func (r *reader) sigstoreKey(s *section) (key sigstore.Key, file string) {
	before := len(r.mistakes)
	s.unsupported("kms")
	s.need("file", "name the file of the public key (PEM)")
	file, key.PEM = s.read("file")
	key.Name = s.text("name")
	if key.Name == "" {
		key.Name = strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	}
	key.NotBefore = value(s, "not_before", time.Time{}, parseStart)
	key.NotAfter = value(s, "not_after", time.Time{}, parseEnd)
	s.finish()
	if len(r.mistakes) > before || key.PEM == nil {
		return key, file
	}
	if !key.NotAfter.IsZero() && !key.NotBefore.Before(key.NotAfter) {
		s.wrong("not_after", "the key ends before it begins: correct not_before or not_after")
		return key, file
	}
	// Alone, so that a bad key is reported in its own line.
	if _, err := sigstore.New(sigstore.Config{Keys: []sigstore.Key{key}, TransparencyLog: "optional"}, nil); err != nil {
		s.wrong("file", "%v", err)
	}
	if left := time.Until(key.NotAfter); !key.NotAfter.IsZero() && left < soon {
		r.warn("%s: key %q ends %s", s.name, key.Name, key.NotAfter.Format(time.DateOnly))
	}
	return key, file
}

func (r *reader) digests(s *section) *digests.Config {
	s.need("file", "name the file of pinned digests, one registry/repository[:tag]@sha256:… a line")
	file, body := s.read("file")
	s.finish()
	return &digests.Config{Name: filepath.Base(file), Text: body}
}
