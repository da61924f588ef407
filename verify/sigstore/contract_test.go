package sigstore

import (
	"errors"
	"fmt"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/countersign/countersign/verify"
	"github.com/countersign/countersign/verify/verifytest"
)

func TestContractLegacy(t *testing.T) {
	verifytest.Run(t, harness(t, func(t *testing.T, s *signer, src *verifytest.Source, subject verify.Subject, payload, sig []byte) {
		putLegacy(t, src, subject, layer(src, payload, sig))
	}, func(subject verify.Subject) []byte { return []byte(payloadOf(subject.Digest)) },
		func(payload []byte) []byte { return payload },
		func(subject verify.Subject) []byte {
			return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature","new":1},"optional":null}`, subject.Digest)
		}))
}

func TestContractBundle(t *testing.T) {
	h := harness(t, func(t *testing.T, s *signer, src *verifytest.Source, subject verify.Subject, payload, sig []byte) {
		body := s.bundle(t, bundleV03, map[string]any{"dsseEnvelope": map[string]any{"payload": payload, "payloadType": payloadInToto,
			"signatures": []any{map[string]any{"sig": sig}}}})
		putBundle(t, src, subject, body, nil)
	}, func(subject verify.Subject) []byte { return statement(subject.Digest, predicateSign) },
		func(payload []byte) []byte {
			return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadInToto), payloadInToto, len(payload), payload)
		}, nil)
	h.UnknownCritical = nil
	h.Impossible = map[string]string{"UnknownCritical": "neither bundles nor in-toto statements have critical fields"}
	verifytest.Run(t, h)
}

// put stores a signature made of its parts.
type put func(t *testing.T, s *signer, src *verifytest.Source, subject verify.Subject, payload, sig []byte)

// harness is the contract for one format: payload is what is signed about a
// subject, encode what the key really signs.
func harness(t *testing.T, put put, payload func(verify.Subject) []byte, encode func([]byte) []byte, critical func(verify.Subject) []byte) verifytest.Harness {
	team, stranger := newSigner(t, "p256"), newSigner(t, "p256")
	sign := func(t *testing.T, s *signer, src *verifytest.Source, subject, about verify.Subject) {
		p := payload(about)
		put(t, s, src, subject, p, s.sign(t, encode(p)))
	}
	with := func(t *testing.T, k Key, want []verify.Reason, fill func(src *verifytest.Source, subject verify.Subject)) verifytest.Case {
		src := verifytest.NewSource()
		fill(src, image(1))
		return verifytest.Case{Verifier: trusting(t, src, 0, k), Subject: image(1), Want: want}
	}
	one := func(reason ...verify.Reason) []verify.Reason { return reason }
	signedCase := func(t *testing.T) verifytest.Case {
		return with(t, team.key("team"), nil, func(src *verifytest.Source, s verify.Subject) { sign(t, team, src, s, s) })
	}
	windowed := func(from, to time.Time) func(*testing.T) verifytest.Case {
		return func(t *testing.T) verifytest.Case {
			k := team.key("team")
			k.NotBefore, k.NotAfter = from, to
			return with(t, k, one(verify.Expired), func(src *verifytest.Source, s verify.Subject) { sign(t, team, src, s, s) })
		}
	}
	return verifytest.Harness{
		Signed: signedCase,
		Unsigned: func(t *testing.T) verifytest.Case {
			return with(t, team.key("team"), one(verify.Unsigned), func(*verifytest.Source, verify.Subject) {})
		},
		OtherKey: func(t *testing.T) verifytest.Case {
			return with(t, team.key("team"), one(verify.UntrustedSigner), func(src *verifytest.Source, s verify.Subject) { sign(t, stranger, src, s, s) })
		},
		OtherDigest: func(t *testing.T) verifytest.Case {
			return with(t, team.key("team"), one(verify.DigestMismatch), func(src *verifytest.Source, s verify.Subject) { sign(t, team, src, s, image(2)) })
		},
		PayloadChanged: func(t *testing.T) verifytest.Case {
			return with(t, team.key("team"), one(verify.UntrustedSigner, verify.BadSignature), func(src *verifytest.Source, s verify.Subject) {
				put(t, team, src, s, payload(s), team.sign(t, encode(payload(image(2)))))
			})
		},
		Truncated: func(t *testing.T) verifytest.Case {
			return with(t, team.key("team"), one(verify.UntrustedSigner, verify.BadSignature, verify.Malformed), func(src *verifytest.Source, s verify.Subject) {
				p := payload(s)
				sig := team.sign(t, encode(p))
				put(t, team, src, s, p[:len(p)/2], sig)
			})
		},
		Expired:     windowed(time.Time{}, time.Now().Add(-time.Minute)),
		NotYetValid: windowed(time.Now().Add(time.Hour), time.Time{}),
		SameKeyTwice: func(t *testing.T) verifytest.Case {
			src := verifytest.NewSource()
			sign(t, team, src, image(1), image(1))
			sign(t, team, src, image(1), image(1))
			return verifytest.Case{Verifier: trusting(t, src, 2, team.key("team"), stranger.key("other")), Subject: image(1), Want: one(verify.BelowThreshold)}
		},
		UnknownCritical: func(t *testing.T) verifytest.Case {
			return with(t, team.key("team"), one(verify.Malformed), func(src *verifytest.Source, s verify.Subject) {
				p := critical(s)
				put(t, team, src, s, p, team.sign(t, encode(p)))
			})
		},
		Thousand: func(t *testing.T) verifytest.Case {
			src := verifytest.NewSource()
			for i := range 1000 {
				p := payload(image(i + 2))
				d := src.PutManifest(t, ocispec.Manifest{Config: src.Put(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, "%d", i)),
					Layers: []ocispec.Descriptor{layer(src, p, stranger.sign(t, p))}})
				src.List(repository, image(1).Digest, d)
			}
			return verifytest.Case{Verifier: trusting(t, src, 0, team.key("team")), Subject: image(1), Undecided: true}
		},
		SourceDown: func(t *testing.T) verifytest.Case {
			c := with(t, team.key("team"), nil, func(src *verifytest.Source, _ verify.Subject) { src.Down(errors.New("out of reach")) })
			c.Undecided = true
			return c
		},
		Flipped: flipper(t, team, put, payload, encode),
	}
}

// flipper flips each bit of a signature once.
func flipper(t *testing.T, team *signer, put put, payload func(verify.Subject) []byte, encode func([]byte) []byte) func(*testing.T, int) (verifytest.Case, bool) {
	p := payload(image(1))
	sig := team.sign(t, encode(p))
	return func(t *testing.T, i int) (verifytest.Case, bool) {
		if i >= 8*len(sig) {
			return verifytest.Case{}, false
		}
		flipped := append([]byte(nil), sig...)
		flipped[i/8] ^= 1 << (i % 8)
		src := verifytest.NewSource()
		put(t, team, src, image(1), p, flipped)
		return verifytest.Case{Verifier: trusting(t, src, 0, team.key("team")), Subject: image(1)}, true
	}
}
