// Command recorder is the first and only program of a virtual machine that
// tells what its TPM holds: the firmware's event log and the PCRs, on the
// console. record_test.go builds it and boots it.
package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	if err := record(); err != nil {
		fmt.Println("\nrecorder: failed:", err)
	}
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func record() error {
	if err := os.MkdirAll("/sys", 0o755); err != nil {
		return err
	}
	// In this order: sysfs holds the folder of securityfs.
	for _, m := range []struct{ kind, dir string }{{"sysfs", "/sys"}, {"securityfs", "/sys/kernel/security"}} {
		if err := syscall.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.kind, err)
		}
	}
	log, err := os.ReadFile("/sys/kernel/security/tpm0/binary_bios_measurements")
	if err != nil {
		return err
	}
	fmt.Println("\nrecorder: begin")
	text := base64.StdEncoding.EncodeToString(log)
	for len(text) > 0 {
		n := min(len(text), 76)
		fmt.Println("log", text[:n])
		text = text[n:]
	}
	banks, err := filepath.Glob("/sys/class/tpm/tpm0/pcr-*")
	if err != nil {
		return err
	}
	for _, bank := range banks {
		for i := 0; i < 24; i++ {
			value, err := os.ReadFile(filepath.Join(bank, fmt.Sprint(i)))
			if err != nil {
				return err
			}
			fmt.Println("pcr", strings.TrimPrefix(filepath.Base(bank), "pcr-"), i, strings.ToLower(strings.TrimSpace(string(value))))
		}
	}
	fmt.Println("recorder: end")
	return nil
}
