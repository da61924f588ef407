package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	// maxMistakes bounds what is reported of a file that is something else
	// altogether: nobody reads more at once.
	maxMistakes = 200
	// maxDepth bounds nesting: the deepest sensible requirement has eight levels.
	maxDepth = 32
)

// Mistake is one thing wrong with a configuration file.
type Mistake struct {
	File string
	// Line is 0 if the mistake is about the whole file.
	Line int
	// Text says what is wrong and what to do.
	Text string
}

// String returns "file:line: text".
func (m Mistake) String() string {
	if m.Line == 0 {
		return m.File + ": " + m.Text
	}
	return m.File + ":" + strconv.Itoa(m.Line) + ": " + m.Text
}

// ConfigError holds all mistakes of a configuration, in the order of lines.
type ConfigError struct{ Mistakes []Mistake }

// Error returns a heading and one line for each mistake.
func (e *ConfigError) Error() string {
	lines := []string{"reading the configuration: 1 mistake"}
	if n := len(e.Mistakes); n != 1 {
		lines[0] = fmt.Sprintf("reading the configuration: %d mistakes", n)
	}
	for _, m := range e.Mistakes {
		lines = append(lines, m.String())
	}
	return strings.Join(lines, "\n")
}

// reader collects what is wrong while a file is turned into values, so that
// one run reports everything.
type reader struct {
	file string // as mistakes name it
	dir  string // what paths are relative to

	mistakes []Mistake
	warnings []string
}

func (r *reader) mistake(line int, format string, args ...any) {
	if len(r.mistakes) < maxMistakes {
		r.mistakes = append(r.mistakes, Mistake{File: r.file, Line: line, Text: fmt.Sprintf(format, args...)})
	}
}

func (r *reader) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
}

