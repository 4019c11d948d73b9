package guest

// KernelSettings and MaskedUnits are for the test, which makes a good guest.
func KernelSettings() map[string]string { return kernelSettings() }

// MaskedUnits is the table of units and what they must link to.
func MaskedUnits() map[string]string { return maskedUnits() }

// Needed are the services that must run.
func Needed() []string { return needed() }
