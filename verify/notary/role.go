package notary

import (
	"github.com/countersign/countersign/verify"
)

// check verifies that at least the threshold of distinct keys of the role
// signed doc and returns them. Two entries with the same public key are one
// key, whatever ids they have (GHSA-3633). The error is a *verify.Refusal.
func (d *delegation) check(doc *document) ([]*key, error) {
	byID := make(map[string]*key, len(d.keys))
	for _, k := range d.keys {
		byID[k.id] = k
	}
	counted := map[string]bool{}
	var signers []*key
	known, failed := false, false
	for _, s := range doc.signatures {
		k, ok := byID[s.keyID]
		if !ok {
			continue
		}
		known = true
		switch {
		case k.public == nil || counted[k.spki]:
		case k.verifies(s.method, doc.message, s.value):
			counted[k.spki] = true
			signers = append(signers, k)
		default:
			failed = true
		}
	}
	switch {
	case len(doc.signatures) == 0:
		return nil, verify.Refuse(verify.Malformed, "the metadata of %s has no signatures", d.name)
	case int64(len(signers)) >= d.threshold:
		return signers, nil
	case !known:
		return nil, verify.Refuse(verify.UntrustedSigner, "the metadata of %s is not signed by any of its keys", d.name)
	case failed:
		return nil, verify.Refuse(verify.BadSignature, "a signature of the metadata of %s does not verify: %d of %d keys signed", d.name, len(signers), d.threshold)
	}
	return nil, verify.Refuse(verify.BelowThreshold, "the metadata of %s is signed by %d keys, not by %d", d.name, len(signers), d.threshold)
}

// malformed wraps what a parser found wrong with a role. Parsers speak of the
// document in their own words, never in its words.
func malformed(role string, err error) *verify.Refusal {
	return &verify.Refusal{Reason: verify.Malformed, Message: "the metadata of " + role + " is malformed: " + err.Error(), Err: err}
}
