package build_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cc-base/tasks/lab"
)

// shownCommands returns every command that README and the documents show: the
// lines of their shell blocks, and what stands in backticks and runs mage.
func shownCommands(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) < 10 {
		t.Fatalf("documents: %q, %v", files, err)
	}
	var text strings.Builder
	for _, file := range append(files, "../../README.md") {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text.Write(data)
	}
	var commands []string
	block := ""
	ticked := regexp.MustCompile("`((?:CC_[A-Z]+=\\S+ )?go tool mage [^`]+)`")
	for _, line := range strings.Split(strings.ReplaceAll(text.String(), "\\\n", ""), "\n") {
		switch {
		case block == "sh" && strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "```"):
			block = strings.TrimPrefix(line, "```")
		case block == "sh" && line != "":
			command, _, _ := strings.Cut(line, "  #") // what is said of it
			commands = append(commands, strings.TrimSpace(command))
		case block == "":
			for _, m := range ticked.FindAllStringSubmatch(line, -1) {
				commands = append(commands, m[1])
			}
		}
	}
	slices.Sort(commands)
	return slices.Compact(commands)
}

// elsewhere names the test that runs a command of README which this one does
// not run itself.
func elsewhere() map[string]string {
	const pipeline = "pipeline_test.go:TestABuildInterruptedTwiceGivesTheSameBytesAndThenRunsOnlyWhatChanged"
	const installs = "../../installer/libvirt_test.go:TestFromABlockDeviceToAVMThatComesBackByItself"
	const running = "script_test.go:TestScripts" // running.txtar
	const sums = "artefact_test.go:TestChecksumAndSignatureAreAcceptedByTheUsersTools"
	return map[string]string{
		"go tool mage -compile FILE":                                             "script_test.go:TestScripts",
		"go tool mage build":                                                     pipeline,
		"CC_PROFILE=minimal go tool mage build":                                  pipeline,
		"go tool mage build -monitor":                                            "monitoring_test.go:TestAMonitoredBuildKeepsWhatItSaw",
		"CC_PROFILE=debug go tool mage build":                                    "../lab/debug_test.go:TestADebugImageIsLookedAtFromItsConsole",
		"go tool mage test":                                                      "build_test.go:TestEveryStageReadsOnlyStagesAboveItAndKeysThatExist", // it is what runs this
		"go tool mage vm":                                                        "../lab/boot_test.go:TestMageVMShowsTheConsoleOfTheBuiltImage",
		"go tool mage vm -secureBoot":                                            "../lab/boot_test.go:TestMageVMStartsTheBuiltImageUnderSecureBoot",
		"go tool mage validate":                                                  "../lab/boot_test.go:TestMageValidateChecksTheBuiltImageInABoot",
		"go tool mage validate -name=DOMAIN":                                     "../lab/boot_test.go:TestMageValidateChecksTheBuiltImageInABoot", // the same way, by another socket
		"go tool mage check:resources":                                           running,                                                          // checks.txtar, as those below
		"go tool mage lock":                                                      running,                                                          // lock.txtar
		"go tool mage outdated":                                                  running,                                                          // lock.txtar
		"go tool mage check:hardware":                                            running,
		"go tool mage check:hardware -verbose":                                   running,
		"go tool mage check:hardware -facts=FILE":                                running,
		"go tool mage receipts:verify -keys=FILE":                                running, // receipts.txtar
		"go tool mage verify":                                                    "verify_test.go:TestASignedInstallerIsAcceptedByItsKeyAlone",
		"go tool mage verify -file=FILE -trust=FILE -keys=FILE":                  running, // verify.txtar
		"go tool mage check:compatibility":                                       running,
		"go tool mage keys:recovery -recipient=FILE":                             "script_test.go:TestScripts",
		"go tool mage keys:rotate":                                               running,
		"go tool mage keys:rotate -name=DOMAIN":                                  running,
		"go tool mage keys:prepare -socket=PATH":                                 running,
		"go tool mage reproduce -manifest=FILE":                                  "reproduce_test.go:TestAnybodyReproducesTheImage",
		"go tool mage cache:export -o=FILE":                                      running, // sharedcache.txtar
		"go tool mage cache:import -file=FILE -keys=FILE":                        running,
		"go tool mage publish REGISTRY/REPO:TAG":                                 "publish_test.go:TestTheBuiltImageIsPublishedThoughTheRegistryAndThePublisherDie",
		"go tool mage bench:build":                                               "bench_test.go:TestABuildIsMeasuredBesideMkosi",
		"go tool mage bench:scaling":                                             "bench_test.go:TestBuildsOfLargeImagesAreMeasured",
		"go tool mage bench:install -device=DEV":                                 "../../installer/write/bench/bench_test.go:TestMeasuresOnADevice",
		"go tool mage tpm:pcrs -socket=PATH":                                     running,
		"sha256sum -c nvidia-cc-installer.tar.gz.sha256":                         sums,
		"gpg --verify nvidia-cc-installer.tar.gz.asc nvidia-cc-installer.tar.gz": sums,
		"tar xf nvidia-cc-installer.tar.gz":                                      installs,
		"cd installer":                                                           installs,
		"./install.sh /dev/target":                                               installs,
		"./install.sh --verify /dev/target":                                      installs,
		"./validate.sh":                                                          installs,
		"virsh list --all":                                                       installs,
	}
}

