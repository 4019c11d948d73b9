package build

import (
	"context"
	"os"
	"strings"

	"cc-base/tasks/digest"
	"cc-base/tasks/disk"
	"cc-base/tasks/manifest"
	"cc-base/tasks/seal"
)

// minDynamic is the size of cc-dynamic in the image as shipped; the installer
// stretches it to the end of the disk.
const minDynamic = 64 * disk.MiB

// assembleDisk writes the qcow2 and completes the manifest. Every GUID is
// derived from the content of all volumes, so that two different images never
// share one and the same image always has the same.
func (b *Build) assembleDisk(ctx context.Context, m *manifest.Manifest) error {
	content := digest.Bytes([]byte(m.CommandLine))
	id := func(label, use string) string {
		return strings.ToUpper(seal.Derive(label, use, content).String())
	}
	esp := b.scratch("esp.img")
	defer os.Remove(esp)
	espSize, err := disk.BuildESP(ctx, b.Tools, disk.ESP{
		Files: map[string]string{"EFI/BOOT/BOOTX64.EFI": b.out("cc-base.efi")},
		Label: "CC-ESP", VolumeID: seal.Derive("cc-esp", "fat", content).ID(), Epoch: m.SourceDateEpoch,
		Size: b.partitionSize("esp"),
	}, esp)
	if err != nil {
		return err
	}
	var volumes []disk.Volume
	for _, p := range b.Config.Disk.Partitions {
		v := disk.Volume{Label: p.Label, GUID: id(p.Label, "partition"), TypeGUID: typeGUID(p.Name, p.Encrypt), Size: p.Size, ReadOnly: p.ReadOnly}
		switch p.Name {
		case "esp":
			v.Content, v.Size = esp, espSize
		case "dynamic":
			v.Size = max(p.Size, minDynamic)
		default:
			v.Content = b.scratch(p.Name + ".volume")
		}
		volumes = append(volumes, v)
	}
	raw := b.scratch("disk.raw")
	defer os.Remove(raw)
	b.log.event("package", "assembling the disk image")
	if m.Disk, err = disk.Assemble(ctx, raw, id("cc-base", "disk"), volumes); err != nil {
		return err
	}
	m.Disk.File = "cc-base.qcow2"
	for i := range m.Disk.Partitions {
		p := &m.Disk.Partitions[i]
		row := b.Config.Disk.Partitions[i]
		p.Encrypted, p.Mount = row.Encrypt, row.Mount
		if row.Verity {
			verity, err := b.sealed(row.Name)
			if err != nil {
				return err
			}
			p.Verity = &verity
		}
	}
	if err := disk.Qcow2(ctx, b.Tools, raw, b.out("cc-base.qcow2")); err != nil {
		return err
	}
	b.log.event("package", "cc-base.qcow2: %s, disk of %s", fileSize(b.out("cc-base.qcow2")), size(m.Disk.VirtualSize))
	return nil
}

func (b *Build) partitionSize(name string) int64 {
	p, _ := b.Config.Partition(name)
	return p.Size
}

// typeGUID returns the partition type. The ESP's is the UEFI specification's,
// the LUKS and data types are Linux's (UAPI group, Discoverable Partitions
// Specification); cc-dynamic has one of its own, so that no tool takes it for
// something that it knows.
func typeGUID(name string, encrypted bool) string {
	switch {
	case name == "esp":
		return "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	case name == "dynamic":
		return strings.ToUpper(seal.Derive("cc-dynamic", "type", "1").String())
	case encrypted:
		return "CA7D7CCB-63ED-4C53-861C-1742536059CC"
	default:
		return "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	}
}
