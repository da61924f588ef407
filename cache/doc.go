// Package cache keeps three things: content by digest (Store), small durable
// state (State), and answers in memory (Memo, Brief). It is the lowest layer
// and knows nothing of registries, HTTP servers or policies.
//
// # Content
//
// Store keeps blobs and manifests on a distribution v3 storage driver, in
// distribution's own layout (/docker/registry/v2/blobs/sha256/ab/<hex>/data).
// Everything is hashed on the way in. Fetch shares one upstream transfer among
// all who ask for the same content, lets them read while it grows, and withholds
// the last LastBlock bytes from everybody until the digest of the whole holds:
// content that does not match its digest is never completed and never committed.
//
// A transfer lives in a spool file, which on Linux has no name. When it is
// verified it is named and renamed into place, and only then is stored; it is
// synced to the disk before its stamp is.
// What a crash leaves in the spool directory is removed by the next OpenStore.
//
// With a limit, what was used least recently is evicted; nothing that was
// stored or read within the last minute is, and who reads it goes on.
//
// # What is trusted
//
// State is trusted like the configuration. The driver's content is not: it is
// bound to its digest again on the way out. A local file is served without
// hashing only while its size, modification time, change time and inode are
// those noted in State when it was last hashed; otherwise it is hashed first,
// and removed if it is corrupt. Content of a remote driver is hashed each time
// while it streams, with the last block withheld as in a transfer. The change
// time can not be set from user space, but somebody who writes to a local file
// in the very moment in which it is being sent is not noticed until the next
// request; on kernels before 6.13 the same holds for a write within one timer
// tick (10 ms at most) of the note. On file systems without unnamed files (NFS)
// transfers have names and are hashed once more at their commit; there the
// spool directory must be out of others' reach.
//
// # What it does not do
//
// It does not decide what may be fetched or served. It does not share content between hosts.
//
// Digests are those of the OCI image specification v1.1.1, algorithms sha256
// and sha512; any other is refused.
package cache
