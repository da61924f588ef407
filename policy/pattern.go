package policy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// maxPattern bounds a pattern's length: twice the 255 bytes that clients allow
// for a repository with its host.
const maxPattern = 512

// Pattern matches full repository names, "registry/repository". It is
// anchored: `*` stands for any run of characters within a path segment, `**`
// also crosses segments. "docker.io/library*" matches "docker.io/library-x"
// but never "docker.io/library-x/y". The zero Pattern matches nothing.
type Pattern struct {
	text  string
	exact bool // no wildcard
	// prefix is set for "literal/**", the commonest form.
	prefix string
	re     *regexp.Regexp
}

// Names are lower case; upper case appears in no repository and no host, so a
// pattern that has it could never match and is a mistake.
var patternGrammar = regexp.MustCompile(`^[a-z0-9*][a-z0-9._:*-]*(/[a-z0-9*][a-z0-9._*-]*)*$`)

// UnmarshalText parses a pattern. The error says what is wrong with it.
func (p *Pattern) UnmarshalText(text []byte) error {
	s := string(text)
	switch {
	case s == "":
		return errors.New("a pattern is empty")
	case len(s) > maxPattern:
		return fmt.Errorf("a pattern has %d bytes; at most %d are allowed", len(s), maxPattern)
	case !patternGrammar.MatchString(s):
		return fmt.Errorf("bad repository pattern %q: only lower-case names, `*` and `**` are allowed", s)
	case strings.Contains(s, "***"):
		return fmt.Errorf("bad repository pattern %q: three stars have no meaning", s)
	case !strings.Contains(s, "/") && !strings.Contains(s, "**"):
		return fmt.Errorf("bad repository pattern %q: it has no registry: write registry/repository", s)
	}
	*p = Pattern{text: s, exact: !strings.Contains(s, "*")}
	if head, ok := strings.CutSuffix(s, "/**"); ok && !strings.Contains(head, "*") {
		p.prefix = head + "/"
		return nil
	}
	expr := regexp.QuoteMeta(s)
	expr = strings.ReplaceAll(expr, `\*\*`, `.*`)
	expr = strings.ReplaceAll(expr, `\*`, `[^/]*`)
	re, err := regexp.Compile(`^(?:` + expr + `)$`)
	if err != nil {
		return fmt.Errorf("bad repository pattern %q: %w", s, err)
	}
	p.re = re
	return nil
}

// Matches reports whether the pattern matches a full repository name.
func (p Pattern) Matches(repository string) bool {
	switch {
	case p.exact:
		return repository == p.text
	case p.prefix != "":
		return len(repository) > len(p.prefix) && strings.HasPrefix(repository, p.prefix)
	case p.re != nil:
		return p.re.MatchString(repository)
	}
	return false
}

// String returns the pattern as it was written.
func (p Pattern) String() string { return p.text }

// MarshalText returns the pattern as it was written.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.text), nil }
