package main

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/countersign/countersign/policy"
)

// warnOfRules says what an operator would want to know about rules that are
// not wrong.
func (r *reader) warnOfRules(rules []*policy.Rule, c *Config, used map[string]bool) {
	if len(rules) == 0 {
		r.warn("rules: there is none: everything is refused")
	}
	earlier := map[string]string{} // pattern → rule
	for _, rule := range rules {
		text := rule.Match.String()
		if by := shadowedBy(earlier, text); by != "" {
			r.warn("rule %q can never apply: %s matches first: move it up or remove it", rule.Name, by)
		} else if text != "" {
			earlier[text] = rule.Name
		}
		if problem := unreachable(text, c.Upstreams); problem != "" {
			r.warn("rule %q can never apply: %s", rule.Name, problem)
		}
		if rule.Exempt != nil {
			r.warnOfExemption(rule)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Verifiers)) {
		if !used[name] {
			r.warn("verifier %q is not used by any rule", name)
		}
	}
}

// warnOfExemption announces what is served unsigned, always.
func (r *reader) warnOfExemption(rule *policy.Rule) {
	day := rule.Exempt.Until.Format(time.DateOnly)
	switch left := time.Until(rule.Exempt.Until); {
	case left <= 0:
		r.warn("rule %q: its exemption ended %s: %s is refused", rule.Name, day, rule.Match)
	case left < soon:
		r.warn("rule %q: its exemption ends soon: %s is served without signatures until %s: %s", rule.Name, rule.Match, day, rule.Exempt.Why)
	default:
		r.warn("rule %q: %s is served without signatures until %s: %s", rule.Name, rule.Match, day, rule.Exempt.Why)
	}
}

// shadowedBy returns the earlier rule whose pattern certainly matches whatever
// a pattern matches, in words. It looks at the common forms only: the same
// pattern, "head/**", and "head/*" before a pattern with one segment there.
func shadowedBy(earlier map[string]string, pattern string) string {
	candidates := []string{pattern, "**"}
	for i, c := range pattern {
		if c == '/' && !strings.Contains(pattern[:i], "*") {
			candidates = append(candidates, pattern[:i]+"/**")
		}
	}
	if i := strings.LastIndexByte(pattern, '/'); i >= 0 && !strings.Contains(pattern[i:], "**") {
		candidates = append(candidates, pattern[:i]+"/*")
	}
	for _, c := range candidates {
		if name, ok := earlier[c]; ok {
			return "rule " + quote(name) + " (" + c + ")"
		}
	}
	return ""
}

// unreachable says why no repository of the upstreams can match a pattern.
func unreachable(pattern string, upstreams []Upstream) string {
	registry, repository, ok := strings.Cut(pattern, "/")
	switch {
	case !ok || strings.Contains(registry, "*"):
		return ""
	case !matchesUpstream(upstreams, registry):
		return "no upstream is named " + quote(registry) + ": add it under upstreams"
	case registry == dockerHub && !strings.Contains(repository, "/") && !strings.Contains(repository, "**"):
		return "on Docker Hub every name has two parts: write docker.io/library/" + repository
	}
	return ""
}
