//go:build !linux

package cache

import (
	"errors"
	"os"
)

// unnamedFile is for Linux alone; elsewhere transfers have names.
func unnamedFile(string) (*os.File, error) { return nil, errors.ErrUnsupported }

func nameFile(*os.File, string) error { return errors.ErrUnsupported }
