package conf

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cc-base/tasks/conf/literal"
	"cc-base/tasks/fault"

	"github.com/google/go-cmp/cmp"
)

// broken is a configuration that must be refused. Files that a case does not
// name are empty, which means defaults throughout.
type broken struct {
	name    string
	files   map[string]string // base name or profiles/NAME.conf -> text
	profile string
	want    string // the whole error text, paths below the folder
}

// one is a case with a single file.
func one(name, file, text, want string) broken {
	return broken{name: name, files: map[string]string{file: text}, want: want}
}

func brokenSyntax() []broken {
	return []broken{
		one("a command", "os.conf", "rm -rf /\n",
			`os.conf:1:1: the command "rm" is not allowed; allowed: assignments only: the file is read, never executed`),
		one("command substitution", "os.conf", "HOSTNAME=\"$(hostname)\"\n",
			`os.conf:1:11: HOSTNAME: command substitution is not allowed; allowed: literal text only: the file is read, never executed`),
		one("backquotes", "os.conf", "HOSTNAME=`hostname`\n",
			"os.conf:1:10: HOSTNAME: command substitution is not allowed; allowed: literal text only: the file is read, never executed"),
		one("an expansion", "os.conf", "SUITE=trixie\nHOSTNAME=\"cc-$SUITE\"\n",
			`os.conf:2:14: HOSTNAME: $ expansion is not allowed; allowed: literal text only: the file is read, never executed`),
		one("arithmetic", "tee.conf", "TEE_VCPUS=$((2*2))\n",
			`tee.conf:1:11: TEE_VCPUS: $ expansion is not allowed; allowed: literal text only: the file is read, never executed`),
		one("process substitution", "os.conf", "MIRROR=<(cat x)\n",
			`os.conf:1:8: MIRROR: process substitution is not allowed; allowed: literal text only: the file is read, never executed`),
		one("appending", "os.conf", "PACKAGES+=( vim )\n",
			`os.conf:1:1: PACKAGES: += is not allowed; allowed: = with the whole value`),
		one("export", "os.conf", "export SUITE=trixie\n",
			`os.conf:1:1: export is not allowed; allowed: assignments only: the file is read, never executed`),
		one("declare", "os.conf", "declare -a PACKAGES=( vim )\n",
			`os.conf:1:1: declare is not allowed; allowed: assignments only: the file is read, never executed`),
		one("spaces around the equals sign", "os.conf", "SUITE= trixie\n",
			`os.conf:1:1: the command "trixie" is not allowed (after SUITE=: no space around =, and quotes around a value with spaces); allowed: assignments only: the file is read, never executed`),
		one("spaces on both sides of the equals sign", "os.conf", "SUITE = trixie\n",
			`os.conf:1:1: the command "SUITE" is not allowed (no space around =); allowed: assignments only: the file is read, never executed`),
		one("a space before the equals sign", "os.conf", "SUITE =\"trixie\"\n",
			`os.conf:1:1: the command "SUITE" is not allowed (no space around =); allowed: assignments only: the file is read, never executed`),
		one("an assignment before a command", "os.conf", "SUITE=sid true\n",
			`os.conf:1:1: the command "true" is not allowed (after SUITE=: no space around =, and quotes around a value with spaces); allowed: assignments only: the file is read, never executed`),
		one("an assignment in the background", "os.conf", "SUITE=sid &\n",
			`os.conf:1:1: a command is not allowed; allowed: assignments only: the file is read, never executed`),
		one("a redirection", "os.conf", "SUITE=sid >/tmp/x\n",
			`os.conf:1:1: a command is not allowed; allowed: assignments only: the file is read, never executed`),
		one("a condition", "os.conf", "if true; then SUITE=sid; fi\n",
			`os.conf:1:1: a command is not allowed; allowed: assignments only: the file is read, never executed`),
		one("a function", "os.conf", "f() { SUITE=sid; }\n",
			`os.conf:1:1: a command is not allowed; allowed: assignments only: the file is read, never executed`),
		one("an array element", "os.conf", "PACKAGES[1]=vim\n",
			`os.conf:1:1: PACKAGES: setting one element is not allowed; allowed: KEY=( value value ) with the whole array`),
		one("an array with indices", "os.conf", "PACKAGES=( [0]=vim )\n",
			`os.conf:1:13: PACKAGES: an array index is not allowed; allowed: KEY=( value value )`),
		one("a pattern in an array", "os.conf", "PACKAGES=( linux-* )\n",
			`os.conf:1:12: PACKAGES: "*" is special to a shell and must be quoted; allowed: literal text only: the file is read, never executed`),
		one("a brace expansion", "os.conf", "PACKAGES=( lib{a,b} )\n",
			`os.conf:1:12: PACKAGES: "{" is special to a shell and must be quoted; allowed: literal text only: the file is read, never executed`),
		one("a home folder", "qemu.conf", "QEMU_FIRMWARE=~/OVMF.fd\n",
			`qemu.conf:1:15: QEMU_FIRMWARE: "~" is special to a shell and must be quoted; allowed: literal text only: the file is read, never executed`),
		one("a backslash", "os.conf", `HOSTNAME="a\"b"`+"\n",
			`os.conf:1:11: HOSTNAME: a backslash is not allowed; allowed: literal text only: the file is read, never executed`),
		one("quoting with escapes", "os.conf", `HOSTNAME=$'cc'`+"\n",
			`os.conf:1:10: HOSTNAME: $'…' quoting is not allowed; allowed: literal text only: the file is read, never executed`),
		one("a forgotten quote hides nothing else", "os.conf", "HOSTNAME=\"cc-base\nSUITE=buzz\nEXPERIMENTAL=maybe\n",
			"os.conf:1:10: not valid shell syntax: reached EOF without closing quote \"; allowed: KEY=\"value\" or KEY=( value value )\n"+
				`os.conf:2:7: SUITE: "buzz" is not known; allowed: debian: trixie, forky, sid; ubuntu: noble, plucky, questing, resolute`+"\n"+
				`os.conf:3:14: EXPERIMENTAL: "maybe" is neither yes nor no; allowed: yes, no`),
		one("a syntax error does not blame other keys", "os.conf", "DISTRIBUTION=ubuntu\nEXPERIMENTAL=yes\nSUITE=\"noble\n",
			"os.conf:3:7: not valid shell syntax: reached EOF without closing quote \"; allowed: KEY=\"value\" or KEY=( value value )"),
		one("an array that does not end", "os.conf", "PACKAGES=( vim\n",
			"os.conf:1:10: not valid shell syntax: reached EOF without matching ( with ); allowed: KEY=\"value\" or KEY=( value value )"),
		one("a quote that closes in a later line", "os.conf", "HOSTNAME=\"cc\nLOCALE=\"\n",
			`os.conf:1:10: HOSTNAME: the value has a line break or a tab in it; allowed: one line of text; is a closing quote missing?`),
		one("Windows line ends", "os.conf", "SUITE=trixie\r\n",
			`os.conf:1:13: the line ends in a carriage return (Windows line ends); allowed: UTF-8 text with Unix line ends`),
		one("a zero byte", "os.conf", "SUITE=tri\x00xie\n",
			`os.conf:1:10: the byte 0x00 is not text; allowed: UTF-8 text with Unix line ends`),
		one("bytes that are not UTF-8", "os.conf", "# caf\xe9\n",
			`os.conf:1:6: the byte 0xe9 is not text; allowed: UTF-8 text with Unix line ends`),
		one("a file that is far too long", "os.conf", strings.Repeat("#", literal.MaxFile+1),
			`os.conf:1:1: the file has 262145 bytes; allowed: at most 262144`),
	}
}

