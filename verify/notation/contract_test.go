package notation

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"crypto/x509"

	"github.com/notaryproject/notation-core-go/signature"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/verifytest"
)

func TestContractJWS(t *testing.T)  { verifytest.Run(t, harness(t, typeJWS)) }
func TestContractCOSE(t *testing.T) { verifytest.Run(t, harness(t, typeCOSE)) }

func harness(t *testing.T, format string) verifytest.Harness {
	ca, otherCA := issue(t, nil, nil), issue(t, nil, nil)
	leaf, stranger := issue(t, ca, nil), issue(t, otherCA, nil)
	old := issue(t, ca, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	future := issue(t, ca, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
	c := configOf(ca)
	with := func(t *testing.T, envelope []byte, want ...verify.Reason) verifytest.Case {
		src := verifytest.NewSource()
		if envelope != nil {
			attach(t, src, image(1), format, envelope)
		}
		return verifytest.Case{Verifier: newVerifier(t, c, src), Subject: image(1), Want: want}
	}
	good := leaf.sign(t, format, payload(image(1)), nil)
	return verifytest.Harness{
		Signed:   func(t *testing.T) verifytest.Case { return with(t, good) },
		Unsigned: func(t *testing.T) verifytest.Case { return with(t, nil, verify.Unsigned) },
		OtherKey: func(t *testing.T) verifytest.Case {
			return with(t, stranger.sign(t, format, payload(image(1)), nil), verify.UntrustedSigner)
		},
		OtherDigest: func(t *testing.T) verifytest.Case {
			return with(t, leaf.sign(t, format, payload(image(2)), nil), verify.DigestMismatch)
		},
		PayloadChanged: func(t *testing.T) verifytest.Case {
			return with(t, changePayload(t, format, leaf), verify.BadSignature)
		},
		Truncated: func(t *testing.T) verifytest.Case { return with(t, good[:len(good)/2], verify.Malformed) },
		Expired: func(t *testing.T) verifytest.Case {
			return with(t, old.sign(t, format, payload(image(1)), nil), verify.Expired)
		},
		NotYetValid: func(t *testing.T) verifytest.Case {
			return with(t, future.sign(t, format, payload(image(1)), nil), verify.Expired)
		},
		UnknownCritical: func(t *testing.T) verifytest.Case {
			return with(t, leaf.sign(t, format, payload(image(1)), func(r *signature.SignRequest) {
				r.ExtendedSignedAttributes = []signature.Attribute{{Key: "test.unknown", Critical: true, Value: "x"}}
			}), verify.Malformed)
		},
		Thousand: func(t *testing.T) verifytest.Case {
			src := verifytest.NewSource()
			for i := range 1000 {
				attach(t, src, image(1), format, stranger.sign(t, format, payload(image(i+2)), nil))
			}
			return verifytest.Case{Verifier: newVerifier(t, c, src), Subject: image(1), Undecided: true}
		},
		SourceDown: func(t *testing.T) verifytest.Case {
			src := verifytest.NewSource()
			src.Down(errors.New("out of reach"))
			return verifytest.Case{Verifier: newVerifier(t, c, src), Subject: image(1), Undecided: true}
		},
		Flipped: func(t *testing.T, i int) (verifytest.Case, bool) {
			flipped, ok := flip(t, format, good, i)
			return with(t, flipped), ok
		},
		Impossible: map[string]string{"SameKeyTwice": "one signature is enough; a threshold over signers is the rule's"},
	}
}

// changePayload puts the payload of image 1 under the signature of image 2.
func changePayload(t *testing.T, format string, leaf *authority) []byte {
	about2 := leaf.sign(t, format, payload(image(2)), nil)
	if format == typeCOSE {
		return replaceOnce(t, about2, []byte(image(2).Digest.Encoded()), []byte(image(1).Digest.Encoded()))
	}
	var env map[string]any
	if err := json.Unmarshal(about2, &env); err != nil {
		t.Fatal(err)
	}
	env["payload"] = base64.RawURLEncoding.EncodeToString(payload(image(1)))
	return encode(t, env)
}

// flip flips bit i of the signature value.
func flip(t *testing.T, format string, envelope []byte, i int) ([]byte, bool) {
	if format == typeCOSE {
		// The signature is the last item of the array.
		if i >= 64*8 {
			return nil, false
		}
		out := append([]byte(nil), envelope...)
		out[len(out)-1-i/8] ^= 1 << (i % 8)
		return out, true
	}
	var env map[string]any
	if err := json.Unmarshal(envelope, &env); err != nil {
		t.Fatal(err)
	}
	sig, err := base64.RawURLEncoding.DecodeString(env["signature"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if i >= 8*len(sig) {
		return nil, false
	}
	sig[i/8] ^= 1 << (i % 8)
	env["signature"] = base64.RawURLEncoding.EncodeToString(sig)
	return encode(t, env), true
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}
