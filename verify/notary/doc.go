// Package notary verifies Docker Content Trust: Notary v1 metadata, which
// binds a tag of a repository to a manifest's digest and length, with
// freshness and rollback protection. It is a strict reader of the format that
// notary v0.7.0 and the docker CLI write; there is no other specification.
//
// # What it proves
//
// For a pull by tag: that the repository's publishers said, in metadata that
// is current and has not been rolled back, that this tag means exactly this
// digest and this length. For a pull by digest: that some tag of an accepted
// role means it. With Config.Signers: that k of the named signer roles said
// so too, with k different keys.
//
// # What it does not prove
//
// Who pushed the image, what is in it, or that a newer image does not exist
// beyond what the metadata says. A server that is cut off is noticed only when
// the cached metadata expires, two weeks by default (freeze).
//
// # What it trusts
//
// The pins of Config.Pin, the State (it remembers the highest versions, and
// with Pin.FirstUse the root), and the clock. It does not trust the server,
// the network or the Fetcher.
//
// # The chain
//
// A repository is named by its GUN, verify.Subject.Name. Each role is a JSON
// document {"signed": …, "signatures": […]}; signatures are over the canonical
// JSON (OLPC) of "signed". Verification goes root -> timestamp -> snapshot ->
// targets -> delegations (targets/releases, targets/alice, …):
//
//   - root: signed by its own x509 keys, threshold of distinct keys, whose
//     common name is the GUN or a prefix of it that ends in *. The pin vouches
//     for the first root, the threshold of its predecessor for every other;
//     every intermediate N.root.json is fetched and verified.
//   - timestamp, snapshot, targets: signed by the keys that the root names. The
//     timestamp gives length and hash of the snapshot, the snapshot those of
//     root, targets and every delegation.
//   - delegations: signed by the keys that the parent names; they speak for
//     tags that begin with one of their path prefixes, intersected with the
//     parent's. The tag is looked up in Config.Roles in order; only these roles
//     answer. A role below one of them does not, but if it has the tag, nor do
//     the roles that come later: docker refuses such a tag.
//
// # Stricter than notary v0.7.0
//
// Duplicate keys, keys in another case, floats, integers beyond 2^53,
// malformed base64, unpaired surrogates and trailing data are malformed. Two
// keys are distinct only if the bare public keys differ. The method of a
// signature must belong to the type of its key. A version that was seen with
// other bytes is a rollback, across restarts and across every process that
// shares the State; so is a delegated role that vanishes from the snapshot. A
// version counts as seen once its document verified, whatever the rest did. An
// expired or under-signed delegation that is asked is a refusal; notary skips
// it. A failed check of new metadata refuses until a later refresh succeeds;
// notary would fall back to what it has.
//
// # Outcomes
//
// No metadata for the repository, or no such tag: unsigned. Metadata that does
// not verify: malformed, bad-signature, untrusted-signer, below-threshold,
// rollback, expired, digest-mismatch. A server that cannot be reached or that
// answers anything but the metadata leaves what is cached in force until it
// expires; after that, without a cache, and if the server's timestamp says that
// there is newer metadata, the question is undecided.
//
// # Limits
//
// Bytes a role: timestamp 1 MiB, a root of unknown length 10 MiB, everything
// else exactly the length its parent names, at most 32 MiB. 256 keys,
// signatures and roles a document, 256 delegated roles, 100,000 targets a
// role, 256 root rotations an update, 30 seconds an update.
package notary
