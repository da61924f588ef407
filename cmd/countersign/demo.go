package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/countersign/countersign/sign"
	"github.com/countersign/countersign/verify"
)

// demoRegistryName is what the demo's upstream is called.
const demoRegistryName = "registry.demo"

func newDemoCommand() *cobra.Command {
	var once bool
	var address string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show what is served and what is refused, without a network",
		Long: "Start a registry with signed, unsigned, re-tagged and tampered images, and the proxy before it;\n" +
			"pull each image through the proxy, print what came, and keep serving so that you can pull too.",
		Example: "  countersign demo\n  countersign demo --once",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDemo(cmd.Context(), cmd.OutOrStdout(), address, once)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "stop after the table; exit 0 only if every outcome was as expected")
	cmd.Flags().StringVar(&address, "listen", "127.0.0.1:0", "`address` that the proxy listens on")
	return cmd
}

// demoImage is one row of the table.
type demoImage struct {
	reference string // repository:tag
	what      string
	// wantManifest and wantBlob are the expected reasons; empty is admitted.
	wantManifest verify.Reason
	wantBlob     verify.Reason
}

var demoImages = []demoImage{
	{reference: "demo/app:signed", what: "signed, as cosign v2 does"},
	{reference: "demo/app:bundle", what: "signed, as cosign v3 does"},
	{reference: "demo/multi:v1", what: "signed multi-arch index"},
	{reference: "demo/app:pinned", what: "not signed, digest pinned"},
	{reference: "demo/app:unsigned", what: "not signed", wantManifest: verify.Unsigned},
	{reference: "demo/app:moved", what: "tag moved after signing", wantManifest: verify.Unsigned},
	{reference: "demo/app:wrong-key", what: "signed by a stranger", wantManifest: verify.UntrustedSigner},
	{reference: "demo/app:copied", what: "signature of another image", wantManifest: verify.DigestMismatch},
	{reference: "demo/app:tampered", what: "signed, layer tampered with", wantBlob: verify.DigestMismatch},
	{reference: "other/app:v1", what: "no rule for it", wantManifest: verify.NoRule},
}

func runDemo(ctx context.Context, out io.Writer, address string, once bool) (err error) {
	dir, err := os.MkdirTemp("", "countersign-demo-")
	if err != nil {
		return fmt.Errorf("making a temporary directory: %w", err)
	}
	defer os.RemoveAll(dir)
	registry, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("starting the demo's registry: %w", err)
	}
	upstream := newDemoRegistry()
	if err := upstream.fill(dir); err != nil {
		return fmt.Errorf("making the demo's images: %w", err)
	}
	a, l, err := startDemoProxy(dir, address, registry.Addr().String())
	if err != nil {
		return err
	}
	defer a.close()
	servers := []*http.Server{newServer(upstream, a.log), newServer(a.proxy, a.log)}
	for i, l := range []net.Listener{registry, l} {
		go servers[i].Serve(l)
		defer servers[i].Close()
	}
	proxy := "http://" + l.Addr().String()
	wrong := showDemo(ctx, out, proxy)
	if wrong > 0 {
		return fmt.Errorf("%d outcomes were not as expected", wrong)
	}
	if once {
		return nil
	}
	fmt.Fprintf(out, "\nThe proxy keeps serving on %s. Try, in another terminal:\n"+
		"  crane manifest --insecure %[2]s/demo/app:signed\n  skopeo copy --src-tls-verify=false docker://%[2]s/demo/app:unsigned dir:app\n"+
		"  curl -i %[1]s/v2/demo/app/manifests/unsigned\n  go run ./cmd/countersign verify --config %[3]s/config.yaml %[4]s/demo/app:unsigned\n"+
		"Decision records: %[3]s/decisions.jsonl. Ctrl-C ends the demo.\n", proxy, l.Addr(), dir, demoRegistryName)
	<-ctx.Done()
	return nil
}

