package fault

import (
	"bytes"
	"fmt"
	"strings"
)

// area is what the two digits after CC0 stand for.
type area struct{ digits, about string }

func areas() []area {
	return []area{
		{"01", "Configuration"},
		{"02", "The build machine"},
		{"03", "Packages and root file system"},
		{"04", "Sealing and disk"},
		{"05", "Boot image and virtual machine"},
		{"06", "Bundle and signature"},
		{"07", "Installer"},
		{"08", "Guest"},
		{"09", "Volume header"},
		{"10", "Virtual machine on the host"},
		{"12", "GPU driver"},
		{"13", "Receipts"},
		{"14", "Trust in an installer"},
		{"15", "Publishing"},
	}
}

func (a area) of(code Code) bool { return strings.HasPrefix(string(code), "CC"+a.digits) }

// Reference returns docs/errors.md, made from the table that `mage explain`
// prints from.
func Reference() []byte {
	var b bytes.Buffer
	b.WriteString(`# Errors

<!-- Generated from tasks/fault. Change the table there, then run:
     go test ./tasks/fault -run TestReference -update -->

Every failure that has a cause of its own ends with a line such as
` + "`code: CC0101`" + `. ` + "`mage explain CC0101`" + ` and ` + "`cc-install explain CC0101`" + ` print what
stands here. A code keeps its meaning for ever and is never used again.

| exit status | meaning |
|---|---|
| 0 | done |
`)
	for _, s := range []struct {
		status  int
		meaning string
	}{
		{ExitFailed, "a stage or a check failed"},
		{ExitUsage, "what it was given is wrong: configuration, overlay, key or command line"},
		{ExitUnsupported, "this machine cannot do it"},
		{ExitUnsafe, "refused because it could destroy something"},
	} {
		fmt.Fprintf(&b, "| %d | %s |\n", s.status, s.meaning)
	}
	for _, a := range areas() {
		fmt.Fprintf(&b, "\n## %s\n\n| code | exit status | what | when | what to do |\n|---|---|---|---|---|\n", a.about)
		for _, m := range Meanings() {
			if a.of(m.Code) {
				fmt.Fprintf(&b, "| %s | %d | %s | %s | %s |\n", m.Code, m.Exit, cell(m.Title), cell(m.Cause), cell(m.Cure))
			}
		}
	}
	return b.Bytes()
}

// cell keeps a bar in the text from ending the cell of the table.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
