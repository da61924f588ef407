package cache

import (
	"strings"
	"testing"

	storagedriver "github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
)

// FuzzDigestPath: a digest that is accepted becomes one path below the blobs,
// of a form that every driver takes, and no two become the same.
func FuzzDigestPath(f *testing.F) {
	for _, s := range []string{"sha256:" + strings.Repeat("0a", 32), "sha512:" + strings.Repeat("0a", 64),
		"sha256:../../etc/passwd", "sha256:" + strings.Repeat("A", 64), "sha256:" + strings.Repeat("a", 63) + "/", "md5:00", ":", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d := digest.Digest(s)
		if checkDigest(d) != nil {
			return
		}
		p := blobPath(d)
		parts := strings.Split(strings.TrimPrefix(p, blobsPath+"/"), "/")
		if !storagedriver.PathRegexp.MatchString(p) || len(parts) != 4 || strings.Contains(p, "..") {
			t.Fatalf("%q became %q", s, p)
		}
		if back := parts[0] + ":" + parts[2]; back != s {
			t.Fatalf("%q became the path of %q", s, back)
		}
	})
}
