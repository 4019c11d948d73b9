package report

import (
	"fmt"

	"cc-base/tasks/measurements"
)

// register is what a register holds after a boot, and what that means.
type register struct{ Name, When, Value, Meaning string }

// registers are those of TPM and TDX.
func registers(d measurements.Document) []register {
	var list []register
	for _, row := range d.TPM {
		for _, p := range row.PCRs {
			list = append(list, register{
				Name: fmt.Sprintf("PCR %d", p.PCR), When: "Secure Boot " + row.SecureBoot,
				Value: p.SHA256, Meaning: pcrMeaning(p.PCR),
			})
		}
	}
	for _, p := range d.PCR11 {
		when := "after " + p.After
		if p.After == "uki" {
			when = "after the boot image was started"
		}
		list = append(list, register{Name: "PCR 11", When: when, Value: p.SHA256, Meaning: pcrMeaning(11)})
	}
	for _, row := range d.TDX {
		when := row.BootMode + " boot, key profile " + row.Profile
		list = append(list,
			register{"MRTD", when, row.MRTD, "the firmware " + row.Firmware + " as it is loaded"},
			register{"RTMR1", when, row.RTMR1, "what the firmware starts: the kernel, or boot image and partition table"},
			register{"RTMR2", when, row.RTMR2, "kernel command line and initrd"},
		)
	}
	return list
}

// pcrMeaning says what goes into a register (docs/measurements.md; UEFI and
// systemd-stub decide).
func pcrMeaning(n int) string {
	return map[int]string{
		4:  "the boot image that the firmware starts: kernel, initrd, command line",
		5:  "the partition table as shipped; installation on a larger disk changes it",
		7:  "Secure Boot: whether it is on, and the certificates",
		9:  "initrd and command line as the kernel got them",
		11: "the parts of the boot image one by one, then each phase of the boot",
		12: "additions to the command line and credentials; zero, since there must be none",
		13: "system extensions; zero, since there must be none",
	}[n]
}

// launch is the launch digest of one kind of SEV-SNP guest.
type launch struct{ Guest, Digest string }

func launches(d measurements.Document) []launch {
	var list []launch
	for _, row := range d.SNP {
		list = append(list, launch{fmt.Sprintf("%d vCPUs, %s, features %#x, profile %s", row.VCPUs, row.CPUModel, row.GuestFeatures, row.Profile), row.Digest})
	}
	return list
}
