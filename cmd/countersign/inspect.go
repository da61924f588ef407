package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/notary"
)

func newInspectCommand() *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "inspect REF",
		Short: "Show every signature and all trust metadata of an image",
		Long: "Show what there is to decide by: every signature and attestation found, and for trust\n" +
			"metadata the signers, tags, roles and keys with when each expires.\n\n" +
			"Exit codes: 0 shown, 2 something could not be read, 3 usage or configuration.",
		Example: "  countersign inspect --config config.yaml ghcr.io/acme/app:v1\n" +
			"  countersign inspect -o json registry.internal/app:v1",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			return inspect(cmd.Context(), cmd.OutOrStdout(), c, flags.output, refs[0])
		},
	}
	flags.add(cmd)
	return cmd
}

// inspection is what is known of one image.
type inspection struct {
	explanation
	// Trust is the trust metadata by verifier.
	Trust map[string]notary.Report `json:"trust,omitempty"`
	// Unread says what could not be read, by verifier.
	Unread map[string]string `json:"unread,omitempty"`
}

func inspect(ctx context.Context, out io.Writer, c *Config, format, ref string) error {
	a, done, err := assemblePrivate(c)
	if err != nil {
		return err
	}
	defer done()
	x := a.proxy.Explain(ctx, ref)
	i := inspection{explanation: summarize(ref, x), Trust: map[string]notary.Report{}, Unread: map[string]string{}}
	i.readTrust(ctx, a, x)
	if format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(i)
	} else {
		err = i.print(out, x)
	}
	if err == nil && (len(i.Unread) > 0 || exitCode(x.Err) == exitUndecided) {
		return &exitError{code: exitUndecided}
	}
	return err
}

func (i *inspection) readTrust(ctx context.Context, a *assembly, x proxy.Explanation) {
	if x.Rule == nil {
		return
	}
	for _, name := range x.Rule.Require.Verifiers() {
		n, ok := a.verifiers[name].(*notary.Verifier)
		if !ok {
			continue
		}
		report, err := n.Inspect(ctx, x.Subject.Name())
		switch {
		case err == nil:
			i.Trust[name] = report
		case !errors.As(err, new(*verify.Refusal)):
			i.Unread[name] = err.Error()
		}
	}
}

func (i *inspection) print(out io.Writer, x proxy.Explanation) error {
	if err := printExplanation(out, "text", i.Reference, x); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(i.Trust)) {
		if err := printTrust(out, name, i.Trust[name]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(i.Unread)) {
		if _, err := fmt.Fprintf(out, "\ntrust metadata for verifier %s could not be read: %s\n", name, i.Unread[name]); err != nil {
			return err
		}
	}
	return nil
}

// printTrust shows what "docker trust inspect --pretty" and "notary list" do,
// and when everything expires.
func printTrust(out io.Writer, verifier string, r notary.Report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")) }
	fmt.Fprintf(w, "\ntrust metadata of %s for verifier %s, from %s, expires %s\n", r.GUN, verifier, r.Server, expires(r.Expires))
	if r.Problem != "" {
		fmt.Fprintf(w, "  problem: %s\n", r.Problem)
	}
	line("  TAG", "DIGEST", "SIZE", "ROLE", "SIGNERS")
	for _, t := range r.Tags {
		line("  "+t.Tag, t.Digest.String(), fmt.Sprint(t.Size), t.Role, strings.Join(t.Signers, ", "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	line("  ROLE", "VERSION", "THRESHOLD", "EXPIRES", "KEYS")
	for _, role := range r.Roles {
		var keys []string
		for _, k := range role.Keys {
			keys = append(keys, k.Type+" "+k.ID)
		}
		line("  "+role.Name, fmt.Sprint(role.Version), fmt.Sprint(role.Threshold), expires(role.Expires), strings.Join(keys, ", "))
		if role.Problem != "" {
			fmt.Fprintf(w, "    %s\n", role.Problem)
		}
	}
	return w.Flush()
}

func expires(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	left := time.Until(t)
	text := fmt.Sprintf("%s (in %s)", t.UTC().Format(time.RFC3339), formatDuration(left.Round(time.Minute)))
	if left <= 0 {
		text = t.UTC().Format(time.RFC3339) + " (EXPIRED)"
	}
	return text
}
