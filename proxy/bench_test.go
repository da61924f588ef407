package proxy

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// discard is a response writer that costs nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

type nowhere struct{}

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) Sync() error                 { return nil }

// BenchmarkWarmManifest is the whole handler, records encoded but not written.
func BenchmarkWarmManifest(b *testing.B) {
	for _, by := range []string{"tag", "digest"} {
		b.Run(by, func(b *testing.B) {
			w := newWorld(b, false)
			w.proxy.records = zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), nowhere{}, zap.InfoLevel))
			w.proxy.tags.fresh = longLived()
			ref := "v1"
			image := w.signed(ref, []byte("x"))
			if by == "digest" {
				ref = image.Digest.String()
			}
			w.manifest(ref)
			r := httptest.NewRequest("GET", "/v2/"+app+"/manifests/"+ref, nil)
			b.ReportAllocs()
			for b.Loop() {
				w.proxy.ServeHTTP(discard{http.Header{}}, r)
			}
		})
	}
}
