package varstore

import (
	"cc-base/tasks/fault"
	"cc-base/tasks/tpm/pcr"
)

// Measured returns what firmware measures of a store into which [Enrol] has put
// the keys.
func Measured(keys Keys) (pcr.SecureBoot, error) {
	certs, err := keys.read()
	if err != nil {
		return pcr.SecureBoot{}, fault.New(fault.BootImage, err)
	}
	owner, err := pcr.ParseGUID(Owner().String())
	if err != nil {
		return pcr.SecureBoot{}, err
	}
	s := pcr.Enrolled(certs.db, owner)
	s.PK, s.KEK = pcr.Enrolled(certs.pk, owner).PK, pcr.Enrolled(certs.kek, owner).KEK
	return s, nil
}
