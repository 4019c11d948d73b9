package settings

// Green here means that builder and guest agree on the file's form. It does not
// prove that a value works: that the TPM is at that device, that the operator
// holds the other half of the key, that a recipient can decrypt.

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEncodeAndDecodeAreInverse(t *testing.T) {
	t.Parallel()
	text, err := Encode(Default())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func TestDecodeRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"empty file":     {"", "EOF"},
		"unknown key":    {`{"etcSize":33554432,"varSize":33554432,"shell":true}`, "unknown field"},
		"two objects":    {`{"etcSize":33554432,"varSize":33554432}{}`, "more than one"},
		"no size":        {`{"varSize":33554432}`, "etcSize"},
		"tiny size":      {`{"etcSize":4096,"varSize":33554432}`, "etcSize"},
		"plain device":   {`{"etcSize":33554432,"varSize":33554432,"mounts":[{"device":"/dev/vdb","path":"/x","options":["ro"]}]}`, "mapped"},
		"relative path":  {`{"etcSize":33554432,"varSize":33554432,"mounts":[{"device":"/dev/mapper/a","path":"x","options":["ro"]}]}`, "absolute"},
		"unclean path":   {`{"etcSize":33554432,"varSize":33554432,"mounts":[{"device":"/dev/mapper/a","path":"/x/../y","options":["ro"]}]}`, "clean"},
		"writable":       {`{"etcSize":33554432,"varSize":33554432,"mounts":[{"device":"/dev/mapper/a","path":"/x","options":["nodev"]}]}`, "ro is missing"},
		"unknown option": {`{"etcSize":33554432,"varSize":33554432,"mounts":[{"device":"/dev/mapper/a","path":"/x","options":["ro","exec"]}]}`, "unknown option"},
		"same path twice": {`{"etcSize":33554432,"varSize":33554432,"mounts":[{"device":"/dev/mapper/a","path":"/x","options":["ro"]},` +
			`{"device":"/dev/mapper/b","path":"/x","options":["ro"]}]}`, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Decode([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v does not say %q", err, tc.want)
			}
		})
	}
}

// operator is a public key in its written form.
var operator = "ed25519:" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))

const recipient = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxjMEaa==\n=aaaa\n-----END PGP PUBLIC KEY BLOCK-----\n"

