package settings

// Green here means that builder and guest agree on the file's form.

import (
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
