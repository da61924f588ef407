// Package countersign holds what ships with the program: the default
// configuration. The program itself is cmd/countersign.
//
// It does not parse the configuration and trusts nothing.
package countersign

import _ "embed"

//go:embed config.yaml
var config string

// Config returns config.yaml as it was when the program was built: it starts
// on any machine and refuses everything until rules are added.
func Config() []byte { return []byte(config) }
