package pcr

import (
	"errors"
	"fmt"

	"cc-base/tasks/boot/measured"
	"cc-base/tasks/fault"
)

// Boot is everything that decides the predicted PCRs.
type Boot struct {
	Image      Image
	SecureBoot SecureBoot

	// GPT is the disk's partition table as [measured.PartitionTable] returns it.
	// Without it PCR 5 is not predicted.
	GPT []byte

	// Phases are the boot phases that have passed, such as "enter-initrd"
	// (systemd-pcrphase.service(8)). A firmware's event log does not hold them.
	Phases []string
}

// Predict returns the measurements of a boot. An image that the firmware would
// refuse is an error with the code fault.BootImage.
func Predict(b Boot) (Log, error) {
	p := &predictor{}
	p.bootManager(b)
	if err := p.secureBoot(b); err != nil {
		return Log{}, fault.New(fault.BootImage, err)
	}
	p.stub(b)
	p.kernel(b)
	p.log.PCRs = []int{4, 7, 9, 11, 12, 13}
	if b.GPT != nil {
		p.log.PCRs = []int{4, 5, 7, 9, 11, 12, 13}
	}
	return p.log, nil
}

// predictor collects the log.
type predictor struct{ log Log }

func (p *predictor) add(pcr int, kind EventType, what string, digests Digests) {
	p.log.Events = append(p.log.Events, Event{PCR: pcr, Type: kind, What: what, Digests: digests})
}

// separate adds the mark that ends the firmware's own measurements of a PCR.
func (p *predictor) separate(pcr int) {
	p.add(pcr, Separator, "end of the firmware's own measurements", sum(measured.Separator()))
}

// action adds a measured string.
func (p *predictor) action(pcr int, text string) { p.add(pcr, Action, text, sum([]byte(text))) }

// bootManager is what OVMF measures from the choice of a boot entry to the
// start of the UKI.
func (p *predictor) bootManager(b Boot) {
	p.action(4, measured.CallingApplication)
	p.separate(4)
	if b.GPT != nil {
		p.separate(5)
		p.add(5, GPT, "partition table of the boot disk", sum(b.GPT))
	}
	p.add(4, BootApplication, "the boot image (UKI)", b.Image.Authenticode)
	if !b.SecureBoot.On() {
		// systemd-stub starts the kernel by the firmware's LoadImage, which
		// measures it. With Secure Boot on, the stub vouches for the unsigned
		// kernel by hooking the firmware's check, and the measurement is a part
		// of the check that is left out.
		p.add(4, BootApplication, "the kernel in the boot image", b.Image.Kernel)
	}
}

// secureBoot is what the firmware measures of the Secure Boot variables, and
// of the one because of which it accepts the UKI.
func (p *predictor) secureBoot(b Boot) error {
	s := b.SecureBoot
	if len(s.State) > 1 || len(s.State) == 1 && s.State[0] > 1 {
		return fmt.Errorf("the state of Secure Boot is %x, not empty, 00 or 01", s.State)
	}
	if s.On() && len(s.PK) == 0 {
		return errors.New("secure boot cannot be on without a platform key")
	}
	for _, v := range []struct {
		name   string
		vendor GUID
		data   []byte
	}{
		{"SecureBoot", guidGlobal(), s.State}, {"PK", guidGlobal(), s.PK}, {"KEK", guidGlobal(), s.KEK},
		{"db", guidImageSecurity(), s.DB}, {"dbx", guidImageSecurity(), s.DBX},
	} {
		p.add(7, VariableConfig, "variable "+v.name, sum(measured.Variable(v.vendor, v.name, v.data)))
	}
	p.separate(7)
	if !s.On() {
		return nil
	}
	entry, err := s.authority(b.Image)
	if err != nil {
		return err
	}
	p.add(7, Authority, "the entry of db that the boot image was accepted by", sum(measured.Variable(guidImageSecurity(), "db", entry.raw)))
	return nil
}

// stub is what systemd-stub measures, and later systemd by phases.
func (p *predictor) stub(b Boot) {
	for _, s := range b.Image.Sections {
		p.add(11, IPL, "name of section "+s.Name, sum(append([]byte(s.Name), 0)))
		p.add(11, IPL, "section "+s.Name, s.Digests)
	}
	for _, phase := range b.Phases {
		p.add(11, IPL, "boot phase "+phase, sum([]byte(phase)))
	}
}

// kernel is what the EFI stub of Linux measures, and the firmware at its end
// (drivers/firmware/efi/libstub/efi-stub-helper.c).
func (p *predictor) kernel(b Boot) {
	p.add(9, EventTag, "kernel command line", b.Image.LoadOptions)
	if b.Image.Initrd != nil {
		p.add(9, EventTag, "initrd", b.Image.Initrd)
	}
	if b.GPT != nil {
		p.action(5, measured.ExitingBootServices)
		p.action(5, measured.ExitedBootServices)
	}
}
