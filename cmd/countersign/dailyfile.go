package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// maxPerDay bounds the files of one day: there is a second one only after the
// clock was set back.
const maxPerDay = 100

// dailyFile is an append-only file that is renamed to NAME-YYYY-MM-DD.EXT when
// its day (UTC) ends. Files older than keep are removed.
type dailyFile struct {
	path string
	keep time.Duration

	mu   sync.Mutex
	f    *os.File
	ends time.Time
}

func openDailyFile(path string, keep time.Duration) (*dailyFile, error) {
	d := &dailyFile{path: path, keep: keep}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("opening the decision log: %w", err)
	}
	if info, err := os.Stat(path); err == nil && day(info.ModTime()) != day(time.Now()) {
		if err := d.putAway(info.ModTime()); err != nil {
			return nil, fmt.Errorf("putting away the decision log of an earlier day: %w", err)
		}
	}
	if err := errors.Join(d.open(), d.prune()); err != nil {
		return nil, fmt.Errorf("opening the decision log: %w", err)
	}
	return d, nil
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func (d *dailyFile) open() error {
	f, err := os.OpenFile(d.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	d.f, d.ends = f, time.Now().UTC().Truncate(24*time.Hour).Add(24*time.Hour)
	return nil
}

// Write appends whole lines.
func (d *dailyFile) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !time.Now().Before(d.ends) {
		// Yesterday's file stays open if it cannot be put away: no record is lost.
		if err := d.putAway(d.ends.Add(-time.Second)); err != nil {
			return 0, err
		}
		if err := errors.Join(d.f.Close(), d.open(), d.prune()); err != nil {
			return 0, err
		}
	}
	return d.f.Write(p)
}

// putAway renames the file to that of a day, never over another one.
func (d *dailyFile) putAway(t time.Time) error {
	for i := range maxPerDay {
		name := d.dated(day(t))
		if i > 0 {
			name = d.dated(fmt.Sprintf("%s.%d", day(t), i))
		}
		if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return os.Rename(d.path, name)
		}
	}
	return fmt.Errorf("%s and %d more exist already", d.dated(day(t)), maxPerDay-1)
}

func (d *dailyFile) prune() error {
	old, err := filepath.Glob(d.dated("????-??-??*"))
	if err != nil {
		return err
	}
	for _, name := range old {
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > d.keep {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *dailyFile) dated(when string) string {
	ext := filepath.Ext(d.path)
	return strings.TrimSuffix(d.path, ext) + "-" + when + ext
}

func (d *dailyFile) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	// Every line has been handed to the system; there is nothing left to lose.
	_ = d.f.Close()
}
