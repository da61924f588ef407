package notation

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/veraison/go-cose"

	"github.com/countersign/countersign/verify"
)

const (
	// maxChain bounds the certificates of a chain: real ones have two to four.
	maxChain = 10
	// maxCertificate bounds a certificate: real ones have 1 to 3 KiB.
	maxCertificate = 16 << 10
	// maxName bounds a distinguished name in DER. Its text takes time that grows
	// with the square of its parts (CVE-2023-25656 took the memory too).
	maxName = 4 << 10
)

// chainOf reads the certificates that an envelope brings, leaf first, before
// anything is verified. It bounds what the library is given: names and chains of
// any length would cost it minutes.
func chainOf(mediaType string, body []byte) ([]*x509.Certificate, error) {
	raw, err := rawChain(mediaType, body)
	if err != nil {
		return nil, err
	}
	if len(raw) == 0 || len(raw) > maxChain {
		return nil, fmt.Errorf("it brings %d certificates; 1 to %d are allowed", len(raw), maxChain)
	}
	chain := make([]*x509.Certificate, len(raw))
	for i, der := range raw {
		if len(der) > maxCertificate {
			return nil, fmt.Errorf("a certificate has %d bytes; at most %d are allowed", len(der), maxCertificate)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, errors.New("a certificate is malformed")
		}
		if len(cert.RawSubject) > maxName || len(cert.RawIssuer) > maxName {
			return nil, fmt.Errorf("a distinguished name has more than %d bytes", maxName)
		}
		chain[i] = cert
	}
	return chain, nil
}

func rawChain(mediaType string, body []byte) ([][]byte, error) {
	if mediaType == typeCOSE {
		return rawChainCOSE(body)
	}
	// Keys twice would let two readers see two signatures.
	if err := verify.CheckJSON(body); err != nil {
		return nil, err
	}
	var env struct {
		Header struct {
			X5C [][]byte `json:"x5c"`
		} `json:"header"`
	}
	if err := json.Unmarshal(body, &env); err != nil {
		return nil, errors.New("it is not a JWS envelope")
	}
	return env.Header.X5C, nil
}

// rawChainCOSE reads x5chain (RFC 9360): one certificate or a list.
func rawChainCOSE(body []byte) ([][]byte, error) {
	var msg cose.Sign1Message
	if err := msg.UnmarshalCBOR(body); err != nil {
		return nil, errors.New("it is not a COSE_Sign1 envelope")
	}
	switch chain := msg.Headers.Unprotected[cose.HeaderLabelX5Chain].(type) {
	case []byte:
		return [][]byte{chain}, nil
	case []any:
		var raw [][]byte
		for _, c := range chain {
			der, ok := c.([]byte)
			if !ok {
				return nil, errors.New("a certificate is not a byte string")
			}
			raw = append(raw, der)
		}
		return raw, nil
	}
	return nil, errors.New("it brings no certificates")
}