func brokenKeys() []broken {
	return []broken{
		one("an unknown key", "os.conf", "COLOUR=red\n",
			`os.conf:1:1: COLOUR: there is no such key`),
		one("a misspelt key", "tee.conf", "\n  TEE_MEMORY_SZIE=8G\n",
			`tee.conf:2:3: TEE_MEMORY_SZIE: there is no such key; did you mean TEE_MEMORY_SIZE`),
		one("a key in lower case", "os.conf", "suite=trixie\n",
			`os.conf:1:1: suite: there is no such key; did you mean SUITE`),
		one("a key twice", "os.conf", "SUITE=trixie\n# again\nSUITE=sid\n",
			`os.conf:3:1: SUITE: it is set twice, first in line 1; allowed: once per file`),
		one("a key in the wrong file", "os.conf", "TEE_TYPE=none\n",
			`os.conf:1:1: TEE_TYPE: it does not belong in this file; allowed: tee.conf`),
		one("an array for a single value", "os.conf", "SUITE=( trixie )\n",
			`os.conf:1:1: SUITE: it is written in the wrong form; allowed: SUITE="value"`),
		one("a single value for an array", "os.conf", "PACKAGES=vim\n",
			`os.conf:1:1: PACKAGES: it is written in the wrong form; allowed: PACKAGES=( value value )`),
		one("a value that is far too long", "os.conf", "HOSTNAME="+strings.Repeat("a", maxWord+1)+"\n",
			`os.conf:1:10: HOSTNAME: the value has 1025 bytes; allowed: at most 1024`),
		{name: "a missing file", files: map[string]string{"tee.conf": "(remove)"},
			want: `tee.conf: the file is missing`},
		{name: "a misspelt file", files: map[string]string{"tee.conf": "(remove)", "tees.conf": ""},
			want: "tee.conf: the file is missing\n" +
				`tees.conf: no such configuration file is known; allowed: os.conf, tee.conf, security.conf, qemu.conf, partition.conf, apps.conf; did you mean tee.conf`},
		{name: "a file of another name", files: map[string]string{"site.conf": ""},
			want: `site.conf: no such configuration file is known; allowed: os.conf, tee.conf, security.conf, qemu.conf, partition.conf, apps.conf`},
		{name: "an unknown profile", profile: "minimum", files: map[string]string{"profiles/minimal.conf": ""},
			want: `profiles: there is no profile "minimum"; allowed: default, minimal; did you mean minimal`},
		{name: "a profile outside the folder", profile: "../os", files: map[string]string{"profiles/minimal.conf": ""},
			want: `profiles: there is no profile "../os"; allowed: default, minimal`},
		{name: "mistakes in a profile", profile: "tiny", files: map[string]string{
			"profiles/tiny.conf": "TEE_VCPUS=0\nSIUTE=sid\nVAR_SIZE=1M\n"},
			want: `profiles/tiny.conf:1:11: TEE_VCPUS: 0 is out of range; allowed: 1 to 512` + "\n" +
				`profiles/tiny.conf:2:1: SIUTE: there is no such key; did you mean SUITE` + "\n" +
				`profiles/tiny.conf:3:10: VAR_SIZE: 1M is below the minimum of 16M; allowed: 16M to 64G in whole M`},
		{name: "all problems of all files, sorted", files: map[string]string{
			"tee.conf":      "TEE_TYPE=sev\nTEE_VCPUS=many\n",
			"apps.conf":     "APPS=( cc-attest cc-atest )\n",
			"security.conf": "\n\nTPM_VERSION=1.2\n",
			"os.conf":       "LOCALE=german; TIMEZONE=mars\n"},
			want: `apps.conf:1:18: APPS: "cc-atest" is not known; allowed: cc-attest; did you mean cc-attest` + "\n" +
				`os.conf:1:8: LOCALE: "german" is not a UTF-8 locale; allowed: C.UTF-8 or a UTF-8 locale such as de_DE.UTF-8` + "\n" +
				`os.conf:1:25: TIMEZONE: "mars" is not a time zone; allowed: UTC or a name of the time zone database such as Europe/Berlin` + "\n" +
				`security.conf:3:13: TPM_VERSION: "1.2" is not known; allowed: 2.0` + "\n" +
				`tee.conf:1:10: TEE_TYPE: "sev" is not known; allowed: auto, sev-snp, tdx, none` + "\n" +
				`tee.conf:2:11: TEE_VCPUS: "many" is not a whole number; allowed: 1 to 512`},
	}
}

