package notary

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds nesting. Metadata nests six levels deep; the rest is room
// for a target's "custom".
const maxDepth = 32

// maxInteger is the largest integer that every JSON reader holds exactly. The
// reference passes numbers through float64 and signs what comes out.
const maxInteger = 1<<53 - 1

// object is a JSON object without duplicate keys. Other values are []any,
// string, int64, bool and nil.
type object map[string]any

var errSyntax = errors.New("it is not valid JSON")

// parseJSON reads exactly one JSON value in which nothing can be read in two
// ways: no duplicate keys, no floats, no integers beyond 2^53, no unpaired
// surrogates, no invalid UTF-8, nothing after the value.
func parseJSON(body []byte) (any, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("it is not valid UTF-8")
	}
	p := parser{in: body}
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.at != len(p.in) {
		return nil, errors.New("data follows the JSON document")
	}
	return v, nil
}

type parser struct {
	in []byte
	at int
}

func (p *parser) space() {
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// next consumes c if it is the next byte after white space.
func (p *parser) next(c byte) bool {
	p.space()
	if p.at < len(p.in) && p.in[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	p.space()
	if p.at == len(p.in) {
		return nil, errSyntax
	}
	switch c := p.in[p.at]; {
	case c == '{':
		return p.object(depth)
	case c == '[':
		return p.array(depth)
	case c == '"':
		return p.string()
	case c == '-' || c >= '0' && c <= '9':
		return p.integer()
	}
	return p.word()
}

func (p *parser) word() (any, error) {
	for _, w := range [...]struct {
		text  string
		value any
	}{{"true", true}, {"false", false}, {"null", nil}} {
		if bytes.HasPrefix(p.in[p.at:], []byte(w.text)) {
			p.at += len(w.text)
			return w.value, nil
		}
	}
	return nil, errSyntax
}

func (p *parser) object(depth int) (any, error) {
	p.at++
	o := object{}
	if p.next('}') {
		return o, nil
	}
	for {
		p.space()
		if p.at == len(p.in) || p.in[p.at] != '"' {
			return nil, errSyntax
		}
		key, err := p.string()
		if err != nil {
			return nil, err
		}
		if _, ok := o[key]; ok {
			return nil, errors.New("an object has the same key twice")
		}
		if !p.next(':') {
			return nil, errSyntax
		}
		if o[key], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if p.next('}') {
			return o, nil
		}
		if !p.next(',') {
			return nil, errSyntax
		}
	}
}

func (p *parser) array(depth int) (any, error) {
	p.at++
	a := []any{}
	if p.next(']') {
		return a, nil
	}
	for {
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		a = append(a, v)
		if p.next(']') {
			return a, nil
		}
		if !p.next(',') {
			return nil, errSyntax
		}
	}
}

// string reads a string; p.at is at its opening quote.
func (p *parser) string() (string, error) {
	p.at++
	start := p.at
	for ; p.at < len(p.in); p.at++ {
		switch c := p.in[p.at]; {
		case c == '"':
			p.at++
			return string(p.in[start : p.at-1]), nil
		case c == '\\':
			return p.escaped(slices.Clone(p.in[start:p.at]))
		case c < ' ':
			return "", errSyntax
		}
	}
	return "", errSyntax
}

// escaped reads the rest of a string that has escapes.
func (p *parser) escaped(out []byte) (string, error) {
	for p.at < len(p.in) {
		c := p.in[p.at]
		p.at++
		switch {
		case c == '"':
			return string(out), nil
		case c < ' ':
			return "", errSyntax
		case c != '\\':
			out = append(out, c)
			continue
		}
		if p.at == len(p.in) {
			return "", errSyntax
		}
		c = p.in[p.at]
		p.at++
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b', 'f', 'n', 'r', 't':
			out = append(out, map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}[c])
		case 'u':
			r, err := p.unicode()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", errSyntax
		}
	}
	return "", errSyntax
}

// unicode reads the four digits after \u and, for a surrogate, its partner.
func (p *parser) unicode() (rune, error) {
	r, err := p.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if len(p.in)-p.at < 2 || p.in[p.at] != '\\' || p.in[p.at+1] != 'u' {
		return 0, errors.New("a string has half a surrogate pair")
	}
	p.at += 2
	low, err := p.hex4()
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, errors.New("a string has half a surrogate pair")
	}
	return r, nil
}

func (p *parser) hex4() (rune, error) {
	if len(p.in)-p.at < 4 {
		return 0, errSyntax
	}
	n, err := strconv.ParseUint(string(p.in[p.at:p.at+4]), 16, 16)
	if err != nil {
		return 0, errSyntax
	}
	p.at += 4
	return rune(n), nil
}

func (p *parser) integer() (any, error) {
	start := p.at
	for p.at < len(p.in) && (p.in[p.at] == '-' || p.in[p.at] >= '0' && p.in[p.at] <= '9') {
		p.at++
	}
	if p.at < len(p.in) && (p.in[p.at] == '.' || p.in[p.at] == 'e' || p.in[p.at] == 'E') {
		return nil, errors.New("a number is not an integer")
	}
	text := string(p.in[start:p.at])
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n > maxInteger || n < -maxInteger {
		return nil, errors.New("an integer is out of range")
	}
	if strconv.FormatInt(n, 10) != text {
		return nil, errSyntax
	}
	return n, nil
}

// appendCanonical appends the canonical form of a parsed value: keys sorted by
// bytes, no white space, in strings only the quote and the backslash escaped,
// all else as it is, control characters too (OLPC canonical JSON, as
// docker/go/canonical/json writes it).
func appendCanonical(out []byte, v any) []byte {
	switch v := v.(type) {
	case object:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		out = append(out, '{')
		for i, k := range keys {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendString(out, k), ':')
			out = appendCanonical(out, v[k])
		}
		return append(out, '}')
	case []any:
		out = append(out, '[')
		for i, e := range v {
			if i > 0 {
				out = append(out, ',')
			}
			out = appendCanonical(out, e)
		}
		return append(out, ']')
	case string:
		return appendString(out, v)
	case int64:
		return strconv.AppendInt(out, v, 10)
	case bool:
		return strconv.AppendBool(out, v)
	}
	return append(out, "null"...)
}

func appendString(out []byte, s string) []byte {
	out = append(out, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			out = append(out, '\\')
		}
		out = append(out, s[i])
	}
	return append(out, '"')
}
