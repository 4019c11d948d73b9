package doctor

import (
	"bytes"
	"fmt"
	"strings"

	"cc-base/tasks/gpu"
	"cc-base/tasks/hw"
)

// Page returns docs/hardware.md, made from the checks themselves.
func Page() []byte {
	var b bytes.Buffer
	b.WriteString(`# Hardware

<!-- Generated from installer/doctor. Change the checks there, then run:
     go test ./installer/doctor -run Page -update -->

` + "`cc-install doctor`" + ` tells what keeps a host from running a confidential VM with
its GPUs: every finding at once, with its cause and what to do. It reads sysfs,
procfs, the kernel's log, ` + "`virsh domcapabilities`" + `, the versions of five programs
and two registers of each GPU, and changes nothing: no mode is set, no driver
bound or unbound, no device reset. Run it as root, or the log and the register
stay unread.

| exit status | meaning |
|---|---|
| 0 | no failure among the findings |
| 1 | a finding is a failure |
| 3 | nothing can run here: there is no /dev/kvm |

` + "`--json`" + ` prints the report for programs, ` + "`--facts`" + ` what it was judged by,
without serial numbers, UUIDs and network addresses; ` + "`--from FILE`" + ` judges such facts of
another host. ` + "`--allow-plain`" + ` makes notes of what only a confidential VM needs,
` + "`--allow-small`" + ` accepts less than 16 GiB.

## Least versions

| | kernel | QEMU | libvirt |
|---|---|---|---|
`)
	for _, kind := range []hw.TEE{hw.SEVSNP, hw.TDX} {
		l, _ := leastFor(kind)
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", kind, l.kernel, l.QEMU, l.Libvirt)
	}
	b.WriteString(`
## NVIDIA's driver in the guest

| architecture | use | from | |
|---|---|---|---|
`)
	for _, d := range gpu.Drivers() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", d.Arch, d.Use, d.Least, d.Note)
	}
	b.WriteString(`
## Settings files

` + "`cc-install detect`" + ` (and ` + "`validate.sh`" + `) writes ` + "`gpu_settings`" + ` and ` + "`network_settings`" + ` to
/etc/cc/qemu. Edit them before the installation; lines that are there are never
changed by it again. ` + "`--dry-run`" + ` prints what would be written.

## Checks

`)
	area := ""
	for _, c := range Checks() {
		name, _, _ := strings.Cut(c.ID, ".")
		if name != area {
			if area != "" {
				b.WriteByte('\n')
			}
			area = name
			fmt.Fprintf(&b, "### %s\n\n| check | what should be so | the trap |\n|---|---|---|\n", name)
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", c.ID, c.Title, strings.ReplaceAll(c.Trap, "|", `\|`))
	}
	return b.Bytes()
}