// demoConfig is an ordinary configuration file.
const demoConfig = `server: {listen: %q}
upstreams:
  ` + demoRegistryName + `: {url: "http://%s", default: true}
storage: {driver: {filesystem: {rootdirectory: content}}}
state: state
decisions: {log: decisions.jsonl}
verifiers:
  team: {sigstore: {keys: [{file: team.pub}], transparency_log: optional}}
  pinned: {digests: {file: pinned.txt}}
rules:
  - {name: demo, match: ` + demoRegistryName + `/demo/*, require: {any: [team, pinned]}}
`

func startDemoProxy(dir, address, registry string) (*assembly, net.Listener, error) {
	path := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, demoConfig, address, registry), 0o600); err != nil {
		return nil, nil, err
	}
	c, err := loadConfig(path)
	if err != nil {
		return nil, nil, err
	}
	a, err := assemble(c, io.Discard)
	if err != nil {
		return nil, nil, err
	}
	l, err := listen(address, nil)
	if err != nil {
		a.close()
	}
	return a, l, err
}

// fill makes the images and writes the trust roots into dir.
func (d *demoRegistry) fill(dir string) error {
	team, err := sign.NewKey()
	if err != nil {
		return err
	}
	stranger, err := sign.NewKey()
	if err != nil {
		return err
	}
	public, err := team.PublicPEM()
	if err != nil {
		return err
	}
	const app = "demo/app"
	images := map[string]ocispec.Descriptor{}
	for _, tag := range []string{"signed", "bundle", "pinned", "unsigned", "before", "moved", "wrong-key", "copied", "tampered"} {
		if images[tag], err = d.image(app, "amd64", "I am the image "+tag+".\n", tag); err != nil {
			return err
		}
	}
	index, err := d.index("demo/multi", "v1")
	if err != nil {
		return err
	}
	_, err = d.image("other/app", "amd64", "No rule speaks of me.\n", "v1")
	pinned := fmt.Sprintf("# The demo's pinned list.\n%s/%s:pinned@%s\n", demoRegistryName, app, images["pinned"].Digest)
	return errors.Join(err,
		os.WriteFile(filepath.Join(dir, "team.pub"), public, 0o600),
		os.WriteFile(filepath.Join(dir, "pinned.txt"), []byte(pinned), 0o600),
		d.signLegacy(team, app, images["signed"].Digest),
		d.signBundle(team, app, images["bundle"]),
		d.signLegacy(team, "demo/multi", index),
		d.signLegacy(team, app, images["before"].Digest), // what `moved` pointed to when it was signed
		d.signLegacy(stranger, app, images["wrong-key"].Digest),
		d.copySignature(app, images["signed"].Digest, images["copied"].Digest),
		d.signLegacy(team, app, images["tampered"].Digest),
		d.spoil(app, images["tampered"].Digest))
}

func (d *demoRegistry) index(repository, tag string) (digest.Digest, error) {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	for _, arch := range []string{"amd64", "arm64"} {
		child, err := d.image(repository, arch, "I am the child for "+arch+".\n")
		if err != nil {
			return "", err
		}
		index.Manifests = append(index.Manifests, child)
	}
	desc, err := d.put(repository, index, tag)
	return desc.Digest, err
}

// showDemo pulls every image and returns how many outcomes were not expected.
func showDemo(ctx context.Context, out io.Writer, proxy string) (wrong int) {
	tw := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "IMAGE\tWHAT IT IS\tSTATUS\tREASON")
	var messages []string
	client := &http.Client{Timeout: time.Minute}
	for _, image := range demoImages {
		got := pull(ctx, client, proxy, image.reference)
		mark := ""
		if got.manifest != image.wantManifest || got.blob != image.wantBlob || got.err != nil {
			wrong++
			mark = "  <- not as expected"
		}
		reason := string(got.manifest + got.blob)
		if reason == "" {
			reason = "-"
		}
		fmt.Fprintf(tw, "%s\t%s\t%d\t%s%s\n", image.reference, image.what, got.status, reason, mark)
		if got.status == http.StatusForbidden {
			messages = append(messages, got.message)
		}
	}
	// The table goes to a terminal or a pipe: an error there has no reader.
	_ = tw.Flush()
	fmt.Fprintf(out, "\nWhat the clients were told:\n  %s\n", strings.Join(messages, "\n  "))
	return wrong
}