func (r *reader) err() error {
	if len(r.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(r.mistakes, func(a, b Mistake) int { return cmp.Compare(a.Line, b.Line) })
	return &ConfigError{Mistakes: r.mistakes}
}

// reported marks a node about which a mistake has been reported already.
const reported yaml.Kind = 0

// refuseIndirections reports aliases, anchors, merges and tags: what a line
// means must be seen in that line. It also bounds the depth.
func (r *reader) refuseIndirections(n *yaml.Node, depth int) {
	switch {
	case depth > maxDepth:
		r.mistake(n.Line, "nested more than %d levels deep: write it flatter", maxDepth)
		n.Kind = reported
	case n.Kind == yaml.AliasNode:
		r.mistake(n.Line, "alias *%s: aliases are not supported: write the value out, or in quotes if it begins with a star", n.Value)
		n.Kind = reported
	case n.Anchor != "":
		r.mistake(n.Line, "anchor &%s: anchors are not supported: remove it", n.Anchor)
	case n.Style&yaml.TaggedStyle != 0:
		r.mistake(n.Line, "tag %s: tags are not supported: remove it", n.Tag)
	}
	if n.Kind == reported {
		return
	}
	for _, child := range n.Content {
		r.refuseIndirections(child, depth+1)
	}
}

// section is a mapping that is being read. Keys that nobody asked for are
// mistakes; finish reports them.
type section struct {
	*reader
	name   string // "upstreams.docker.io"; empty for the whole file
	line   int
	keys   []*yaml.Node
	values map[string]*yaml.Node
	asked  []string
	later  []string          // known, and refused: not for this version
	needed map[string]string // key → what to do if it is missing
	broken bool              // not a mapping; reported
}

// section reads a mapping. A missing or wrong one is as good as empty, so that
// reading goes on.
func (r *reader) section(n *yaml.Node, name string, line int) *section {
	s := &section{reader: r, name: name, line: line, values: map[string]*yaml.Node{}, needed: map[string]string{}}
	if n == nil {
		return s
	}
	s.line = n.Line
	if n.Kind != yaml.MappingNode {
		s.broken = true
		r.wrongKind(n, name, "keys with values, like {key: value}, or {} for none")
		return s
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		first, twice := s.values[key.Value]
		switch {
		case key.Kind == reported:
		case key.Kind != yaml.ScalarNode:
			r.mistake(key.Line, "%sa key is not a single word: write key: value", prefix(name))
		case key.Tag == "!!merge":
			r.mistake(key.Line, "%sthe key << is not supported: write the values out", prefix(name))
		case twice:
			r.mistake(key.Line, "%sthe key %q is there already, in line %d: remove one", prefix(name), key.Value, first.Line)
		default:
			s.keys = append(s.keys, key)
			s.values[key.Value] = value
		}
	}
	return s
}

// wrongKind reports a node that is not of the kind wanted, once.
func (r *reader) wrongKind(n *yaml.Node, name, want string) {
	if n.Kind == reported {
		return
	}
	got := "a list"
	switch {
	case n.Kind == yaml.MappingNode:
		got = "keys with values"
	case n.Tag == "!!null":
		got = "nothing"
	case n.Kind == yaml.ScalarNode:
		got = "the value " + quote(n.Value)
	}
	r.mistake(n.Line, "%sgot %s: write %s", prefix(name), got, want)
}

// prefix begins a mistake with where it is.
func prefix(name string) string {
	if name == "" {
		return ""
	}
	return name + ": "
}

// maxQuoted bounds how much of a wrong value is repeated in a mistake.
const maxQuoted = 80

func quote(s string) string {
	if len(s) > maxQuoted {
		s = s[:maxQuoted] + "…"
	}
	return strconv.Quote(s)
}

// path names a key for people.
func (s *section) path(key string) string {
	if s.name == "" {
		return key
	}
	return s.name + "." + key
}

// get returns the value of a key, nil if it is not there.
func (s *section) get(key string) *yaml.Node {
	s.asked = append(s.asked, key)
	return s.values[key]
}

func (s *section) has(key string) bool { return s.values[key] != nil }

// lineOf returns the line of a key's value, or of the section.
func (s *section) lineOf(key string) int {
	if n := s.values[key]; n != nil {
		return n.Line
	}
	return s.line
}

// wrong reports a mistake about a key's value.
func (s *section) wrong(key, format string, args ...any) {
	s.mistake(s.lineOf(key), "%s: %s", s.path(key), fmt.Sprintf(format, args...))
}

// need demands a key; advice says what to write.
func (s *section) need(key, advice string) { s.needed[key] = advice }

// sub reads the mapping under a key.
func (s *section) sub(key string) *section {
	return s.section(s.get(key), s.path(key), s.line)
}

// unsupported refuses keys that a later version may have, rather than to
// accept them without effect.
func (s *section) unsupported(keys ...string) {
	s.later = append(s.later, keys...)
	for _, key := range keys {
		if s.has(key) {
			s.wrong(key, "not supported by this version: remove it")
		}
	}
}

// finish reports keys that nobody asked for and needed ones that are missing.
func (s *section) finish() {
	misspelt := map[string]bool{}
	for _, key := range s.keys {
		if slices.Contains(s.asked, key.Value) || slices.Contains(s.later, key.Value) {
			continue
		}
		advice := "known here are " + strings.Join(s.asked, ", ")
		if near := nearest(key.Value, s.asked); near != "" {
			misspelt[near] = true
			advice = fmt.Sprintf("did you mean %q?", near)
		}
		s.mistake(key.Line, "%sunknown key %s: %s", prefix(s.name), quote(key.Value), advice)
	}
	for _, key := range s.asked {
		advice, needed := s.needed[key]
		if needed && !s.has(key) && !misspelt[key] && !s.broken {
			s.mistake(s.line, "%sthe key %q is missing: %s", prefix(s.name), key, advice)
			delete(s.needed, key)
		}
	}
}

// text returns a string, empty if the key is not there or wrong. A number in place of
// a string is a mistake: 0012 and 1e3 would not be what was written.
func (s *section) text(key string) string {
	return s.textOf(s.get(key), s.path(key))
}

func (r *reader) textOf(n *yaml.Node, name string) string {
	switch {
	case n == nil:
		return ""
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
		r.wrongKind(n, name, "a text")
	case n.Tag != "!!str":
		r.mistake(n.Line, "%s: %s is not a text in YAML: put it in quotes", name, quote(n.Value))
	case n.Value == "":
		r.mistake(n.Line, "%s: the value is empty: write one or remove the key", name)
	default:
		return n.Value
	}
	return ""
}

// yes returns a boolean, false if the key is not there.
func (s *section) yes(key string) bool {
	n := s.get(key)
	switch {
	case n == nil:
	case n.Kind != yaml.ScalarNode || n.Tag != "!!bool":
		s.wrongKind(n, s.path(key), "true or false")
	default:
		return strings.EqualFold(n.Value, "true")
	}
	return false
}

// value reads a scalar with a parser of its own. Dates and numbers reach it as
// they are written.
func value[T any](s *section, key string, fallback T, parse func(string) (T, error)) T {
	n := s.get(key)
	if n == nil {
		return fallback
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		s.wrongKind(n, s.path(key), "a single value")
		return fallback
	}
	v, err := parse(n.Value)
	if err != nil {
		s.wrong(key, "%v", err)
		return fallback
	}
	return v
}

// list returns the entries of a list.
func (s *section) list(key string) []*yaml.Node {
	n := s.get(key)
	switch {
	case n == nil:
		return nil
	case n.Kind != yaml.SequenceNode:
		s.wrongKind(n, s.path(key), "a list, like [a, b]")
		return nil
	case len(n.Content) == 0:
		s.wrong(key, "the list is empty: write an entry or remove the key")
	}
	return n.Content
}

// texts returns a list of different strings.
func (s *section) texts(key string) []string {
	var all []string
	for i, n := range s.list(key) {
		name := fmt.Sprintf("%s[%d]", s.path(key), i)
		t := s.textOf(n, name)
		if t != "" && slices.Contains(all, t) {
			s.mistake(n.Line, "%s: %s is in the list already: remove one", name, quote(t))
		}
		all = append(all, t)
	}
	return all
}

// orEmpty makes a key without a value an empty mapping or list: sections whose
// entries are all commented out look like that.
func (s *section) orEmpty(key string, kind yaml.Kind) *yaml.Node {
	n := s.get(key)
	if n != nil && n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return &yaml.Node{Kind: kind, Line: n.Line}
	}
	return n
}
