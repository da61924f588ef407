package main

import (
	"os"

	"go.yaml.in/yaml/v3"

	"github.com/countersign/countersign/verify/notation"
)

// notation reads the keys of a Notary Project verifier.
func (r *reader) notation(s *section) *notation.Config {
	n := &notation.Config{}
	s.need("trust_store", "name the authorities' certificates, like {ca: [certs/acme.pem]}")
	s.need("identities", "list the trusted subjects, like [\"x509.subject: C=US, ST=WA, O=Acme\"]")
	if s.get("trust_store") != nil {
		t := s.sub("trust_store")
		n.TrustStore = notation.TrustStore{CA: t.files("ca"), SigningAuthority: t.files("signing_authority"), TSA: t.files("tsa")}
		t.finish()
	}
	n.Identities = s.texts("identities")
	n.Level = s.text("level")
	if s.get("revocation") != nil {
		v := s.sub("revocation")
		n.Revocation.Mode = v.text("mode")
		if dir := v.text("crl_dir"); dir != "" {
			n.Revocation.CRLDir = r.filePath(dir)
			if info, err := os.Stat(n.Revocation.CRLDir); err != nil || !info.IsDir() {
				v.wrong("crl_dir", "%s is not a directory that can be read: correct it", n.Revocation.CRLDir)
			}
		}
		v.finish()
	}
	s.finish()
	return n
}

// files reads the files that a list names.
func (s *section) files(key string) [][]byte {
	var all [][]byte
	for _, n := range s.list(key) {
		if n.Kind != yaml.ScalarNode {
			s.wrongKind(n, key, "a file's name")
			continue
		}
		body, err := readFile(s.filePath(n.Value), maxFile)
		if err != nil {
			s.mistake(n.Line, "%s: %v", s.path(key), err)
			continue
		}
		all = append(all, body)
	}
	return all
}
