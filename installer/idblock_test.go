package main

// What green does not prove: no secure processor took one of these blocks.
// Package idblock has the tests of their layout.

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
	"cc-base/tasks/lab"
	"cc-base/tasks/tee/ovmf/ovmftest"
	"cc-base/tasks/tee/snp"
	"cc-base/tasks/tee/snp/idblock"
)

// runIDBlock runs the command with DIR in its arguments replaced.
func runIDBlock(t *testing.T, dir, args string) (string, error) {
	t.Helper()
	var out, log bytes.Buffer
	err := measureIDBlock(t.Context(), &app{out: &out, err: &log}, strings.Fields(strings.ReplaceAll(args, "DIR", dir)))
	return out.String(), err
}

// idBlockFiles are those that are measured, and two keys.
func idBlockFiles(t *testing.T) string {
	t.Helper()
	dir := measureFiles(t)
	for _, name := range []string{"id.key", "author.key"} {
		if _, err := idblock.CreateKey(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func publicKey(t *testing.T, file string) *ecdsa.PublicKey {
	t.Helper()
	key, err := idblock.ReadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey
}

func TestIDBlockStatesWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	dir := idBlockFiles(t)
	digest := strings.Repeat("0a", 48)
	kernel, err := snp.HashBoot(bytes.NewReader(filetest.Read(t, filepath.Join(dir, "kernel"))), strings.NewReader("initrd"), "quiet")
	if err != nil {
		t.Fatal(err)
	}
	launched, err := snp.Launch(ovmftest.SNP().Image(), snp.Options{VCPUs: 2, Model: "EPYC-v4", Features: 0x21, Kernel: &kernel})
	if err != nil {
		t.Fatal(err)
	}
	const files = " --id-key DIR/id.key --out-block DIR/block --out-auth DIR/auth"
	for _, tt := range []struct {
		args   string
		digest string
		want   idblock.Block // but the digest
		author bool
	}{
		{"--digest " + digest + files, digest, idblock.Block{Policy: 0x30000}, false},
		{"--digest " + digest + " --author-key DIR/author.key --guest-svn 4294967295 --policy 0x20000" + files, digest, idblock.Block{GuestSVN: 1<<32 - 1, Policy: 0x20000}, true},
		{"--digest " + digest + " --family-id " + strings.Repeat("0f", 16) + " --image-id " + strings.Repeat("01", 16) + files, digest,
			idblock.Block{Policy: 0x30000, FamilyID: [16]byte(bytes.Repeat([]byte{15}, 16)), ImageID: [16]byte(bytes.Repeat([]byte{1}, 16))}, false},
		{"--firmware DIR/snp.fd --vcpus 2 --cpu-model EPYC-v4 --guest-features 0x21 --kernel DIR/kernel --initrd DIR/initrd --append quiet --guest-svn 3" + files, launched.String(),
			idblock.Block{GuestSVN: 3, Policy: 0x30000}, false},
	} {
		out, err := runIDBlock(t, dir, tt.args+" --json")
		var got idBlockResult
		if err != nil || json.Unmarshal([]byte(out), &got) != nil {
			t.Errorf("%s: %s, %v", tt.args, out, err)
			continue
		}
		block, auth := filetest.Read(t, filepath.Join(dir, "block")), filetest.Read(t, filepath.Join(dir, "auth"))
		stated, id, author, err := idblock.Verify(block, auth)
		if err != nil || !id.Equal(publicKey(t, filepath.Join(dir, "id.key"))) {
			t.Errorf("%s: %v, or another ID key", tt.args, err)
			continue
		}
		copy(tt.want.LaunchDigest[:], unhex(t, tt.digest))
		if stated != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.args, stated, tt.want)
		}
		if (author != nil) != tt.author || tt.author && !author.Equal(publicKey(t, filepath.Join(dir, "author.key"))) {
			t.Errorf("%s: author key %v", tt.args, author)
		}
		if got.LaunchDigest.String() != tt.digest || got.GuestSVN != tt.want.GuestSVN || (got.AuthorKeyDigest != "") != tt.author ||
			got.Block != base64.StdEncoding.EncodeToString(block) || got.Auth != base64.StdEncoding.EncodeToString(auth) {
			t.Errorf("%s: %+v", tt.args, got)
		}
		sum, err := idblock.KeyDigest(id)
		if err != nil || got.IDKeyDigest != snp.Digest(sum) {
			t.Errorf("%s: ID key digest %s, %v", tt.args, got.IDKeyDigest, err)
		}
		text, err := runIDBlock(t, dir, tt.args)
		if err != nil || !strings.HasPrefix(text, "launch digest      "+tt.digest+"\n") || !strings.Contains(text, "\nid key digest      "+hex.EncodeToString(sum[:])+"\n") {
			t.Errorf("%s: %v\n%s", tt.args, err, text)
		}
	}
	filetest.Only(t, dir, "auth", "author.key", "block", "id.key", "initrd", "kernel", "snp.fd", "tdx.fd", "text", "uki")
}

func TestIDBlockMakesAKeyOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, err := runIDBlock(t, dir, "--new-key DIR/id.key")
	if err != nil {
		t.Fatal(err)
	}
	sum, err := idblock.KeyDigest(publicKey(t, filepath.Join(dir, "id.key")))
	if err != nil || out != hex.EncodeToString(sum[:])+"\n" {
		t.Errorf("%q, want %x, %v", out, sum, err)
	}
	before := filetest.Read(t, filepath.Join(dir, "id.key"))
	if out, err := runIDBlock(t, dir, "--new-key DIR/id.key"); err == nil || !strings.Contains(err.Error(), "never overwritten") || out != "" {
		t.Errorf("a second time: %q, %v", out, err)
	}
	if !bytes.Equal(before, filetest.Read(t, filepath.Join(dir, "id.key"))) {
		t.Error("the key was overwritten")
	}
	if _, err := runIDBlock(t, dir, "--new-key DIR/none/id.key"); fault.Of(err) == nil || fault.Of(err).Code != fault.SigningKey {
		t.Errorf("no folder: %v", err)
	}
}

func TestIDBlockSaysWhatIsWrongAndWritesNothing(t *testing.T) {
	t.Parallel()
	dir := idBlockFiles(t)
	filetest.Write(t, filepath.Join(dir, "open.key"), filetest.Read(t, filepath.Join(dir, "id.key")))
	if err := os.Link(filepath.Join(dir, "id.key"), filepath.Join(dir, "same.key")); err != nil {
		t.Fatal(err)
	}
	before := filetest.Names(t, dir)
	digest := "--digest " + strings.Repeat("0a", 48)
	const out = " --out-block DIR/block --out-auth DIR/auth"
	const key = " --id-key DIR/id.key"
	good := digest + key + out
	for args, text := range map[string]string{
		"":                               "--id-key is missing",
		digest + key:                     "--out-block is missing",
		digest + out:                     "--id-key is missing",
		key + out:                        "--digest or --firmware is missing",
		good + " --firmware DIR/snp.fd":  "--digest stands for",
		good + " --guest-features 0x21":  "--digest stands for",
		good + " --new-key DIR/other":    "stands alone",
		good + " more":                   "unexpected argument",
		good + " --nonesuch":             "not defined",
		good + " --guest-svn 4294967296": "--guest-svn",
		good + " --guest-svn -1":         "--guest-svn",
		good + " --policy many":          "--policy",
		good + " --policy 0x3":           "policy 0x3",
		good + " --policy 0xb0000":       "allows debugging",
		good + " --family-id 00":         "--family-id is not 32 hexadecimal digits",
		good + " --image-id " + strings.Repeat("x", 32):                                           "--image-id is not 32",
		"--digest 00" + key + out:                                                                 "--digest is not 96 hexadecimal digits",
		"--digest " + strings.Repeat("0", 96) + key + out:                                         "all zeros",
		"--firmware DIR/snp.fd" + key + out:                                                       "needs --vcpus and --cpu-model",
		"--firmware DIR/snp.fd --vcpus x --cpu-model EPYC" + key + out:                            "--vcpus",
		"--firmware DIR/snp.fd --vcpus 1 --cpu-model host" + key + out:                            "unknown CPU model",
		"--firmware DIR/tdx.fd --vcpus 1 --cpu-model EPYC" + key + out:                            "no SEV metadata",
		"--firmware DIR/none --vcpus 1 --cpu-model EPYC" + key + out:                              "no such file",
		"--firmware DIR/snp.fd --vcpus 1 --cpu-model EPYC --append x" + key + out:                 "with --kernel only",
		digest + " --id-key DIR/none" + out:                                                       "no such file",
		digest + " --id-key DIR/text" + out:                                                       "no private key",
		digest + " --id-key DIR/open.key" + out:                                                   "others may read it",
		good + " --author-key DIR/none":                                                           "no such file",
		good + " --author-key DIR/id.key":                                                         "must be another one",
		good + " --author-key DIR/same.key":                                                       "must be another one",
		digest + key + " --out-block DIR/x --out-auth DIR/x":                                      "one file",
		digest + key + " --out-block DIR/id.key --out-auth DIR/x":                                 "--out-block and --id-key are one file",
		digest + key + " --out-block DIR/same.key --out-auth DIR/x":                               "--out-block and --id-key are one file",
		digest + key + " --author-key DIR/author.key --out-block DIR/x --out-auth DIR/author.key": "--out-auth and --author-key are one file",
		digest + key + " --out-block DIR/none/block --out-auth DIR/auth":                          "no such file",
	} {
		got, err := runIDBlock(t, dir, args)
		if err == nil || !strings.Contains(err.Error(), text) || got != "" {
			t.Errorf("%s: %q, %v, want %s", args, got, err, text)
		}
		if err != nil && strings.Contains(err.Error(), "PRIVATE KEY") {
			t.Errorf("%s: %v", args, err)
		}
		if now := filetest.Names(t, dir); !slices.Equal(now, before) {
			t.Fatalf("%s: left %v", args, now)
		}
	}
}

