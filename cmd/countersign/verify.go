package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/countersign/countersign/policy"
	"github.com/countersign/countersign/proxy"
	"github.com/countersign/countersign/verify"
)

func newVerifyCommand() *cobra.Command {
	var flags readFlags
	cmd := &cobra.Command{
		Use:   "verify REF...",
		Short: "Show the decision that serve would make, step by step",
		Long: "Show the decision that serve would make about each reference: the rule, the digest, every\n" +
			"signature found and why it counts or does not. Nothing is kept.\n\n" +
			"Exit codes: 0 admitted, 1 refused, 2 undecided, 3 usage or configuration; of several references the highest.",
		Example: "  countersign verify --config config.yaml ghcr.io/acme/app:v1\n" +
			"  countersign verify -o json docker.io/library/alpine@sha256:…",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, refs []string) error {
			c, err := flags.load()
			if err != nil {
				return err
			}
			return verifyReferences(cmd.Context(), cmd.OutOrStdout(), c, flags.output, refs)
		},
	}
	flags.add(cmd)
	return cmd
}

// readFlags are the flags of commands that look at images and print.
type readFlags struct{ config, output string }

func (f *readFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.config, "config", "", "configuration `file`")
	cmd.Flags().StringVarP(&f.output, "output", "o", "text", "`format`: text or json")
}

// load checks the flags and reads the configuration.
func (f *readFlags) load() (*Config, error) {
	if f.output != "text" && f.output != "json" {
		return nil, &exitError{exitUsage, fmt.Errorf("reading -o %q: it is neither text nor json", f.output)}
	}
	c, err := loadConfig(f.config)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return c, nil
}

// verifyReferences decides with a store and a state of its own: those of the
// configuration may be in use by a running proxy.
func verifyReferences(ctx context.Context, out io.Writer, c *Config, format string, refs []string) error {
	a, done, err := assemblePrivate(c)
	if err != nil {
		return err
	}
	defer done()
	code := exitAdmitted
	for _, ref := range refs {
		x := a.proxy.Explain(ctx, ref)
		code = max(code, exitCode(x.Err))
		if err := printExplanation(out, format, ref, x); err != nil {
			return err
		}
	}
	if code != exitAdmitted {
		return &exitError{code: code}
	}
	return nil
}

// assemblePrivate builds the proxy of a configuration with an empty store and
// state, for commands that run beside a proxy that holds the real ones.
func assemblePrivate(c *Config) (a *assembly, done func(), err error) {
	dir, err := os.MkdirTemp("", "countersign-")
	if err != nil {
		return nil, nil, fmt.Errorf("making a temporary directory: %w", err)
	}
	private := *c
	private.State, private.Storage, private.Decisions = dir, Storage{Driver: "inmemory"}, Decisions{}
	a, err = assemble(&private, io.Discard)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return a, func() {
		a.close()
		// A directory that stays behind in the system's temporary one is no failure.
		_ = os.RemoveAll(dir)
	}, nil
}

func exitCode(err error) int {
	switch {
	case err == nil:
		return exitAdmitted
	case errors.As(err, new(*verify.Refusal)):
		return exitRefused
	default:
		return exitUndecided
	}
}

// explanation is the JSON form.
type explanation struct {
	Reference string           `json:"reference"`
	Outcome   string           `json:"outcome"`
	Reason    verify.Reason    `json:"reason,omitempty"`
	Message   string           `json:"message,omitempty"`
	Rule      string           `json:"rule,omitempty"`
	Digest    string           `json:"digest,omitempty"`
	MediaType string           `json:"mediaType,omitempty"`
	Size      int64            `json:"size,omitempty"`
	Expires   *time.Time       `json:"expires,omitempty"`
	Verdicts  []verdictSummary `json:"verdicts"`
	Warnings  []string         `json:"warnings,omitempty"`
}

