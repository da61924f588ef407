package notary

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/countersign/countersign/verify"
)

func TestEndlessData(t *testing.T) {
	for _, file := range []string{"root", "timestamp", "snapshot", "targets", releases} {
		w := newWorld(t)
		bounded := fetcherFunc(func(ctx context.Context, gun, name string, most int64) ([]byte, error) {
			raw, err := w.repo.Fetch(ctx, gun, name, most)
			if role, _, _ := strings.Cut(name, "."); role == file {
				return nil, fmt.Errorf("read: %w", ErrTooLarge)
			}
			return raw, err
		})
		w.v = must[*Verifier](t)(New(w.conf, bounded, w.state))
		w.v.now = w.clock
		w.refused("v1", "one", verify.Malformed)
		_ = w.v.Close()
	}
}

type fetcherFunc func(ctx context.Context, gun, name string, most int64) ([]byte, error)

func (f fetcherFunc) Fetch(ctx context.Context, gun, name string, most int64) ([]byte, error) {
	return f(ctx, gun, name, most)
}

func TestBoundsAskedOfTheFetcher(t *testing.T) {
	w := newWorld(t)
	files := w.repo.Files()
	w.v = must[*Verifier](t)(New(w.conf, fetcherFunc(func(ctx context.Context, gun, name string, most int64) ([]byte, error) {
		want := int64(len(files[name]))
		switch {
		case name == "timestamp.json":
			want = maxTimestamp
		case strings.Contains(name, "root"):
			want = maxUnknown
		}
		if most != want {
			t.Errorf("%s: got bound %d, want %d", name, most, want)
		}
		return w.repo.Fetch(ctx, gun, name, most)
	}), w.state))
	w.v.now = w.clock
	defer w.v.Close()
	w.admitted("v1", "one")
}

func TestHugeLengthIsNotAskedFor(t *testing.T) {
	run(t, []attack{{name: "snapshot", want: verify.Malformed, do: editing("timestamp", func(signed map[string]any) {
		signed["meta"].(map[string]any)["snapshot"].(map[string]any)["length"] = int64(maxKnown) + 1
	})}})
}

func TestTooManyOfEverything(t *testing.T) {
	many := func(n int) []any {
		out := make([]any, n)
		for i := range out {
			out[i] = map[string]any{"keyid": "x", "method": "ecdsa", "sig": "AAAA"}
		}
		return out
	}
	run(t, []attack{
		{name: "signatures", want: verify.Malformed, do: editingEnvelope("targets", func(e map[string]any) {
			e["signatures"] = append(e["signatures"].([]any), many(1000)...)
		})},
		{name: "keys", want: verify.Malformed, do: editing("targets", func(signed map[string]any) {
			keys := signed["delegations"].(map[string]any)["keys"].(map[string]any)
			for i := range maxKeys {
				keys[fmt.Sprintf("%064d", i)] = map[string]any{}
			}
		})},
		{name: "roles of several levels", want: verify.Malformed, do: func(t *testing.T, w *world) {
			w.repo.Edit = func(role string, signed map[string]any) {
				if role == "targets" || role == alice {
					d := signed["delegations"].(map[string]any)
					for i := range maxDelegations / 2 {
						d["roles"] = append(d["roles"].([]any), map[string]any{"name": fmt.Sprintf("%s/r%d", role, i), "keyids": []any{}, "threshold": 1})
					}
				}
			}
			republish(t, w)
		}},
		{name: "roles", want: verify.Malformed, do: editing("targets", func(signed map[string]any) {
			d := signed["delegations"].(map[string]any)
			for i := range maxRoles {
				d["roles"] = append(d["roles"].([]any), map[string]any{"name": fmt.Sprintf("targets/r%d", i), "keyids": []any{}, "threshold": 1})
			}
		})},
	})
}

