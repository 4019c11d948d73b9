package measured

// Archive is the archive that systemd-stub makes of a section.
func Archive(file string, data []byte) []byte { return archive(file, data) }