type verdictSummary struct {
	Verifier string           `json:"verifier"`
	Outcome  string           `json:"outcome"`
	Reason   verify.Reason    `json:"reason,omitempty"`
	Message  string           `json:"message,omitempty"`
	Signers  []string         `json:"signers,omitempty"`
	Found    []verify.Finding `json:"found,omitempty"`
}

func summarize(ref string, x proxy.Explanation) explanation {
	e := explanation{Reference: ref, Outcome: policy.Admitted.String(), Digest: string(x.Subject.Digest),
		MediaType: x.Subject.MediaType, Size: x.Subject.Size, Warnings: x.Decision.Warnings, Verdicts: []verdictSummary{}}
	var refusal *verify.Refusal
	switch {
	case errors.As(x.Err, &refusal):
		e.Outcome, e.Reason, e.Message = policy.Refused.String(), refusal.Reason, refusal.Message
	case x.Err != nil:
		e.Outcome, e.Message = policy.Undecided.String(), x.Err.Error()
	}
	if x.Rule != nil {
		e.Rule = x.Rule.Name
	}
	if t := x.Decision.Expires; !t.IsZero() {
		e.Expires = &t
	}
	for _, v := range x.Decision.Verdicts {
		e.Verdicts = append(e.Verdicts, summarizeVerdict(v))
	}
	return e
}

func summarizeVerdict(v policy.Verdict) verdictSummary {
	s := verdictSummary{Verifier: v.Verifier, Outcome: v.Outcome.String(), Found: v.Evidence.Found}
	for _, signer := range v.Evidence.Signers {
		s.Signers = append(s.Signers, strings.TrimSpace(signer.Name+" ("+signer.ID+")"))
	}
	switch {
	case v.Refusal != nil:
		s.Reason, s.Message, s.Found = v.Refusal.Reason, v.Refusal.Message, v.Refusal.Found
	case v.Err != nil:
		s.Message = v.Err.Error()
	}
	return s
}

func printExplanation(out io.Writer, format, ref string, x proxy.Explanation) error {
	e := summarize(ref, x)
	if format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(e)
	}
	var b strings.Builder
	fmt.Fprintln(&b, ref)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-9s "+format+"\n", append([]any{name}, args...)...)
	}
	line("image", "%s", x.Subject)
	if x.Rule != nil {
		line("rule", "%s: %s requires %s", x.Rule.Name, x.Rule.Match, requirement(x.Rule))
	}
	if e.MediaType != "" {
		line("manifest", "%s, %d bytes", e.MediaType, e.Size)
	}
	for _, v := range e.Verdicts {
		line("verifier", "%s: %s", v.Verifier, v.Outcome)
		for _, f := range v.Found {
			fmt.Fprintln(&b, "              "+describeFinding(f))
		}
		for _, s := range v.Signers {
			fmt.Fprintln(&b, "              vouched for by "+s)
		}
		if v.Message != "" {
			fmt.Fprintln(&b, "              "+v.Message)
		}
	}
	for _, w := range e.Warnings {
		line("warning", "%s", w)
	}
	verdict := strings.ToUpper(e.Outcome)
	if e.Reason != "" {
		verdict += " " + string(e.Reason)
	}
	if e.Message != "" {
		verdict += ": " + e.Message
	}
	line("decision", "%s", verdict)
	_, err := io.WriteString(out, b.String())
	return err
}

func requirement(r *policy.Rule) string {
	if r.Exempt != nil {
		return fmt.Sprintf("nothing until %s: %s", r.Exempt.Until.Format(time.DateOnly), r.Exempt.Why)
	}
	return r.Require.String()
}

func describeFinding(f verify.Finding) string {
	mark := "does not count"
	if f.Counts {
		mark = "counts"
	}
	parts := []string{"found " + f.Format, string(f.Digest), f.Signer, mark, strings.TrimSuffix(string(f.Reason)+": "+f.Message, ": ")}
	kept := parts[:0]
	for _, p := range parts {
		if p != "" && p != ": " {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, " · ")
}