func TestAmbiguousJSON(t *testing.T) {
	replace := func(role, old, new string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			w.repo.Misbehave(func(name string, raw []byte) ([]byte, error) {
				if r, _, _ := strings.Cut(name, "."); r != role {
					return raw, nil
				}
				out := bytes.Replace(raw, []byte(old), []byte(new), 1)
				if old == "" {
					out = append(raw[:len(raw):len(raw)], new...)
				}
				if bytes.Equal(out, raw) {
					return nil, errors.New("the test replaces nothing")
				}
				return out, nil
			})
		}
	}
	for name, edit := range map[string][2]string{
		"duplicate key":          {`"_type":"Timestamp"`, `"_type":"Timestamp","_type":"Timestamp"`},
		"duplicate by escape":    {`"_type":"Timestamp"`, `"_type":"Timestamp","\u005ftype":"Timestamp"`},
		"key in another case":    {`"version"`, `"Version"`},
		"key in two cases":       {`"_type":"Timestamp"`, `"_type":"Timestamp","_Type":"Timestamp"`},
		"float":                  {`"length":`, `"length":1.0e0,"x":`},
		"huge integer":           {`"length":`, `"length":12345678901234567890,"x":`},
		"beyond 2^53":            {`"_type":`, `"x":9007199254740993,"_type":`},
		"trailing data":          {``, ` {}`},
		"trailing garbage":       {``, `x`},
		"half a surrogate":       {`"_type":`, `"x":"\ud800","_type":`},
		"raw control character":  {`"_type":`, "\"x\":\"\n\",\"_type\":"},
		"invalid UTF-8":          {`"_type":`, "\"x\":\"\xff\",\"_type\":"},
		"more in the envelope":   {`{"signatures"`, `{"more":1,"signatures"`},
		"line break in base64":   {`"sig":"`, `"sig":"\n`},
		"signed is null":         {`"signed":{`, `"signed":null,"x":{`},
		"version is a string":    {`"version":`, `"version":"1","x":`},
		"version 0":              {`"version":`, `"version":0,"x":`},
		"expires is not a time":  {`"expires":"2`, `"expires":"x2`},
		"hash of wrong length":   {`"sha256":"`, `"sha256":"AAAA`},
		"negative length":        {`"length":`, `"length":-`},
		"nested without end":     {`"_type":`, `"x":` + strings.Repeat("[", 100_000) + `,"_type":`},
		"not an object":          {`{`, `[{`},
		"signature only":         {`"signed"`, `"signe"`},
		"the panic of v0.7.0":    {`"signed":{`, `"signatures":[{}],"x":{`},
		"another role's type":    {`"Timestamp"`, `"Snapshot"`},
		"type in lower case":     {`"Timestamp"`, `"timestamp"`},
		"signatures are missing": {`"signatures":[{`, `"signatures":{"x":[{`},
	} {
		run(t, []attack{{name: name, want: verify.Malformed, do: replace("timestamp", edit[0], edit[1])}})
	}
}

func TestKeyUnderAnotherID(t *testing.T) {
	run(t, []attack{
		{name: "in root", want: verify.Malformed, do: editing("root", func(signed map[string]any) { misname(signed["keys"]) })},
		{name: "in targets", want: verify.Malformed, do: editing("targets", func(signed map[string]any) {
			misname(signed["delegations"].(map[string]any)["keys"])
		})},
	})
}

func misname(keys any) {
	m := keys.(map[string]any)
	for _, k := range m {
		m[strings.Repeat("0", 64)] = k
		return
	}
}

func TestPublishedPrivateKey(t *testing.T) {
	run(t, []attack{{name: "in targets", want: verify.Malformed, do: editing("targets", func(signed map[string]any) {
		for _, k := range signed["delegations"].(map[string]any)["keys"].(map[string]any) {
			k.(map[string]any)["keyval"].(map[string]any)["private"] = "c2VjcmV0"
		}
	})}})
}

func TestRoleDelegatedTwice(t *testing.T) {
	run(t, []attack{{name: "targets", want: verify.Malformed, do: editing("targets", func(signed map[string]any) {
		d := signed["delegations"].(map[string]any)
		d["roles"] = append(d["roles"].([]any), d["roles"].([]any)...)
	})}})
}

func TestTamperedAfterSigning(t *testing.T) {
	for _, role := range []string{"root", "timestamp", "snapshot", "targets", releases} {
		run(t, []attack{{name: role, want: verify.BadSignature, do: editingEnvelope(role, func(e map[string]any) {
			e["signed"].(map[string]any)["x"] = "y"
		})}})
	}
}

// The hash alone would do; but a length that is wrong is a lie of somebody.
func TestLengthOfMetadataHasToAgree(t *testing.T) {
	for _, by := range []int{-1, 1} {
		run(t, []attack{{name: fmt.Sprint(by), want: verify.DigestMismatch, do: editing("snapshot", func(signed map[string]any) {
			file := signed["meta"].(map[string]any)["targets"].(map[string]any)
			file["length"] = file["length"].(int) + by
		})}})
	}
}