// The row in measure.go is what makes it a command.
func TestIDBlockIsAMeasurement(t *testing.T) {
	t.Parallel()
	help, err := runMeasure(t, "", "help")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(help, "measure idblock "+idBlockUsage+"\n") {
		lab.Absent(t, "the table of `cc-install measure` has no row for idblock")
	}
	dir := t.TempDir()
	if out, err := runMeasure(t, dir, "idblock", "--new-key", "DIR/key"); err != nil || len(out) != 97 {
		t.Errorf("%q, %v", out, err)
	}
	_, err = runMeasure(t, dir, "idblock", "--new-key", "DIR/key")
	if f := fault.Of(err); f == nil || f.Code != fault.Usage {
		t.Errorf("a second time: %v", err)
	}
}

// Every command of docs/keys.md is run: those of cc-install here, those of mage
// by a script of tasks/build.
func TestTheCommandsOfTheKeyPageRun(t *testing.T) {
	page := string(filetest.Read(t, "../docs/keys.md"))
	script := string(filetest.Read(t, "../tasks/build/testdata/script/buildkeys.txtar"))
	t.Chdir(idBlockFiles(t))
	for from, to := range map[string]string{"snp.fd": "OVMF.amdsev.fd", "uki": "cc-base.efi"} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"id.key", "author.key"} {
		if err := os.Remove(name); err != nil { // the page makes them
			t.Fatal(err)
		}
	}
	ran := 0
	for _, command := range shellLines(page) {
		words := strings.Fields(command)
		switch {
		case strings.HasPrefix(command, "go tool mage "):
			// The file's name is the user's in one and the script's in the other.
			verb := strings.TrimPrefix(command, "go tool ")
			if i := strings.Index(verb, "="); i > 0 {
				verb = verb[:i]
			}
			if !strings.Contains(script, "exec "+verb) {
				t.Errorf("no test runs %s", command)
			}
		case strings.HasPrefix(command, "cc-install measure idblock "):
			if out, err := runIDBlock(t, ".", strings.Join(words[3:], " ")); err != nil || out == "" {
				t.Errorf("%s: %q, %v", command, out, err)
			}
		case words[0] == "cc-install":
			var out, log bytes.Buffer
			if err := (&app{out: &out, err: &log}).run(t.Context(), words[1:]); err != nil || out.Len() == 0 {
				t.Errorf("%s: %q, %v", command, out.String(), err)
			}
		default:
			t.Errorf("no test runs %s", command)
		}
		ran++
	}
	if ran < 6 {
		t.Errorf("only %d commands were found", ran)
	}
	if _, _, author, err := idblock.Verify(filetest.Read(t, "block"), filetest.Read(t, "auth")); err != nil || author == nil {
		t.Errorf("what the page makes: %v", err)
	}
}

// shellLines are the commands in the shell blocks of a page, with lines that end
// in a backslash joined.
func shellLines(page string) []string {
	var lines []string
	inside := false
	for line := range strings.Lines(strings.ReplaceAll(page, "\\\n", " ")) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```sh"
		case inside && line != "":
			lines = append(lines, line)
		}
	}
	return lines
}
