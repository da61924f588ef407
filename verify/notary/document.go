package notary

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"
)

// document is what all roles have in common.
type document struct {
	role       string
	raw        []byte
	sum        [sha256.Size]byte
	message    []byte // canonical form of "signed"
	signatures []signature
	signed     object
	version    int64
	expires    time.Time
}

type signature struct {
	keyID, method string
	value         []byte
}

// asObject returns v as an object that has no key which equals one of known
// but for its case; with no known keys any object will do. encoding/json in
// the reference takes "Version" for "version".
func asObject(v any, known ...string) (object, error) {
	o, ok := v.(object)
	if !ok {
		return nil, errors.New("an object is missing or is something else")
	}
	for k := range o {
		for _, n := range known {
			if k != n && strings.EqualFold(k, n) {
				return nil, fmt.Errorf("the key %q is written in another case", n)
			}
		}
	}
	return o, nil
}

func (o object) string(name string) (string, error) {
	s, ok := o[name].(string)
	if !ok {
		return "", fmt.Errorf("%q is missing or is not a string", name)
	}
	return s, nil
}

func (o object) integer(name string, least int64) (int64, error) {
	n, ok := o[name].(int64)
	if !ok {
		return 0, fmt.Errorf("%q is missing or is not an integer", name)
	}
	if n < least {
		return 0, fmt.Errorf("%q is less than %d", name, least)
	}
	return n, nil
}

// list returns a list. An absent one or null is empty: that is how notary
// writes the keys of a role whose last signer was removed.
func (o object) list(name string, most int) ([]any, error) {
	if o[name] == nil {
		return nil, nil
	}
	l, ok := o[name].([]any)
	if !ok {
		return nil, fmt.Errorf("%q is not a list", name)
	}
	if len(l) > most {
		return nil, fmt.Errorf("%q has more than %d entries", name, most)
	}
	return l, nil
}

// names returns a list of strings.
func (o object) names(name string) ([]string, error) {
	l, err := o.list(name, maxRoles)
	if err != nil {
		return nil, err
	}
	out := make([]string, len(l))
	for i, v := range l {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%q holds something that is not a string", name)
		}
		out[i] = s
	}
	return out, nil
}

// parseDocument reads the envelope and the common fields of a role.
func parseDocument(role, kind string, raw []byte) (document, error) {
	d := document{role: role, raw: raw, sum: sha256.Sum256(raw)}
	v, err := parseJSON(raw)
	if err != nil {
		return d, err
	}
	envelope, err := asObject(v, "signed", "signatures")
	if err != nil {
		return d, err
	}
	if len(envelope) != 2 {
		return d, errors.New("it is not made of \"signed\" and \"signatures\"")
	}
	if d.signatures, err = parseSignatures(envelope); err != nil {
		return d, err
	}
	d.signed, err = asObject(envelope["signed"], "_type", "version", "expires", "keys", "roles", "consistent_snapshot",
		"meta", "targets", "delegations")
	if err != nil {
		return d, err
	}
	d.message = appendCanonical(make([]byte, 0, len(raw)), d.signed)
	if t, err := d.signed.string("_type"); err != nil || t != kind {
		return d, fmt.Errorf("its type is not %q", kind)
	}
	if d.version, err = d.signed.integer("version", 1); err != nil {
		return d, err
	}
	expires, err := d.signed.string("expires")
	if err != nil {
		return d, err
	}
	if err := d.expires.UnmarshalText([]byte(expires)); err != nil {
		return d, errors.New("\"expires\" is not a time")
	}
	return d, nil
}

func parseSignatures(envelope object) ([]signature, error) {
	list, err := envelope.list("signatures", maxSignatures)
	if err != nil {
		return nil, err
	}
	out := make([]signature, len(list))
	for i, v := range list {
		o, err := asObject(v, "keyid", "method", "sig")
		if err != nil {
			return nil, err
		}
		s := &out[i]
		if s.keyID, err = o.string("keyid"); err != nil {
			return nil, err
		}
		if s.method, err = o.string("method"); err != nil {
			return nil, err
		}
		if s.method != strings.ToLower(s.method) {
			return nil, errors.New("a signature's method is written in another case")
		}
		text, err := o.string("sig")
		if err != nil {
			return nil, err
		}
		if s.value, err = decodeBase64(text); err != nil {
			return nil, err
		}
	}
	return out, nil
}