func TestEverySettingSurvivesTheFile(t *testing.T) {
	t.Parallel()
	want := Settings{
		EtcSize: 1 << 20, VarSize: 64 << 30, Mounts: []Mount{},
		Dynamic: Dynamic{Mount: "/srv/data", Options: []string{"nosuid", "nodev"}}, Persistent: []string{},
		Keys: Keys{
			TPMDevice: "/dev/tpmrm12", PCRs: []int{0, 4, 9, 14}, LUKS: LUKS{Cipher: "aes-xts-plain64", KeyBits: 256, Hash: "sha256"},
			ConsoleRecovery: true, DynamicIntegrity: "on", RotationInterval: 3600, OperatorKey: operator,
			Identity: Identity{Dir: "/var/lib/cc/keys", Size: 256, Algo: "ed25519"}, RecoveryRecipients: []string{recipient, recipient},
		},
	}
	text, err := Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

// The names are a contract between a build and the guests that it made.
func TestTheFilesNamesAreTheDocumentedOnes(t *testing.T) {
	t.Parallel()
	text, err := Encode(Default())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	var walk func(prefix string, v any)
	walk = func(prefix string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			names = append(names, prefix)
			return
		}
		for k, inner := range m {
			walk(strings.TrimPrefix(prefix+"."+k, "."), inner)
		}
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	walk("", v)
	slices.Sort(names)
	want := []string{
		"dynamic.mount", "dynamic.options", "etcSize",
		"keys.consoleRecovery", "keys.dynamicIntegrity", "keys.identity.algo", "keys.identity.dir", "keys.identity.size",
		"keys.luks.cipher", "keys.luks.hash", "keys.luks.keyBits", "keys.operatorKey", "keys.pcrs", "keys.recoveryRecipients",
		"keys.rotationInterval", "keys.tpmDevice", "mounts", "persistent", "varSize",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestEveryMistakeIsNamed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*Settings)
		want   string
	}{
		"relative mount point":      {func(s *Settings) { s.Dynamic.Mount = "mnt" }, "dynamic: the mount point"},
		"mount point of another":    {func(s *Settings) { s.Dynamic.Mount = "/opt/cc" }, "another volume's"},
		"unknown dynamic option":    {func(s *Settings) { s.Dynamic.Options = []string{"nosuid", "nodev", "exec"} }, `unknown option "exec"`},
		"setuid programs":           {func(s *Settings) { s.Dynamic.Options = []string{"nodev"} }, "nosuid is missing"},
		"device nodes":              {func(s *Settings) { s.Dynamic.Options = []string{"nosuid"} }, "nodev is missing"},
		"persistent root":           {func(s *Settings) { s.Persistent = []string{"/"} }, "not absolute and clean"},
		"persistent with dots":      {func(s *Settings) { s.Persistent = []string{"/var/../etc"} }, "not absolute and clean"},
		"persistent twice":          {func(s *Settings) { s.Persistent = []string{"/var/log", "/var/log"} }, "inside each other"},
		"persistent inside":         {func(s *Settings) { s.Persistent = []string{"/var", "/var/log"} }, "inside each other"},
		"persistent around":         {func(s *Settings) { s.Persistent = []string{"/opt"} }, "/opt and /opt/cc"},
		"persistent in a volume":    {func(s *Settings) { s.Persistent = []string{"/mnt/dynamic/x"} }, "inside each other"},
		"the TPM itself":            {func(s *Settings) { s.Keys.TPMDevice = "/dev/tpm0" }, "resource manager"},
		"a device elsewhere":        {func(s *Settings) { s.Keys.TPMDevice = "/tmp/tpmrm0" }, "resource manager"},
		"PCR 10":                    {func(s *Settings) { s.Keys.PCRs = []int{10} }, "PCR 10 cannot"},
		"PCR 11":                    {func(s *Settings) { s.Keys.PCRs = []int{7, 11} }, "PCR 11 cannot"},
		"PCR 12":                    {func(s *Settings) { s.Keys.PCRs = []int{12} }, "PCR 12 cannot"},
		"PCR 23":                    {func(s *Settings) { s.Keys.PCRs = []int{23} }, "PCR 23 cannot"},
		"a negative PCR":            {func(s *Settings) { s.Keys.PCRs = []int{-1} }, "PCR -1 cannot"},
		"PCRs out of order":         {func(s *Settings) { s.Keys.PCRs = []int{7, 1} }, "PCR 1 is out of order"},
		"a PCR twice":               {func(s *Settings) { s.Keys.PCRs = []int{7, 7} }, "out of order"},
		"the null cipher":           {func(s *Settings) { s.Keys.LUKS.Cipher = "cipher_null-ecb" }, "cipher_null"},
		"a key for AES-192":         {func(s *Settings) { s.Keys.LUKS.KeyBits = 384 }, "384 bits"},
		"another hash":              {func(s *Settings) { s.Keys.LUKS.Hash = "sha1" }, "sha1"},
		"integrity perhaps":         {func(s *Settings) { s.Keys.DynamicIntegrity = "yes" }, "dynamicIntegrity"},
		"rotation all the time":     {func(s *Settings) { s.Keys.RotationInterval = 3599 }, "rotationInterval"},
		"rotation never":            {func(s *Settings) { s.Keys.RotationInterval = 365*24*3600 + 1 }, "rotationInterval"},
		"an operator's key of zero": {func(s *Settings) { s.Keys.OperatorKey = "ed25519:" + strings.Repeat("A", 43) + "=" }, "all zeros"},
		"a relative key folder":     {func(s *Settings) { s.Keys.Identity.Dir = "keys" }, "identity"},
		"an unknown algorithm":      {func(s *Settings) { s.Keys.Identity.Algo = "dsa" }, "unknown algorithm"},
		"a size of another":         {func(s *Settings) { s.Keys.Identity = Identity{"/k", 4096, "ed25519"} }, "ed25519 has no size 4096"},
		"a recipient that is none":  {func(s *Settings) { s.Keys.RecoveryRecipients = []string{"x"} }, "recoveryRecipients[0]"},
		"a private key": {func(s *Settings) {
			s.Keys.RecoveryRecipients = []string{strings.ReplaceAll(recipient, "PUBLIC", "PRIVATE")}
		}, "armoured"},
		"two keys in one":         {func(s *Settings) { s.Keys.RecoveryRecipients = []string{recipient + recipient} }, "exactly one"},
		"a recipient without end": {func(s *Settings) { s.Keys.RecoveryRecipients = []string{recipient[:60]} }, "armoured"},
		"a huge recipient":        {func(s *Settings) { s.Keys.RecoveryRecipients = []string{strings.Repeat("x", maxRecipient+1)} }, "at most 65536"},
		"very many recipients":    {func(s *Settings) { s.Keys.RecoveryRecipients = slices.Repeat([]string{recipient}, 17) }, "17 recipients"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := Default()
			tc.change(&s)
			if _, err := Encode(s); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v does not say %q", err, tc.want)
			}
		})
	}
}

func TestAnOperatorsKeyHasOneSpelling(t *testing.T) {
	t.Parallel()
	key, err := ParseOperatorKey(operator)
	if err != nil || string(key) != "0123456789abcdef0123456789abcdef" {
		t.Fatalf("%q, %v", key, err)
	}
	for name, text := range map[string]string{
		"empty": "", "no algorithm": operator[8:], "another algorithm": "rsa:" + operator[8:], "upper case": "ED25519:" + operator[8:],
		"31 bytes": "ed25519:" + base64.StdEncoding.EncodeToString(key[:31]), "33 bytes": "ed25519:" + base64.StdEncoding.EncodeToString(append(key, 1)),
		"no padding": strings.TrimRight(operator, "="), "a line end": operator + "\n", "a line end inside": operator[:20] + "\n" + operator[20:],
		"trailing bits": operator[:len(operator)-2] + "7=", "URL alphabet": "ed25519:" + strings.Repeat("_", 43) + "=", "hexadecimal": "ed25519:" + strings.Repeat("0f", 32),
	} {
		if _, err := ParseOperatorKey(text); err == nil {
			t.Errorf("%s: %q is accepted", name, text)
		}
	}
}

func FuzzDecode(f *testing.F) {
	text, err := Encode(Default())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"keys":{"pcrs":[0,99],"operatorKey":"ed25519:"}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Decode(text)
		if err != nil {
			return
		}
		again, err := Encode(s)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if back, err := Decode(again); err != nil || cmp.Diff(s, back) != "" {
			t.Fatalf("round trip: %v\n%s", err, cmp.Diff(s, back))
		}
	})
}
