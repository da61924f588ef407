package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxJSONDepth bounds nesting. Manifests nest four levels deep, in-toto
// predicates about a dozen.
const maxJSONDepth = 64

// CheckJSON reports whether body is exactly one JSON document that every
// parser reads alike: valid UTF-8, no object with two keys that are equal when
// case is folded, nothing after the document, nesting bounded. encoding/json
// takes the last of duplicate keys and matches keys without regard to case;
// other parsers do not, and a document that means two things is refused
// (GHSA-7w47 and the CVE-2021-41190 family).
//
// Keys below a key "annotations" are names of the author's choice: there only
// exact duplicates are refused.
func CheckJSON(body []byte) error { return checkJSON(body, nil) }

// checkJSON also refuses a key that equals one of exact but for its case.
func checkJSON(body []byte, exact []string) error {
	if !utf8.Valid(body) {
		return errors.New("it is not valid UTF-8")
	}
	c := jsonChecker{dec: json.NewDecoder(bytes.NewReader(body)), exact: exact}
	c.dec.UseNumber()
	if err := c.value(0, false); err != nil {
		return err
	}
	if _, err := c.dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data follows the JSON document")
	}
	return nil
}

type jsonChecker struct {
	dec   *json.Decoder
	exact []string
}

// value consumes one value. Below annotations keys are free: only exact
// duplicates are refused.
func (c *jsonChecker) value(depth int, free bool) error {
	if depth > maxJSONDepth {
		return fmt.Errorf("JSON is nested more than %d deep", maxJSONDepth)
	}
	t, err := c.dec.Token()
	if err != nil {
		return errNotJSON
	}
	if n, ok := t.(json.Number); ok {
		// Beyond a double some parsers read infinity, some fail.
		if _, err := n.Float64(); err != nil {
			return errors.New("a number is out of range")
		}
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for c.dec.More() {
		freeBelow := free
		if delim == '{' {
			key, err := c.key(seen, free)
			if err != nil {
				return err
			}
			freeBelow = free || key == "annotations"
		}
		if err := c.value(depth+1, freeBelow); err != nil {
			return err
		}
	}
	if _, err := c.dec.Token(); err != nil {
		return errNotJSON
	}
	return nil
}

func (c *jsonChecker) key(seen map[string]bool, free bool) (string, error) {
	t, err := c.dec.Token()
	if err != nil {
		return "", errNotJSON
	}
	key := t.(string)
	same := key
	if !free {
		same = foldKey(key)
	}
	if seen[same] {
		return "", errors.New("an object has the same key twice")
	}
	seen[same] = true
	for _, e := range c.exact {
		if !free && key != e && strings.EqualFold(key, e) {
			return "", fmt.Errorf("the key %q is written in another case", e)
		}
	}
	return key, nil
}

var errNotJSON = errors.New("it is not valid JSON")

// foldKey maps a key as encoding/json does when it matches struct fields:
// each rune becomes the smallest of its simple-fold orbit.
func foldKey(k string) string {
	return strings.Map(func(r rune) rune {
		orbit := []rune{r}
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			orbit = append(orbit, f)
		}
		return slices.Min(orbit)
	}, k)
}
