package hw

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// SNPModel returns QEMU's name of the processor's generation for a SEV-SNP
// guest, which the launch measures: EPYC-Milan, EPYC-Genoa or EPYC-Turin. It is
// told by family and model as the kernel has them (arch/x86/kernel/cpu/amd.c):
// the product's name is the maker's to change.
func SNPModel(root fs.FS) (string, error) {
	text, err := fs.ReadFile(root, "proc/cpuinfo")
	if err != nil {
		return "", fmt.Errorf("reading the processor's model: %w", err)
	}
	number := map[string]int{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); key != "cpu family" && key != "model" {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
			number[key] = n
		}
		if len(number) == 2 {
			break
		}
	}
	family, model := number["cpu family"], number["model"]
	switch {
	case family == 0x19 && model <= 0x0f:
		return "EPYC-Milan", nil
	case family == 0x19 && (model >= 0x10 && model <= 0x1f || model >= 0xa0 && model <= 0xaf):
		return "EPYC-Genoa", nil
	case family == 0x1a && model <= 0x1f:
		return "EPYC-Turin", nil
	}
	return "", fmt.Errorf("the processor, family %#x model %#x, is none that SEV-SNP guests are known of", family, model)
}
