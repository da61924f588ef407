package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/policy"
)

const (
	// maxRules bounds the list: every pull goes through it in order.
	maxRules = 10_000
	// maxRequirements bounds the nesting of a requirement that people can follow.
	maxRequirements = 8
)

var ruleNameGrammar = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,62}[A-Za-z0-9])?$`)

const ruleNameAdvice = "write up to 64 letters, digits, and between them spaces, dots, _ or -"

// rules reads the policy. It needs the verifiers and upstreams that were read.
func (r *reader) rules(root *section, c *Config) policy.Policy {
	nodes := root.rulesNode()
	var rules []*policy.Rule
	names := map[string]int{}
	used := map[string]bool{}
	for i, n := range nodes {
		s := r.section(n, fmt.Sprintf("rules[%d]", i), n.Line)
		rule := r.rule(s, c)
		if line, twice := names[rule.Name]; twice && rule.Name != "" {
			s.wrong("name", "%s is the name of the rule in line %d already: write another", quote(rule.Name), line)
		}
		names[rule.Name] = n.Line
		for _, v := range rule.Require.Verifiers() {
			used[v] = true
		}
		rules = append(rules, rule)
	}
	r.warnOfRules(rules, c, used)
	return policy.New(rules...)
}

// rulesNode returns the entries of rules; none is allowed and refuses everything.
func (s *section) rulesNode() []*yaml.Node {
	n := s.orEmpty("rules", yaml.SequenceNode)
	switch {
	case n == nil:
		return nil
	case n.Kind != yaml.SequenceNode:
		s.wrongKind(n, "rules", "a list of rules, each begun with a dash")
		return nil
	case len(n.Content) > maxRules:
		s.wrong("rules", "there are %d: at most %d can be matched in time: use patterns", len(n.Content), maxRules)
		return nil
	}
	return n.Content
}

func (r *reader) rule(s *section, c *Config) *policy.Rule {
	s.need("name", "give the rule a name: refusals and records show it")
	s.need("match", "write the repositories it is for, like ghcr.io/acme/**")
	rule := &policy.Rule{Name: s.text("name")}
	if rule.Name != "" && !ruleNameGrammar.MatchString(rule.Name) {
		s.wrong("name", "%s is not a name: %s", quote(rule.Name), ruleNameAdvice)
	} else if rule.Name != "" {
		s.name += " " + quote(rule.Name)
	}
	rule.Match = s.pattern("match")
	if s.has("unsigned") {
		rule.Exempt = s.exemption()
	} else {
		s.need("require", "name the verifiers that must vouch, or write unsigned: allow with why and until")
		rule.Require = r.requirement(s.get("require"), s.path("require"), c.Verifiers, 0)
		s.get("unsigned")
		for _, key := range []string{"why", "until", "owner"} {
			if s.get(key) != nil {
				s.wrong(key, "has no effect without unsigned: allow: remove it")
			}
		}
	}
	rule.Resolve = s.resolve(rule.Require, c.Verifiers)
	s.unsupported("mode", "platforms", "tags", "prefetch")
	s.finish()
	rule.Fingerprint = ruleFingerprint(rule, c.Verifiers)
	return rule
}

// resolve reads resolve: trust, which needs a verifier that knows tags.
func (s *section) resolve(q policy.Requirement, verifiers map[string]VerifierConfig) bool {
	v := s.text("resolve")
	switch {
	case v == "":
		return false
	case v != "trust":
		s.wrong("resolve", "%s is not a value: write trust, or remove the key", quote(v))
	case !slices.ContainsFunc(q.Verifiers(), func(name string) bool { return verifiers[name].Notary != nil }):
		s.wrong("resolve", "none of the required verifiers says what a tag means: require a notary verifier, or remove the key")
	}
	return true
}

// pattern reads a pattern of repositories.
func (s *section) pattern(key string) policy.Pattern {
	n := s.get(key)
	if n != nil && n.Kind == yaml.SequenceNode {
		s.wrong(key, "a rule has one pattern: write a rule for each")
		return policy.Pattern{}
	}
	return value(s, key, policy.Pattern{}, func(text string) (p policy.Pattern, err error) {
		if _, repository, _ := strings.Cut(text, "/"); strings.ContainsAny(repository, ":@") {
			return p, fmt.Errorf("%s has a tag or digest: a pattern names repositories: remove what follows the name", quote(text))
		}
		if err := p.UnmarshalText([]byte(text)); err != nil {
			return p, fmt.Errorf("%w: see the patterns in config.yaml", err)
		}
		return p, nil
	})
}

// exemption reads unsigned: allow, which is always explained and dated.
func (s *section) exemption() *policy.Exemption {
	if s.get("require") != nil {
		s.wrong("require", "contradicts unsigned: allow: keep one of them")
	}
	if v := s.text("unsigned"); v != "" && v != "allow" {
		s.wrong("unsigned", "%s is not a value: write allow, or remove the key", quote(v))
	}
	s.need("why", "say why these images need no signature: records show it")
	s.need("until", "write the last day of the exemption, like 2027-01-31")
	return &policy.Exemption{Why: s.text("why"), Owner: s.text("owner"), Until: value(s, "until", time.Time{}, parseEnd)}
}

// requirement reads a verifier's name or {all|any|agree: […]} or
// {at_least: N, of: […]}.
func (r *reader) requirement(n *yaml.Node, name string, verifiers map[string]VerifierConfig, depth int) policy.Requirement {
	switch {
	case n == nil:
		return policy.Requirement{}
	case depth > maxRequirements:
		r.mistake(n.Line, "%s: nested more than %d levels deep: write it flatter", name, maxRequirements)
		return policy.Requirement{}
	case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		verifier := r.textOf(n, name)
		if _, known := verifiers[verifier]; !known && verifier != "" {
			r.mistake(n.Line, "%s: no verifier is named %s: %s", name, quote(verifier), verifierAdvice(verifier, verifiers))
		}
		return policy.Requirement{Verifier: verifier}
	case n.Kind != yaml.MappingNode:
		r.wrongKind(n, name, "a verifier's name, {all: [a, b]}, {any: [a, b]}, {at_least: 2, of: [a, b, c]} or {agree: [a, b]}")
		return policy.Requirement{}
	}
	return r.combination(r.section(n, name, n.Line), verifiers, depth)
}

func (r *reader) combination(s *section, verifiers map[string]VerifierConfig, depth int) policy.Requirement {
	var kinds []string
	for _, key := range []string{"all", "any", "agree", "of"} {
		if s.get(key) != nil {
			kinds = append(kinds, key)
		}
	}
	k := s.count("at_least")
	s.finish()
	if len(kinds) != 1 {
		if s.has("at_least") && len(kinds) == 0 {
			s.mistake(s.line, "%s: at_least is without of: write {at_least: 2, of: [a, b, c]}", s.name)
		} else if len(kinds) > 1 || len(s.keys) == 0 {
			s.mistake(s.line, "%s: write exactly one of all, any, agree, or at_least with of", s.name)
		}
		return policy.Requirement{}
	}
	q := policy.Requirement{All: kinds[0] == "all", Agree: kinds[0] == "agree"}
	seen := map[string]bool{}
	for i, n := range s.list(kinds[0]) {
		name := fmt.Sprintf("%s.%s[%d]", s.name, kinds[0], i)
		o := r.requirement(n, name, verifiers, depth+1)
		if text := o.String(); seen[text] && (o.Verifier != "" || len(o.Of) > 0) {
			r.mistake(n.Line, "%s: %s is in the list already: remove one", name, text)
		} else {
			seen[text] = true
		}
		q.Of = append(q.Of, o)
	}
	switch {
	case kinds[0] == "any":
		q.AtLeast = 1
	case kinds[0] == "of" && !s.has("at_least"):
		s.mistake(s.line, "%s: of is without at_least: write {at_least: 2, of: [a, b, c]}", s.name)
	case kinds[0] == "of" && k > int64(len(q.Of)):
		s.wrong("at_least", "%d of %d can never be met: write a smaller number", k, len(q.Of))
	case kinds[0] == "of":
		q.AtLeast = int(k)
	}
	if kinds[0] != "of" && s.has("at_least") {
		s.wrong("at_least", "goes with of, not with %s: write {at_least: 2, of: [a, b, c]}", kinds[0])
	}
	return q
}

// count reads a whole number from 1 upwards, 0 if the key is not there.
func (s *section) count(key string) int64 {
	if n := s.get(key); n != nil && n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		s.wrong(key, "%s is a text: write a number without quotes", quote(n.Value))
		return 0
	}
	return value(s, key, 0, parseCount)
}

func verifierAdvice(name string, verifiers map[string]VerifierConfig) string {
	var names []string
	for n := range verifiers {
		names = append(names, n)
	}
	slices.Sort(names)
	switch near := nearest(name, names); {
	case near != "":
		return fmt.Sprintf("did you mean %q?", near)
	case len(names) == 0:
		return "add it under verifiers"
	default:
		return "add it under verifiers, where there are " + strings.Join(names, ", ")
	}
}

// ruleFingerprint is a hash over all that a decision under the rule rests on
// but trust metadata.
func ruleFingerprint(rule *policy.Rule, verifiers map[string]VerifierConfig) string {
	prints := map[string]string{}
	for _, name := range rule.Require.Verifiers() {
		prints[name] = verifiers[name].Fingerprint
	}
	return fingerprint(struct {
		Match     string
		Require   string
		Exempt    *policy.Exemption
		Verifiers map[string]string
	}{rule.Match.String(), rule.Require.String(), rule.Exempt, prints})
}

// fingerprint hashes a value by its JSON form, which names every field and
// sorts maps, so that no two values run into each other.
func fingerprint(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		// Only plain data is passed; a type that cannot be encoded is a bug.
		panic(fmt.Sprintf("fingerprint of %T: %v", v, err))
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
