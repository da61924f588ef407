// Package notation verifies Notary Project signatures (signature specification
// 1.1, trust store and trust policy specification 1.0) with notation-go.
//
// # What it proves
//
// That a signer whose certificate chains to a certificate of the trust store,
// and whose subject is one of the trusted identities, signed exactly the
// manifest with this digest, media type and size; and, unless the level only
// warns of it, that signature and certificates are in force and not revoked.
//
// # What it does not prove
//
// Which tag the manifest should have, that no newer one exists, or that two
// people signed: one signature is enough.
//
// # What it trusts
//
// The certificates of Config.TrustStore, the CRLs of the configuration, the
// clock, and for revocation what those certificates' authorities sign. It does
// not trust registries; certificates, signing times and addresses of
// revocation servers inside a signature count only once its chain is anchored
// in the trust store.
//
// # Formats
//
// A referrer manifest with artifactType application/vnd.cncf.notary.signature,
// or with none and that media type on its config (writers before 1.2), whose
// one layer is a flattened JWS (application/jose+json) or a COSE_Sign1
// (application/cose) envelope. The payload's targetArtifact must have the
// digest, media type and size of the subject.
//
// # Levels
//
//	            strict    permissive  audit
//	integrity   refused   refused     refused
//	authority   refused   refused     refused    the chain leads to the trust store
//	identity    refused   refused     warning    the subject is a trusted identity
//	timestamp   refused   warning     warning    the chain was in force when it signed
//	expiry      refused   warning     warning
//	revocation  refused   warning     warning    as far as Revocation.Mode asks
//
// notation's audit also admits chains that lead nowhere. Here that would be
// evidence by anybody, so the trust store always has to vouch; a rule that only
// reports is `mode: audit`.
//
// A revocation status that cannot be found out leaves the question open under
// strict (undecided: neither evidence nor refusal), and is a warning with
// Revocation.Mode soft or the levels permissive and audit. Verification plugins
// are not supported: a signature that demands one, or has another critical
// attribute, does not count.
//
// # Time
//
// With a tsa trust store every notary.x509 signature needs an RFC 3161
// timestamp by it, and then outlives its certificates. Without, all
// certificates have to be valid now. Signatures of the scheme
// notary.x509.signingAuthority bring the authority's own time. Expiry rests on
// the clock of the machine.
//
// # Revocation
//
// First the CRLs of the configuration, which a site without internet needs:
// a CRL that the issuer signed and that is in force decides, without a request.
// For what remains, OCSP (2 seconds) and then CRL (5 seconds) over plain HTTP,
// as the certificates say, without proxies of the environment and redirects;
// addresses that are link-local, multicast or unspecified are not dialled,
// private ones are, since companies run their responders there. This is the only
// request that a pull can cause besides the registry's; its result is remembered.
//
// # Limits
//
// 512 candidates, 256 KiB a manifest, 128 KiB an envelope, 32 MiB together,
// ten certificates a chain, 4 KiB a distinguished name, one minute a subject.
package notation
