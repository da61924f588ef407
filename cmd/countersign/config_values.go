package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

const (
	// maxFile bounds a file that the configuration names: the longest are
	// lists of pinned digests, of which 8 MiB hold some sixty thousand.
	maxFile = 8 << 20
	// maxDays bounds durations to what time.Duration can hold.
	maxDays = 36_500
)

var (
	daysGrammar = regexp.MustCompile(`^([0-9]{1,6})d(.*)$`)
	sizeGrammar = regexp.MustCompile(`^([0-9]{1,19})(B|KB|KiB|MB|MiB|GB|GiB|TB|TiB)$`)
)

// parseDuration reads a duration as Go writes it, or in days: "30d", "1d12h".
func parseDuration(s string) (time.Duration, error) {
	days, rest := 0, s
	if m := daysGrammar.FindStringSubmatch(s); m != nil {
		days, _ = strconv.Atoi(m[1])
		rest = m[2]
	}
	var d time.Duration
	if rest != "" || rest == s {
		var err error
		if d, err = time.ParseDuration(rest); err != nil {
			return 0, fmt.Errorf("%s is not a duration: write one like 30s, 15m, 24h or 30d", quote(s))
		}
	}
	if days > maxDays || d < 0 || d > maxDays*24*time.Hour {
		return 0, fmt.Errorf("%s is out of range: write one between 0s and %dd", quote(s), maxDays)
	}
	return d + time.Duration(days)*24*time.Hour, nil
}

// formatDuration writes a duration as parseDuration reads it, in days if it is
// whole days.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return d.String()
}

// parsePositiveDuration is for what must not be 0: it would mean the default.
func parsePositiveDuration(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err == nil && d == 0 {
		return 0, errors.New("the duration is 0: write a longer one, or remove the key for the default")
	}
	return d, err
}

// units are those of sizeGrammar, the largest first.
var units = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"TB", 1e12}, {"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"KB", 1e3}, {"B", 1},
}

// parseSize reads a number of bytes with its unit, like 50GiB.
func parseSize(s string) (int64, error) {
	m := sizeGrammar.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%s is not a size: write a whole number with a unit, like 50GiB or 800MB", quote(s))
	}
	unit := int64(1)
	for _, u := range units {
		if u.name == m[2] {
			unit = u.bytes
		}
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n == 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%s is out of range: write a size of at least 1B and less than 8000000TiB", quote(s))
	}
	return n * unit, nil
}

// formatSize writes a size as parseSize reads it, in the largest unit of which
// it is a whole number.
func formatSize(n int64) string {
	for _, u := range units {
		if n%u.bytes == 0 && n > 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return "0B"
}

// parseCount reads a whole number from 1 upwards.
func parseCount(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%s is not a number from 1 upwards: write one, without unit or separators", quote(s))
	}
	return n, nil
}

// parseAddress reads host:port. An empty host is every address of this machine.
func parseAddress(s string) (string, error) {
	_, port, err := net.SplitHostPort(s)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return "", fmt.Errorf("%s is not an address: write host:port with a numeric port, like 127.0.0.1:5000", quote(s))
	}
	return s, nil
}

// isLoopback reports whether an address is reached from this machine only.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// parseStart reads a time, or a date that stands for its first moment in UTC.
func parseStart(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, fmt.Errorf("%s is not a date: write 2027-01-31 or 2027-01-31T18:00:00Z", quote(s))
	}
	return t.UTC(), nil
}

// parseEnd reads a time, or a date that stands for its last moment in UTC.
func parseEnd(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.Add(24*time.Hour - time.Nanosecond), nil
	}
	return parseStart(s)
}

// filePath makes a path of the configuration absolute or relative to the
// working directory: in the file it is relative to the file.
func (r *reader) filePath(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(r.dir, path)
}

// read returns the file that a key names. The path is empty if there is none,
// the body nil if it could not be read, which is reported.
func (s *section) read(key string) (path string, body []byte) {
	path = s.filePath(s.text(key))
	if path == "" {
		return "", nil
	}
	body, err := readFile(path, maxFile)
	if err != nil {
		s.wrong(key, "%v: write a path that this user can read, relative to the configuration file", err)
		return path, nil
	}
	if len(body) == 0 {
		s.wrong(key, "%s is empty: write what belongs there", path)
		return path, nil
	}
	return path, body
}

// readFile reads a regular file of at most limit bytes. It looks before it
// opens: opening a pipe would wait for its other end.
func readFile(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fileError(path, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fileError(path, err)
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, fileError(path, err)
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return body, nil
}

// fileError says the path once, before the cause.
func fileError(path string, err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("%s: %w", path, err)
}
