package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/verify/sigstore"
)

func newCheckCommand() *cobra.Command {
	var config string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration and print what it means",
		Long: "Parse a configuration and print its upstreams, verifiers with the fingerprints of their keys, rules\n" +
			"and warnings. Nobody is contacted. All mistakes are printed at once with their lines.\n\n" +
			"Exit codes: 0 the configuration can be used, 3 it cannot.",
		Example: "  countersign check --config /etc/countersign/config.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(config)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			return describe(cmd.OutOrStdout(), c)
		},
	}
	cmd.Flags().StringVar(&config, "config", "", "configuration `file`")
	return cmd
}

// describe prints what a configuration means.
func describe(out io.Writer, c *Config) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")) }
	line("configuration", c.Path)
	line("listen", c.Server.Listen+" ("+transport(c.Server.TLS)+")")
	line("admin", c.Server.Admin)
	line("content", strings.TrimSpace(c.Storage.Driver+" "+c.Storage.RootDirectory), "up to "+formatSize(c.Storage.Limit))
	line("state", c.State)
	line("decisions", describeLog(c.Decisions))
	line("cache", fmt.Sprintf("%d decisions, refusals %s, tags %s, tags of an upstream that is down %s",
		c.Cache.Decisions, formatDuration(c.Cache.Refusals), formatDuration(c.Cache.Tags), formatDuration(c.Cache.MaxStale)))
	line("\nupstreams")
	for _, u := range c.Upstreams {
		line("  "+u.Name, describeUpstream(u))
	}
	line("\nverifiers")
	for _, name := range slices.Sorted(maps.Keys(c.Verifiers)) {
		for _, l := range describeVerifier(c.Verifiers[name]) {
			line("  "+name, l)
			name = ""
		}
	}
	line("\nrules, the first that matches applies; what none matches is refused")
	for i, rule := range c.Policy.Rules() {
		line(fmt.Sprintf("  %d %s", i+1, rule.Name), rule.Match.String(), "requires "+requirement(rule))
	}
	if len(c.Warnings) > 0 {
		line("\nwarnings")
	}
	for _, text := range c.Warnings {
		line("  " + text)
	}
	return w.Flush()
}

func describeLog(d Decisions) string {
	if d.Log == "" {
		return "stderr only"
	}
	return "stderr and " + d.Log + ", kept " + formatDuration(d.Keep)
}

func transport(t *TLS) string {
	switch {
	case t == nil:
		return "plain HTTP"
	case t.ClientCA == nil:
		return "TLS"
	}
	return "TLS, clients must show a certificate"
}

func describeUpstream(u Upstream) string {
	parts := []string{"at " + u.URL.String()}
	if strings.HasPrefix(u.Name, "*.") {
		parts[0] = "every host with one more label, over https"
	}
	if u.Default {
		parts = append(parts, "for names without a registry")
	}
	if u.Username != "" {
		parts = append(parts, "as user "+u.Username)
	}
	if u.CA != nil {
		parts = append(parts, "with a CA of its own")
	}
	if len(u.RealmHosts) > 0 {
		parts = append(parts, "tokens also from "+strings.Join(u.RealmHosts, " "))
	}
	return strings.Join(parts, ", ")
}

// describeVerifier returns a line for the scheme and one for each trust root.
func describeVerifier(v VerifierConfig) []string {
	switch {
	case v.Sigstore != nil:
		lines := []string{fmt.Sprintf("sigstore: %d of these keys, transparency log %s", max(v.Sigstore.AtLeast, 1), v.Sigstore.TransparencyLog)}
		for _, k := range v.Sigstore.Keys {
			lines = append(lines, "  "+describeKey(k))
		}
		return lines
	case v.Digests != nil:
		return []string{fmt.Sprintf("digests: the list %s, sha256:%x", v.Digests.Name, sha256.Sum256(v.Digests.Text))}
	case v.Notary != nil:
		return v.Notary.describe()
	case v.Notation != nil:
		lines := []string{fmt.Sprintf("notation: level %s, revocation %s", cmp.Or(v.Notation.Level, "strict"), cmp.Or(v.Notation.Revocation.Mode, "strict"))}
		for _, identity := range v.Notation.Identities {
			lines = append(lines, "  "+identity)
		}
		return lines
	}
	return nil
}

// describeKey names a key as signers are named: by the hash of its
// SubjectPublicKeyInfo.
func describeKey(k sigstore.Key) string {
	text := k.Name
	if block, _ := pem.Decode(k.PEM); block != nil {
		text = fmt.Sprintf("%s key:sha256:%x", k.Name, sha256.Sum256(block.Bytes))
	}
	if !k.NotBefore.IsZero() {
		text += " from " + k.NotBefore.Format(time.DateOnly)
	}
	if !k.NotAfter.IsZero() {
		text += " until " + k.NotAfter.Format(time.DateOnly)
	}
	return text
}