func brokenValues() []broken {
	const components = `debian: main contrib non-free non-free-firmware; ubuntu: main restricted universe multiverse; main is required`
	const suites = `debian: trixie, forky, sid; ubuntu: noble, plucky, questing, resolute`
	const mirrors = `"" or a URL (http, https, file, copy) without user name or password`
	const settings = `KEY_DIR (absolute path), KEY_ALGO (rsa, ecdsa, ed25519), KEY_SIZE (rsa: 2048, 3072, 4096; ecdsa: 256, 384; ed25519: 256, or none)`
	const operators = `"" or ed25519: and 32 bytes in base64`
	const recipients = `files below the configuration's folder, each one armoured OpenPGP public key`
	const memory = `2G to 16T, a multiple of 2M`
	const pcrs = `numbers of 0 to 9 and 12 to 14 in ascending order, each once`
	const paths = `folders under /etc, /home, /opt, /root, /srv or /var, but not in /etc/systemd, /etc/cc/config or /opt/cc, and none inside another`
	return []broken{
		one("a misspelt distribution", "os.conf", "DISTRIBUTION=debain\n",
			`os.conf:1:14: DISTRIBUTION: "debain" is not known; allowed: debian, ubuntu (with EXPERIMENTAL=yes); did you mean debian`),
		one("a debian that is too old", "os.conf", "SUITE=bookworm\n",
			`os.conf:1:7: SUITE: bookworm is refused: it has no tooling for unified kernel images (systemd-ukify); allowed: `+suites),
		one("a suite that moves", "os.conf", "SUITE=stable\n",
			`os.conf:1:7: SUITE: stable is refused: it names another release every few years, so a build could not be repeated; allowed: `+suites),
		one("tools from ubuntu", "os.conf", "TOOLS_SUITE=noble\n",
			`os.conf:1:13: TOOLS_SUITE: "noble" is not known; allowed: trixie, forky, sid`),
		one("a mirror without a scheme", "os.conf", "MIRROR=mirror.example/debian\n",
			`os.conf:1:8: MIRROR: "mirror.example/debian" does not say how to fetch from it, such as https://; allowed: `+mirrors),
		one("a mirror by FTP", "os.conf", "MIRROR=ftp://mirror.example/debian\n",
			`os.conf:1:8: MIRROR: "ftp://mirror.example/debian" has a scheme that mmdebstrap cannot use; allowed: `+mirrors),
		one("a mirror with a password, which is not repeated", "os.conf", "MIRROR=https://me:hunter2@mirror.example/debian\n",
			`os.conf:1:8: MIRROR: a user name or password in the URL would end up in logs and in the image; allowed: `+mirrors),
		one("a snapshot that is no time", "os.conf", "SNAPSHOT=20260231T000000Z\n",
			`os.conf:1:10: SNAPSHOT: "20260231T000000Z" is not a time; allowed: "" or a UTC time such as 20260101T000000Z`),
		one("no main component", "os.conf", "COMPONENTS=( contrib )\n",
			`os.conf:1:1: COMPONENTS: main is missing: the base system comes from it`),
		one("a misspelt component", "os.conf", "COMPONENTS=( main non-fre )\n",
			`os.conf:1:19: COMPONENTS: "non-fre" is not known; allowed: `+components+`; did you mean non-free`),
		one("a package twice", "os.conf", "PACKAGES=( vim less vim )\n",
			`os.conf:1:21: PACKAGES: "vim" is there twice; allowed: names of packages of the distribution`),
		one("an option as a package", "os.conf", "PACKAGES=( --allow-unauthenticated )\n",
			`os.conf:1:12: PACKAGES: "--allow-unauthenticated" is not a package name; allowed: names of packages of the distribution`),
		one("a host name with a dot", "os.conf", "HOSTNAME=cc.example\n",
			`os.conf:1:10: HOSTNAME: "cc.example" is not a host name; allowed: 1 to 63 of a-z 0-9 -, no - at either end`),
		one("a time before FAT", "os.conf", "SOURCE_DATE_EPOCH=0\n",
			`os.conf:1:19: SOURCE_DATE_EPOCH: 0 is out of range; allowed: seconds since 1970, 315532800 (1980, the first FAT can store) to 4294967295`),
		one("a number with a leading zero", "tee.conf", "TEE_VCPUS=08\n",
			`tee.conf:1:11: TEE_VCPUS: "08" is not a whole number; allowed: 1 to 512`),
		one("too many CPUs", "tee.conf", "TEE_VCPUS=513\n",
			`tee.conf:1:11: TEE_VCPUS: 513 is out of range; allowed: 1 to 512`),
		one("no number of CPUs to measure", "tee.conf", "MEASURE_VCPUS=( )\n",
			`tee.conf:1:1: MEASURE_VCPUS: it is empty; allowed: at least one whole number of 1 to 512, each once`),
		one("a number of CPUs in two spellings", "tee.conf", "MEASURE_VCPUS=( 4 04 513 4 )\n",
			`tee.conf:1:19: MEASURE_VCPUS: "04" is not a whole number; allowed: at least one whole number of 1 to 512, each once`+"\n"+
				`tee.conf:1:22: MEASURE_VCPUS: 513 is out of range; allowed: at least one whole number of 1 to 512, each once`+"\n"+
				`tee.conf:1:26: MEASURE_VCPUS: "4" is there twice; allowed: at least one whole number of 1 to 512, each once`),
		one("a CPU model to measure that has no digest", "tee.conf", "MEASURE_CPU_MODELS=( EPYC-Milan host EPYC-Genua )\n",
			`tee.conf:1:33: MEASURE_CPU_MODELS: "host" is not known; allowed: at least one of EPYC-v4, EPYC-Milan, EPYC-Milan-v2, EPYC-Genoa, EPYC-Turin`+"\n"+
				`tee.conf:1:38: MEASURE_CPU_MODELS: "EPYC-Genua" is not known; allowed: at least one of EPYC-v4, EPYC-Milan, EPYC-Milan-v2, EPYC-Genoa, EPYC-Turin; did you mean EPYC-Genoa`),
		one("guest features of no SEV-SNP guest", "tee.conf", "MEASURE_GUEST_FEATURES=( 0x1 0x01 0x20 33 )\n",
			`tee.conf:1:30: MEASURE_GUEST_FEATURES: "0x01" is there twice; allowed: at least one hexadecimal word with bit 0 (SEV-SNP) set`+"\n"+
				`tee.conf:1:35: MEASURE_GUEST_FEATURES: 0x20 has bit 0 clear: that is no SEV-SNP guest; allowed: at least one hexadecimal word with bit 0 (SEV-SNP) set`+"\n"+
				`tee.conf:1:40: MEASURE_GUEST_FEATURES: "33" is not a hexadecimal word; allowed: at least one hexadecimal word with bit 0 (SEV-SNP) set`),
		one("memory without a unit", "tee.conf", "TEE_MEMORY_SIZE=8\n",
			`tee.conf:1:17: TEE_MEMORY_SIZE: the size 8 has no unit; allowed: `+memory),
		one("memory with a wrong unit", "tee.conf", "TEE_MEMORY_SIZE=8GB\n",
			`tee.conf:1:17: TEE_MEMORY_SIZE: the size 8GB has the unknown unit "GB"; allowed: `+memory),
		one("too little memory", "tee.conf", "TEE_MEMORY_SIZE=1G\n",
			`tee.conf:1:17: TEE_MEMORY_SIZE: 1G is below the minimum of 2G; allowed: `+memory),
		one("memory that is not whole pages", "tee.conf", "TEE_MEMORY_SIZE=4097M\n",
			`tee.conf:1:17: TEE_MEMORY_SIZE: 4097M is not a multiple of 2M; allowed: `+memory),
		one("memory beyond counting", "tee.conf", "TEE_MEMORY_SIZE=999999999999999T\n",
			`tee.conf:1:17: TEE_MEMORY_SIZE: the size 999999999999999T is too large; allowed: `+memory),
		one("a decimal policy word", "tee.conf", "TEE_POLICY=3\n",
			`tee.conf:1:12: TEE_POLICY: "3" is not a hexadecimal word; allowed: a legacy SEV word: bits 0 (no debugging) and 1 (no key sharing) set, bits 2 to 5 free`),
		one("an unknown key setting", "tee.conf", `TEE_KEY_SETTINGS=( KEY_DIR="/etc/cc/keys" KEY_SZE="4096" )`+"\n",
			`tee.conf:1:43: TEE_KEY_SETTINGS: "KEY_SZE" is not known; allowed: `+settings+`; did you mean KEY_SIZE`),
		one("a key size of the other algorithm", "tee.conf", `TEE_KEY_SETTINGS=( KEY_SIZE="4096" KEY_ALGO="ecdsa" )`+"\n",
			`tee.conf:1:20: TEE_KEY_SETTINGS: KEY_SIZE: ecdsa has no size 4096; allowed: `+settings),
		one("a weak key size", "tee.conf", `TEE_KEY_SETTINGS=( KEY_SIZE=1024 )`+"\n",
			`tee.conf:1:20: TEE_KEY_SETTINGS: KEY_SIZE: rsa has no size 1024; allowed: `+settings),
		one("a null cipher", "security.conf", "LUKS_CIPHER=cipher_null-ecb\n",
			`security.conf:1:13: LUKS_CIPHER: cipher_null-ecb encrypts nothing, so the guest would not open the volume; allowed: aes-xts-plain64`),
		one("a cipher whose bits can be flipped", "security.conf", "LUKS_CIPHER=aes-cbc-essiv:sha256\n",
			`security.conf:1:13: LUKS_CIPHER: aes-cbc-essiv:sha256 lets chosen bits be flipped or blocks be compared, so the guest would not open the volume; allowed: aes-xts-plain64`),
		one("a cipher that nobody knows", "security.conf", "LUKS_CIPHER=aes-xts-plain\n",
			`security.conf:1:13: LUKS_CIPHER: "aes-xts-plain" is not known; allowed: aes-xts-plain64; did you mean aes-xts-plain64`),
		one("half a key for XTS", "security.conf", "LUKS_KEY_SIZE=128\n",
			`security.conf:1:15: LUKS_KEY_SIZE: 128 cannot work: XTS splits the key, and AES has no 64-bit one; 256 is AES-128; allowed: 256, 512`),
		one("a key size that XTS does not have", "security.conf", "LUKS_KEY_SIZE=384\n",
			`security.conf:1:15: LUKS_KEY_SIZE: 384 is not supported; allowed: 256, 512`),
		one("a hash that is too weak", "security.conf", "LUKS_HASH=sha1\n",
			`security.conf:1:11: LUKS_HASH: "sha1" is not known; allowed: sha256, sha512`),
		one("a device that is no TPM", "security.conf", "TPM_DEVICE=/dev/sda\n",
			`security.conf:1:12: TPM_DEVICE: "/dev/sda" is not a TPM device; allowed: /dev/tpmN or /dev/tpmrmN`),
		one("PCRs out of order", "security.conf", "TPM_PCR=0,7,2\n",
			`security.conf:1:9: TPM_PCR: PCR 2 comes after 7; allowed: `+pcrs),
		one("a PCR twice", "security.conf", "TPM_PCR=0,7,7\n",
			`security.conf:1:9: TPM_PCR: PCR 7 is there twice; allowed: `+pcrs),
		one("a PCR that does not exist", "security.conf", "TPM_PCR=0,24\n",
			`security.conf:1:9: TPM_PCR: there is no PCR 24; allowed: `+pcrs),
		one("IMA's PCR", "security.conf", "TPM_PCR=7,10\n",
			`security.conf:1:9: TPM_PCR: PCR 10 cannot be bound: IMA extends it with each file that it measures, in the order of their use; allowed: `+pcrs),
		one("the PCR of the volume keys", "security.conf", "TPM_PCR=15\n",
			`security.conf:1:9: TPM_PCR: PCR 15 cannot be bound: it holds the volume keys, each measured as its volume is unlocked; allowed: `+pcrs),
		one("the first PCR of a dynamic launch", "security.conf", "TPM_PCR=7,17\n",
			`security.conf:1:9: TPM_PCR: PCR 17 cannot be bound: it is all ones without a dynamic launch (DRTM), which a virtual machine does not have; allowed: `+pcrs),
		one("the last PCR of a dynamic launch", "security.conf", "TPM_PCR=22\n",
			`security.conf:1:9: TPM_PCR: PCR 22 cannot be bound: it is all ones without a dynamic launch (DRTM), which a virtual machine does not have; allowed: `+pcrs),
		one("a PCR for tests", "security.conf", "TPM_PCR=23\n",
			`security.conf:1:9: TPM_PCR: PCR 23 cannot be bound: any program can reset it, so it protects nothing; allowed: `+pcrs),
		one("an operator's key without its kind", "security.conf", "OPERATOR_KEY=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n",
			`security.conf:1:14: OPERATOR_KEY: it does not begin with ed25519:; allowed: `+operators),
		one("half an operator's key", "security.conf", "OPERATOR_KEY=ed25519:MDEyMzQ1Njc4OWFiY2RlZg==\n",
			`security.conf:1:14: OPERATOR_KEY: it has 16 bytes, an Ed25519 public key has 32; allowed: `+operators),
		one("a placeholder for an operator's key", "security.conf", "OPERATOR_KEY=ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
			`security.conf:1:14: OPERATOR_KEY: it is all zeros; allowed: `+operators),
		one("integrity as a switch", "security.conf", "DYNAMIC_INTEGRITY=yes\n",
			`security.conf:1:19: DYNAMIC_INTEGRITY: "yes" is not known; allowed: auto, on, off`),
		one("a recipient elsewhere", "security.conf", "KEY_RECIPIENTS=( /home/me/key.asc ../key.asc a/../b \"a b\" a.asc a.asc )\n",
			`security.conf:1:18: KEY_RECIPIENTS: "/home/me/key.asc" is not a path below the configuration's folder; allowed: `+recipients+"\n"+
				`security.conf:1:35: KEY_RECIPIENTS: "../key.asc" is not a clean path below the configuration's folder; allowed: `+recipients+"\n"+
				`security.conf:1:46: KEY_RECIPIENTS: "a/../b" is not a clean path below the configuration's folder; allowed: `+recipients+"\n"+
				`security.conf:1:53: KEY_RECIPIENTS: "a b" has characters other than A-Z a-z 0-9 . _ @ + -; allowed: `+recipients+"\n"+
				`security.conf:1:65: KEY_RECIPIENTS: "a.asc" is there twice; allowed: `+recipients),
		one("a TPM's key elsewhere", "security.conf", "TPM_SRK=/run/srk.pub\n",
			`security.conf:1:9: TPM_SRK: "/run/srk.pub" is not a path below the configuration's folder; allowed: "" or a file below the configuration's folder`),
		one("a size that Ed25519 does not have", "tee.conf", `TEE_KEY_SETTINGS=( KEY_SIZE="4096" KEY_ALGO="ed25519" )`+"\n",
			`tee.conf:1:20: TEE_KEY_SETTINGS: KEY_SIZE: ed25519 has no size 4096; allowed: `+settings),
		one("an algorithm that needs a size", "tee.conf", `TEE_KEY_SETTINGS=( KEY_DIR="/k" KEY_ALGO="ecdsa" )`+"\n",
			`tee.conf:1:33: TEE_KEY_SETTINGS: KEY_SIZE: ecdsa has no size 4096; allowed: `+settings),
		one("a PCR that is bound otherwise", "security.conf", "TPM_PCR=7,11\n",
			`security.conf:1:9: TPM_PCR: PCR 11 cannot be bound: it changes while the guest boots; it is always bound, by signature; allowed: `+pcrs),
		one("an interval that is too short", "security.conf", "KEY_ROTATION_INTERVAL=5m\n",
			`security.conf:1:23: KEY_ROTATION_INTERVAL: 5m is out of range; allowed: 1h to 365d, as 90m, 12h or 30d`),
		one("an interval with a wrong unit", "security.conf", "KEY_ROTATION_INTERVAL=2w\n",
			`security.conf:1:23: KEY_ROTATION_INTERVAL: the interval 2w has the unknown unit "w"; allowed: 1h to 365d, as 90m, 12h or 30d`),
		one("true instead of yes", "security.conf", "LOCKDOWN=true\n",
			`security.conf:1:10: LOCKDOWN: "true" is neither yes nor no; allowed: yes, no`),
		one("a relative path", "qemu.conf", "QEMU_FIRMWARE=OVMF.fd\n",
			`qemu.conf:1:15: QEMU_FIRMWARE: "OVMF.fd" is not an absolute path; allowed: an absolute path on the host`),
		one("a path with dots", "qemu.conf", "GPU_SETTINGS_FILE=/etc/cc/../gpu\n",
			`qemu.conf:1:19: GPU_SETTINGS_FILE: "/etc/cc/../gpu" is not a clean path: it means "/etc/gpu"; allowed: an absolute path on the host`),
		one("root without verity", "partition.conf", "ROOT_VERITY=no\n",
			`partition.conf:1:13: ROOT_VERITY: no cannot work: without it a changed disk would boot unnoticed; allowed: yes`),
		one("an encrypted configuration volume", "partition.conf", "CONFIG_ENCRYPT=yes\n",
			`partition.conf:1:16: CONFIG_ENCRYPT: yes cannot work: the guest needs the configuration to find the keys that would open it; allowed: no`),
		one("a partition size with a fraction", "partition.conf", "ROOT_SIZE=1.5G\n",
			`partition.conf:1:11: ROOT_SIZE: "1.5G" is not a size; allowed: auto or a size such as 512M or 2G, at most 64G`),
		one("a misspelt auto", "partition.conf", "ROOT_SIZE=atuo\n",
			`partition.conf:1:11: ROOT_SIZE: "atuo" is not a size; allowed: auto or a size such as 512M or 2G, at most 64G; did you mean auto`),
		one("persistent units", "partition.conf", "PERSISTENT_PATHS=( /var/log /etc/systemd/system )\n",
			`partition.conf:1:29: PERSISTENT_PATHS: /etc/systemd/system must not be persistent: units there decide what runs; allowed: `+paths),
		one("persistent programs and boot files", "partition.conf", "PERSISTENT_PATHS=( /usr/local /boot /opt/cc/data )\n",
			`partition.conf:1:20: PERSISTENT_PATHS: /usr/local must not be persistent: programs there are measured; allowed: `+paths+"\n"+
				`partition.conf:1:31: PERSISTENT_PATHS: /boot must not be persistent: what boots is measured; allowed: `+paths+"\n"+
				`partition.conf:1:37: PERSISTENT_PATHS: /opt/cc/data must not be persistent: applications there are measured; allowed: `+paths),
		one("a persistent folder around one that is measured", "partition.conf", "PERSISTENT_PATHS=( /etc )\n",
			`partition.conf:1:20: PERSISTENT_PATHS: /etc must not be persistent: it contains /etc/systemd, and units there decide what runs; allowed: `+paths),
		one("a mount point over the system", "partition.conf", "DYNAMIC_MOUNT=/usr/local\n",
			`partition.conf:1:15: DYNAMIC_MOUNT: /usr/local cannot be a mount point here; allowed: a folder under /mnt or /srv`),
	}
}

