// Command countersign is a pull-through registry proxy that enforces
// signatures in line. Each command has a file of its own; config.go turns the
// configuration into typed values once; assemble.go builds the proxy from them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes are part of the contract.
const (
	exitAdmitted  = 0
	exitRefused   = 1
	exitUndecided = 2
	exitUsage     = 3
)

// exitError ends the program with a code. A nil err prints nothing more.
type exitError struct {
	code int
	err  error
}

// Error returns the text to print.
func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

// Unwrap returns the cause.
func (e *exitError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main without the process: arguments in, exit code out.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitAdmitted
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(stderr, "countersign: "+text)
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitUsage
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "countersign",
		Short: "A registry proxy that verifies before it serves",
		Long: "Countersign stands in front of upstream registries, checks every manifest against trust\n" +
			"metadata, and answers 403 for unsigned or mismatched content.",
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newServeCommand(), newDemoCommand(), newVerifyCommand(), newInspectCommand(), newCheckCommand())
	return root
}

// version is the module's version, or the commit for a build from a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value
		}
	}
	return "devel"
}
