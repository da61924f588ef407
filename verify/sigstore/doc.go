// Package sigstore vouches for images that were signed with Sigstore's tools:
// cosign's legacy signatures and Sigstore bundles, by static public keys.
//
// # What it proves
//
// That the holders of at least Config.AtLeast distinct trusted keys signed a
// statement that names the subject's digest and says "this is a signature of
// it". It proves nothing about the tag or the repository: these formats bind
// digests only (cosign ignores docker-reference, bundles carry no name), so a
// signature holds wherever the same digest lies. It does not prove that an
// image is the newest one.
//
// # Formats
//
//   - Legacy (cosign SIGNATURE_SPEC.md): at the tag sha256-<hex>.sig, or as an
//     OCI 1.1 referrer, a manifest with one layer a signature. The layer is the
//     simple signing payload, an annotation holds the signature over it. The
//     payload's type and docker-manifest-digest are checked.
//   - Bundles v0.1 to v0.3 (protobuf-specs v0.5.2), as referrers with one layer,
//     verified by sigstore-go. A DSSE envelope must hold an in-toto statement
//     whose subject is the image and whose predicate type is
//     https://sigstore.dev/cosign/sign/v1: a signed bill of materials or
//     provenance is not a signature of the image. A message signature must be
//     over the digest itself.
//
// Candidates are found through verify.Source.Referrers, and what they are is
// told from their own bytes: artifact types and annotations of a listing are
// labels of anybody's choice.
//
// # What it trusts
//
// The configured keys within their validity windows, and the clock for those.
// Without a transparency log or a timestamp nobody knows when a signature was
// made, so a window is held against the present, and a stolen key is not
// noticed: this is why Config.TransparencyLog must say "optional" in words.
//
// # Limits
//
// 512 candidates of an image, 256 layers of a legacy manifest, 64 KiB a legacy
// payload, 16 MiB a bundle, 64 MiB in all.
package sigstore