func brokenCombinations() []broken {
	two := func(name, f1, t1, f2, t2, want string) broken {
		return broken{name: name, files: map[string]string{f1: t1, f2: t2}, want: want}
	}
	return []broken{
		one("a bounce buffer without a unit", "tee.conf", "SWIOTLB_SIZE=512\n",
			`tee.conf:1:14: SWIOTLB_SIZE: the size 512 has no unit; allowed: auto, or 64M to 8G in whole M`),
		one("ubuntu without the switch", "os.conf", "DISTRIBUTION=ubuntu\nSUITE=noble\n",
			`os.conf:1:1: DISTRIBUTION: ubuntu images have not been proven by a boot; EXPERIMENTAL=yes permits them`),
		one("a debian release of ubuntu", "os.conf", "DISTRIBUTION=ubuntu\nEXPERIMENTAL=yes\n",
			`os.conf:1:1: DISTRIBUTION: with SUITE=trixie: trixie is a release of debian, not of DISTRIBUTION=ubuntu`),
		one("an ubuntu that is too old", "os.conf", "DISTRIBUTION=ubuntu\nEXPERIMENTAL=yes\nSUITE=jammy\n",
			`os.conf:3:7: SUITE: jammy is refused: it has no tooling for unified kernel images (systemd-ukify); allowed: debian: trixie, forky, sid; ubuntu: noble, plucky, questing, resolute`),
		one("components of the other distribution", "os.conf", "COMPONENTS=( main universe )\n",
			`os.conf:1:1: COMPONENTS: debian has no component universe; it has main contrib non-free non-free-firmware`),
		two("tpm keys on TDX", "tee.conf", "TEE_TYPE=tdx\n", "security.conf", "KEY_PROFILE=tpm\n",
			`security.conf:1:1: KEY_PROFILE: tpm cannot work with TEE_TYPE=tdx: the TDX firmware has no TPM driver, so nothing would be measured into it; use attested`),
		two("snp keys on TDX", "tee.conf", "TEE_TYPE=tdx\n", "security.conf", "KEY_PROFILE=snp\n",
			`security.conf:1:1: KEY_PROFILE: snp cannot work with TEE_TYPE=tdx: only SEV-SNP derives such keys`),
		two("attestation without a TEE", "tee.conf", "TEE_TYPE=none\n", "security.conf", "KEY_PROFILE=attested\n",
			`security.conf:1:1: KEY_PROFILE: attested cannot work with TEE_TYPE=none: a plain VM has nothing to attest with; use tpm`),
		one("attestation without an operator", "security.conf", "KEY_PROFILE=attested\n",
			`security.conf:1:1: KEY_PROFILE: attested cannot work without OPERATOR_KEY: nobody could release the key that opens the volumes`),
		two("attestation without an operator, said outright", "tee.conf", "TEE_TYPE=sev-snp\n", "security.conf", "\nOPERATOR_KEY=\nKEY_PROFILE=attested\n",
			`security.conf:3:1: KEY_PROFILE: attested cannot work without OPERATOR_KEY: nobody could release the key that opens the volumes`),
		one("TDX without an operator", "tee.conf", "TEE_TYPE=tdx\n",
			`tee.conf:1:1: TEE_TYPE: with KEY_PROFILE=auto: auto means attested with TEE_TYPE=tdx, which cannot work without OPERATOR_KEY: nobody could release the key that opens the volumes`),
		two("a TPM to bind to that no profile uses", "tee.conf", "TEE_TYPE=sev-snp\n", "security.conf", "TPM_SRK=srk.pub\n",
			`security.conf:1:1: TPM_SRK: srk.pub has no use: the key profile is snp, and no volume is bound to a TPM alone`),
		one("SEV-SNP from disk", "tee.conf", "TEE_TYPE=sev-snp\nBOOT_MODE=disk\n",
			`tee.conf:2:1: BOOT_MODE: disk cannot work with SEV-SNP keys: what boots from disk is not in the launch digest, so any disk would get the key; use direct or auto`),
		two("a named CPU on TDX", "security.conf", operator+"\n", "tee.conf", "TEE_TYPE=tdx\nTEE_CPU_MODEL=EPYC-v4\n",
			`tee.conf:2:1: TEE_CPU_MODEL: EPYC-v4 cannot work with TEE_TYPE=tdx: TDX guests see the host's CPU; use auto`),
		{name: "an emulated CPU on TDX", files: map[string]string{"tee.conf": "TEE_TYPE=tdx\n", "security.conf": operator + "\n", "qemu.conf": "QEMU_CPU_TYPE=max\n"},
			want: `qemu.conf:1:1: QEMU_CPU_TYPE: max cannot work with TEE_TYPE=tdx; use host-passthrough`},
		one("debugging in the legacy word", "tee.conf", "TEE_POLICY=0x02\n",
			`tee.conf:1:1: TEE_POLICY: 0x02 allows debugging (bit 0 clear): the host could read and change the guest's memory; only with INSECURE_DEBUG=yes`),
		one("key sharing", "tee.conf", "TEE_POLICY=0x01\n",
			`tee.conf:1:1: TEE_POLICY: 0x01 asks for key sharing (bit 1 clear), which SEV-SNP and TDX do not have`),
		one("a legacy word with a firmware version", "tee.conf", "TEE_POLICY=0x10003\n",
			`tee.conf:1:1: TEE_POLICY: 0x10003 has bits that have no translation: 16`),
		one("the legacy word as an SNP policy", "tee.conf", "TEE_POLICY_SNP=0x03\n",
			`tee.conf:1:1: TEE_POLICY_SNP: 0x03 is not a valid policy: bit 17 must be set`),
		one("an SNP policy with debugging", "tee.conf", "TEE_POLICY_SNP=0xb0000\n",
			`tee.conf:1:1: TEE_POLICY_SNP: 0xb0000 allows debugging (bit 19): the host could read and change the guest's memory; only with INSECURE_DEBUG=yes`),
		one("an SNP policy with reserved bits", "tee.conf", "TEE_POLICY_SNP=0x8030000\n",
			`tee.conf:1:1: TEE_POLICY_SNP: 0x8030000 has reserved bits: 27`),
		one("an SNP policy of zero", "tee.conf", "TEE_POLICY_SNP=0x0\n",
			`tee.conf:1:16: TEE_POLICY_SNP: 0x0 has none of the required bits; allowed: "" or a word with bit 17 set and none above bit 25`),
		one("a TDX word with debugging", "tee.conf", "TEE_POLICY_TDX=0x10000001\n",
			`tee.conf:1:1: TEE_POLICY_TDX: 0x10000001 allows debugging (bit 0): the host could read and change the guest's memory; only with INSECURE_DEBUG=yes`),
		one("a TDX word that Linux refuses", "tee.conf", "TEE_POLICY_TDX=0x40000000\n",
			`tee.conf:1:1: TEE_POLICY_TDX: 0x40000000 lacks bit 28 (SEPT_VE_DISABLE), without which Linux refuses to start`),
		one("persistent paths inside each other", "partition.conf", "PERSISTENT_PATHS=( /var/lib /var/lib/cc )\n",
			`partition.conf:1:1: PERSISTENT_PATHS: /var/lib and /var/lib/cc lie inside each other`),
		one("a persistent path in a moved application volume", "partition.conf", "APP_MOUNT=/srv/apps\nPERSISTENT_PATHS=( /srv/apps/data )\n",
			`partition.conf:2:1: PERSISTENT_PATHS: /srv/apps/data overlaps /srv/apps, where the app volume is mounted`),
		one("volumes mounted inside each other", "partition.conf", "APP_MOUNT=/srv/a\nDYNAMIC_MOUNT=/srv/a/b\n",
			`partition.conf:2:1: DYNAMIC_MOUNT: /srv/a (app) and /srv/a/b (dynamic) overlap`),
		one("keys on a read-only volume", "tee.conf", "TEE_KEY_SETTINGS=( KEY_DIR=/opt/cc/keys )\n",
			`tee.conf:1:1: TEE_KEY_SETTINGS: KEY_DIR /opt/cc/keys is in /opt/cc, which is read-only in the guest`),
	}
}

