package notary

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// maxName bounds GUNs and role names; notary's database has 255 characters.
const maxName = 255

// Names become paths of URLs and keys of the state: nothing that a path or an
// escape could be hidden in gets past these. The GUN is a registry's host,
// with port or not, and a repository name of the OCI grammar.
var (
	gunPattern = regexp.MustCompile(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?` +
		`(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)+$`)
	rolePattern = regexp.MustCompile(`^targets(?:/[-a-z0-9_]+)*$`)
	filePattern = regexp.MustCompile(`^(?:([1-9][0-9]{0,15})\.)?([-a-z0-9_/]+?)(?:\.([0-9a-f]{64}))?\.json$`)
)

func checkGUN(gun string) error {
	if len(gun) > maxName || !gunPattern.MatchString(gun) {
		return fmt.Errorf("%.80q is not a repository with its registry's host", gun)
	}
	return nil
}

// validRole reports whether name is targets or a delegation's name.
func validRole(name string) bool { return len(name) <= maxName && rolePattern.MatchString(name) }

func parentRole(name string) string { return path.Dir(name) }

// fileName is a name below _trust/tuf/: role.json, role.<sha256>.json or
// N.root.json.
type fileName struct {
	version string
	role    string
	sum     string
}

func parseFileName(name string) (fileName, bool) {
	if len(name) > 2*maxName {
		return fileName{}, false
	}
	m := filePattern.FindStringSubmatch(name)
	if m == nil {
		return fileName{}, false
	}
	f := fileName{version: m[1], role: m[2], sum: m[3]}
	switch f.role {
	case roleRoot:
		return f, f.version == "" || f.sum == ""
	case roleTimestamp, roleSnapshot:
		return f, f.version == ""
	}
	return f, f.version == "" && validRole(f.role)
}

// permits reports whether a role with these path prefixes may speak for tag.
func permits(paths []string, tag string) bool {
	for _, p := range paths {
		if strings.HasPrefix(tag, p) {
			return true
		}
	}
	return false
}

// restrict returns those of a child's prefixes that lie within the parent's.
func restrict(parent, child []string) []string {
	var out []string
	for _, p := range child {
		if permits(parent, p) {
			out = append(out, p)
		}
	}
	return out
}
