package notary

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
)

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":1,"a":[true,false,null,-1,0],"":{}}`:                    `{"":{},"a":[true,false,null,-1,0],"b":1}`,
		" {\t\"a\" :\r\n1 } ":                                         `{"a":1}`,
		`"\u0041\/\b\f\n\r\t\"\\<>&"`:                                 "\"A/\b\f\n\r\t\\\"\\\\<>&\"",
		`"\ud83d\ude00\u2028é"`:                                       "\"😀\u2028é\"",
		`{"\u0000":9007199254740991,"é":-9007199254740991}`:           "{\"\x00\":9007199254740991,\"é\":-9007199254740991}",
		`{"aa":1,"a":2,"B":3,"\u00e9":4,"\uffff":5,"\ud83d\ude00":6}`: "{\"B\":3,\"a\":2,\"aa\":1,\"é\":4,\"\uffff\":5,\"😀\":6}",
		`[]`: `[]`, `{}`: `{}`, `""`: `""`, `0`: `0`,
	} {
		v, err := parseJSON([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := string(appendCanonical(nil, v)); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestNotOneJSON(t *testing.T) {
	for _, in := range []string{``, ` `, `{`, `[`, `"`, `"\`, `"\u`, `"\u12`, `"\x"`, `{"a"}`, `{"a":}`, `{"a":1,}`, `[1,]`, `[1 2]`, `{1:2}`, `tru`, `nul`, `True`,
		`01`, `-`, `--1`, `-0`, `+1`, `1.0`, `1e2`, `1E2`, `.5`, `9007199254740992`, `-9007199254740992`, `99999999999999999999`, `NaN`, `'a'`,
		`1 2`, `{}x`, "{}\x00", `"\ud800"`, `"\ud800\u0041"`, `"\udc00"`, "\"\x01\"", "\"\xff\"", "\ufeff{}", `{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `//`} {
		if v, err := parseJSON([]byte(in)); err == nil {
			t.Errorf("%q: got %v, want an error", in, v)
		}
	}
}

// What we read, encoding/json reads too, and cjson writes it alike.
func FuzzCanonical(f *testing.F) {
	for _, name := range []string{"root.json", "timestamp.json", "snapshot.json", "targets.json", "targets/releases.json"} {
		raw, err := readFixture(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"\u0000":"\ud83d\ude00","a":[-1,{}],"B":null}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := parseJSON(in)
		if err != nil {
			return
		}
		got := appendCanonical(nil, v)
		var other any
		d := json.NewDecoder(bytes.NewReader(in))
		d.UseNumber()
		if err := d.Decode(&other); err != nil {
			t.Fatalf("%q: we read it, encoding/json does not: %v", in, err)
		}
		want, err := cjson.EncodeCanonical(other)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q: got %q, cjson has %q, %v", in, got, want, err)
		}
	})
}
