// Command bench runs Countersign and distribution's registry in proxy mode side
// by side, before the same upstream and under the same load, and prints ratios.
// Seconds depend on the machine; ratios of one run say which is faster and by
// how much.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"
)

// total bounds the whole run.
const total = 10 * time.Minute

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	ctx, cancel := context.WithTimeout(ctx, total)
	err := run(ctx)
	cancel()
	stop()
	if err != nil {
		log.Fatal("bench: ", err)
	}
}

// row is one line of the table. ratio is how many times better we are.
type row struct {
	what, ours, theirs string
	ratio, target      float64
}

func run(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "countersign-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binaries, err := build(ctx, dir)
	if err != nil {
		return err
	}
	up, err := newUpstream()
	if err != nil {
		return err
	}
	defer up.close()
	s := &suite{ctx: ctx, dir: dir, up: up, binaries: binaries}
	defer s.stop()
	var rows []row
	for _, part := range []func() ([]row, error){s.manifests, s.blobs, s.stampede, s.memory} {
		got, err := part()
		if err != nil {
			return err
		}
		rows = append(rows, got...)
	}
	fmt.Printf("%s, %d cores, %s; medians of %d interleaved rounds\n\n", runtime.GOOS+"/"+runtime.GOARCH, runtime.NumCPU(), runtime.Version(), rounds)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CASE\tCOUNTERSIGN\tDISTRIBUTION\tRATIO\tTARGET\t")
	for _, r := range rows {
		verdict := "ok"
		if r.ratio < r.target {
			verdict = "SHORT"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%.2f\t%s\n", r.what, r.ours, r.theirs, r.ratio, r.target, verdict)
	}
	return w.Flush()
}

// build builds both programs from source.
func build(ctx context.Context, dir string) (map[string]string, error) {
	binaries := map[string]string{}
	for name, args := range map[string][]string{
		"countersign": {"-C", "..", "build", "-o", filepath.Join(dir, "countersign"), "./cmd/countersign"},
		"registry":    {"build", "-o", filepath.Join(dir, "registry"), "github.com/distribution/distribution/v3/cmd/registry"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
		binaries[name] = filepath.Join(dir, name)
	}
	return binaries, nil
}
