package pcr

// Extra is extra, for the tests.
func Extra(name string, data []byte) []byte { return extra(name, data) }
