package tdx

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"

	"github.com/google/uuid"

	"cc-base/tasks/boot/measured"
	"cc-base/tasks/tee/ovmf"
)

// ACPI is what QEMU offers the firmware as ACPI tables, as the fw_cfg files
// etc/table-loader, etc/acpi/rsdp and etc/acpi/tables hold them. They depend on
// QEMU's version, the devices and their order and the number of processors;
// package acpi reads them from the host's own QEMU. The host chooses them, and
// the guest's kernel runs the code in them: whoever verifies a guest has to
// compute them himself.
type ACPI struct{ Loader, RSDP, Tables []byte }

// SecureBoot is the content of the Secure Boot variables; nil where a variable
// is not there, which is measured as an empty one.
type SecureBoot struct {
	Mode []byte // SecureBoot: one byte, 0 or 1
	PK   []byte
	KEK  []byte
	DB   []byte
	DBX  []byte
}

// Platform is what RTMR 0 depends on.
type Platform struct {
	HandOff      []byte // the TD hand-off block without its end marker; see [HandOffBlock]
	ConfigVolume []byte // the variables in the image; see [ConfigVolume]
	SecureBoot   SecureBoot
	ACPI         ACPI
	BootOrder    []byte   // content of the variable; nil when there is none
	Boot         [][]byte // contents of the Boot#### variables in that order

	// Firmware from edk2-stable202505 on measures more: fw_cfg items after the
	// configuration volume, SMBIOS tables after the ACPI tables. Nothing here
	// computes those; who knows them gives them.
	AfterConfigVolume, AfterACPI Log
}

// RTMR0 returns what is measured of the machine (PCRs 0, 1 and 7 of a TPM), in
// the order of edk2-stable202502 (OvmfPkg/IntelTdx/TdxHelperLib and
// OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c). The Secure Boot variables' events are
// their UEFI_VARIABLE_DATA; those of BootOrder and Boot#### the content alone.
func RTMR0(p Platform) (Log, error) {
	switch {
	case len(p.HandOff) == 0:
		return nil, errors.New("the hand-off block is missing")
	case len(p.ConfigVolume) == 0:
		return nil, errors.New("the configuration volume is missing")
	case len(p.ACPI.Loader) == 0 || len(p.ACPI.RSDP) == 0 || len(p.ACPI.Tables) == 0:
		return nil, errors.New("the ACPI tables are not complete")
	case (p.BootOrder == nil) != (len(p.Boot) == 0):
		return nil, errors.New("BootOrder and Boot#### variables go together")
	}
	var log Log
	log.add(p.HandOff, "TD hand-off block")
	log.add(p.ConfigVolume, "configuration volume")
	log = append(log, p.AfterConfigVolume...)
	log.add(measured.Variable(vendor(efiGlobal), "SecureBoot", p.SecureBoot.Mode), "variable SecureBoot")
	log.add(measured.Variable(vendor(efiGlobal), "PK", p.SecureBoot.PK), "variable PK")
	log.add(measured.Variable(vendor(efiGlobal), "KEK", p.SecureBoot.KEK), "variable KEK")
	log.add(measured.Variable(vendor(imageSecurity), "db", p.SecureBoot.DB), "variable db")
	log.add(measured.Variable(vendor(imageSecurity), "dbx", p.SecureBoot.DBX), "variable dbx")
	log.separator()
	log.add(p.ACPI.Loader, "ACPI table loader")
	log.add(p.ACPI.RSDP, "ACPI RSDP")
	log.add(p.ACPI.Tables, "ACPI tables")
	log = append(log, p.AfterACPI...)
	if p.BootOrder != nil {
		log.add(p.BootOrder, "variable BootOrder")
	}
	for i, b := range p.Boot {
		log.add(b, "boot variable %d of BootOrder", i+1)
	}
	return log, nil
}

// Menu returns the boot options of firmware up to edk2-stable202502 for a guest
// whose kernel is handed over: its own menu alone, which is there although
// nothing shows it (MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c). The
// option is an EFI_LOAD_OPTION (UEFI 2.10, 3.1.3) to a file of the firmware.
func Menu() (order []byte, options [][]byte) {
	const (
		attributes  = 0x109 // active, hidden, an application
		volume      = "7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1"
		application = "462caa21-7614-4503-836e-8ab6f4662331"
	)
	le := binary.LittleEndian
	node := func(path []byte, kind, sub byte, data []byte) []byte {
		return append(le.AppendUint16(append(path, kind, sub), uint16(4+len(data))), data...)
	}
	inVolume, file := vendor(volume), vendor(application)
	path := node(nil, 0x04, 0x07, inVolume[:]) // a firmware volume
	path = node(path, 0x04, 0x06, file[:])     // a file of it
	path = node(path, 0x7f, 0xff, nil)         // the end
	option := le.AppendUint16(le.AppendUint32(nil, attributes), uint16(len(path)))
	for _, unit := range utf16.Encode([]rune("UiApp\x00")) {
		option = le.AppendUint16(option, unit)
	}
	return []byte{0, 0}, [][]byte{append(option, path...)}
}

// vendor returns a GUID as EFI's structures hold it.
func vendor(guid string) [16]byte { return ovmf.GUIDBytes(uuid.MustParse(guid)) }

// ConfigVolume returns the part of the image that holds the variables.
func ConfigVolume(image []byte) ([]byte, error) {
	fw, err := ovmf.Parse(image)
	if err != nil {
		return nil, err
	}
	s := fw.TDVFSection(ovmf.ConfigVolume)
	if s == nil || s.RawSize == 0 {
		return nil, fmt.Errorf("the firmware has no configuration volume")
	}
	return image[s.Offset:][:s.RawSize], nil
}
