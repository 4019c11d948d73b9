package conf

import (
	"bytes"
	"fmt"
	"strings"
)

// Reference returns docs/configuration.md, made from the table that the parser
// uses.
func Reference() []byte {
	var b bytes.Buffer
	b.WriteString(`# Configuration

<!-- Generated from tasks/conf. Change the table there, then run:
     go test ./tasks/conf -run 'TestReference|TestShipped' -update -->

Six files in ` + "`config/`" + ` hold all settings; every key has a default. They are shell
syntax, but they are read and never executed: only ` + "`KEY=\"value\"`" + ` and
` + "`KEY=( value value )`" + ` with literal text are accepted. All problems of all files
are reported at once and nothing is written until there is none.

` + "`CC_CONFIG_DIR`" + ` chooses another folder. ` + "`CC_PROFILE=minimal`" + ` lays
` + "`config/profiles/minimal.conf`" + ` over the six files; a profile may set any key.

- ` + "`mage config:validate`" + ` checks, ` + "`mage config:show`" + ` prints each effective value with
  the line that set it, ` + "`mage config:show -verbose`" + ` explains them.
- Sizes are a whole number and K, M, G or T (binary: 1M is 1048576 bytes);
  intervals a whole number and m, h or d; switches yes or no.
- "Takes effect" says what has to be repeated after a change: *build* the image
  again, *install* it again, or only define and start the VM again (*run*).
`)
	for _, f := range files() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", f.name, f.about)
		for _, k := range table() {
			if k.file != f.name {
				continue
			}
			fmt.Fprintf(&b, "\n### %s\n\n%s %s\n\n", k.name, k.meaning, k.consequence)
			fmt.Fprintf(&b, "- default: `%s`\n- allowed: %s\n- takes effect: %s\n", k.shell(k.def), k.allowed, k.when)
		}
	}
	b.WriteString("\n## Rules between keys\n\n")
	for _, r := range rules() {
		fmt.Fprintf(&b, "- %s\n", r.text)
	}
	b.WriteString("\n## Policy words, bit by bit\n")
	for _, name := range policyWords() {
		fmt.Fprintf(&b, "\n### Bits of %s\n\n| bit | set | clear |\n|---|---|---|\n", name)
		for _, bit := range policyBits(name) {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", bit.numbers(), bit.set+bit.number, bit.clear)
		}
	}
	return b.Bytes()
}

// commentWidth is the length of a comment line in the shipped files.
const commentWidth = 96

// template returns a shipped configuration file: every key of it with its
// default and a comment.
func template(f file) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# %s\n# Every key, its limits and effects: docs/configuration.md, or `mage config:show -verbose`.\n", f.about)
	for _, k := range table() {
		if k.file != f.name {
			continue
		}
		b.WriteByte('\n')
		for _, line := range k.comment() {
			b.WriteString("# " + line + "\n")
		}
		b.WriteString(k.shell(k.def) + "\n")
	}
	return b.Bytes()
}

// comment returns the lines above a key in a shipped file, without the #.
func (k key) comment() []string {
	const width = commentWidth - len("# ")
	return append(wrap(k.meaning, width), wrap("Allowed: "+k.allowed+".", width)...)
}

// wrap breaks text at spaces into lines of at most width bytes.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, w := range strings.Fields(text) {
		if line != "" && len(line)+1+len(w) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	return append(lines, line)
}
