package notary

import "testing"

// BenchmarkVerifyFiveRoles verifies root, timestamp, snapshot, targets and
// targets/releases (and bob's delegation) from bytes.
func BenchmarkVerifyFiveRoles(b *testing.B) {
	v := fixture(b, Config{Pin: Pin{RootKeys: []string{fixtureRoot}}}, testStart)
	for b.Loop() {
		if _, err := v.update(b.Context(), fixtureGUN, nil); err != nil {
			b.Fatal(err)
		}
	}
}