// writeConfig makes a folder with six empty files and then those of files.
func writeConfig(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"os.conf", "tee.conf", "security.conf", "qemu.conf", "partition.conf", "apps.conf"} {
		if files[f] != "(remove)" {
			write(f, "")
		}
	}
	for name, text := range files {
		if text != "(remove)" {
			write(name, text)
		}
	}
	return dir
}

func TestBrokenConfigurationsGetTheirExactMessage(t *testing.T) {
	t.Parallel()
	var cases []broken
	for _, group := range [][]broken{brokenSyntax(), brokenKeys(), brokenValues(), brokenCombinations()} {
		cases = append(cases, group...)
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := writeConfig(t, tc.files)
			_, err := Load(Options{Dir: dir, Profile: tc.profile})
			if err == nil {
				t.Fatal("accepted")
			}
			got := strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), "")
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if f := fault.Of(err); f == nil || f.Code != fault.Config || fault.Exit(err) != 2 {
				t.Errorf("not a configuration fault: exit %d", fault.Exit(err))
			}
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 {
				t.Error("the error does not wrap Problems")
			}
		})
	}
}

func TestMissingFolderIsAConfigurationFault(t *testing.T) {
	t.Parallel()
	_, err := Load(Options{Dir: filepath.Join(t.TempDir(), "none")})
	if f := fault.Of(err); f == nil || f.Code != fault.Config || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("err = %v", err)
	}
}