func TestEveryCommandThatIsShownRuns(t *testing.T) {
	image := lab.Built(t)
	cache := os.Getenv("CC_CACHE_DIR")
	installer := unpack(t, image)
	for _, command := range shownCommands(t) {
		if where, ok := testOf(command); ok {
			file, test, _ := strings.Cut(where, ":")
			data, err := os.ReadFile(file)
			if err != nil || !strings.Contains(string(data), "func "+test+"(") {
				t.Errorf("%q: there is no %s (%v)", command, where, err)
			}
			continue
		}
		t.Run(command, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", command)
			out, caches := image.Out, cache
			switch {
			case strings.HasPrefix(command, "./"):
				cmd.Dir = installer
			case strings.Contains(command, " image:"):
				// These change the image, or write one: a copy of it.
				out, cmd.Dir = copyOfImage(t, image), "../.."
				cmd.Args[2] = strings.NewReplacer("-file=FILE", "-file="+filepath.Join(out, "cc-base.qcow2"), "-o=FILE", "-o="+filepath.Join(out, "FILE")).Replace(command)
			case strings.Contains(command, "clean"), strings.Contains(command, "keys:"), strings.Contains(command, "update"), strings.Contains(command, "cache:"):
				// These change their output folder: a scratch one.
				out, cmd.Dir = t.TempDir(), "../.."
				caches = filepath.Join(out, "cache")
			case !strings.Contains(command, "go tool mage"):
				cmd.Dir = t.TempDir()
			default:
				cmd.Dir = "../.."
			}
			cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool {
				return strings.HasPrefix(kv, "CC_") || strings.HasPrefix(kv, "CI=")
			}), "CC_PROFILE=minimal", "CC_OUT_DIR="+out, "CC_CACHE_DIR="+caches)
			if text, err := cmd.CombinedOutput(); err != nil || len(text) == 0 && !strings.Contains(command, "clean") && !strings.Contains(command, " > ") {
				t.Errorf("%v\n%s", err, text)
			}
		})
	}
}

// testOf returns the test that runs the command, if it is another one than this.
func testOf(command string) (where string, ok bool) {
	if where, ok := elsewhere()[command]; ok {
		return where, true
	}
	for begin, where := range pages() {
		if strings.HasPrefix(command, begin) {
			return where, true
		}
	}
	return "", false
}

// pages names the tests that run the commands of a document's own, by how they
// begin.
func pages() map[string]string {
	const keyPage = "../../installer/idblock_test.go:TestTheCommandsOfTheKeyPageRun"
	return map[string]string{
		"cc-install measure idblock ":           keyPage,
		"cc-install release --new-key ":         keyPage,
		"cc-install release --policy ":          "../../installer/release_test.go:TestReleaseOnceOverConnect",
		"cc-install attest ":                    "../../installer/attest_test.go:TestAttestBringsAnAnswerThatVerifyEvidenceAccepts",
		"cc-install verify-evidence ":           "../../installer/attest_test.go:TestAnAttestationIsJudgedByNonceAndIdentity",
		"sha256sum site.conf":                   "../site/site_test.go:TestThePageSaysWhatTheCodeDoes",
		"cp out/scratch/firmware/packages.lock": "stage_firmware_test.go:TestTheWrittenLockPins",
	}
}

// copyOfImage makes an output folder with a copy of the image and of the record
// that says so.
func copyOfImage(t *testing.T, image lab.Image) string {
	t.Helper()
	out := t.TempDir()
	for _, name := range []string{"cc-base.qcow2", "manifest.json", "state/package.json"} {
		to := filepath.Join(out, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if text, err := exec.Command("cp", image.Path(name), to).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	return out
}

func TestTheReadmesOtherStageTargetsRun(t *testing.T) {
	image := lab.Built(t)
	for _, target := range []string{"baseOS", "tee", "encrypt", "apps", "package"} {
		cmd := exec.Command("go", "tool", "mage", target)
		cmd.Dir = "../.."
		cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "CI=") }),
			"CC_PROFILE=minimal", "CC_OUT_DIR="+image.Out)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", target, err, out)
		}
		if ran := stagesIn(string(out)); len(ran) > 0 {
			t.Errorf("%s: the image under test is up to date, but %v ran", target, ran)
		}
	}
}
