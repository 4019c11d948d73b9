package measurements

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"cc-base/tasks/boot"
	"cc-base/tasks/fault"
	"cc-base/tasks/manifest"
	"cc-base/tasks/tpm/pcr"
)

// Certificate returns the name in the installer of a Secure Boot certificate:
// of PK, KEK or db.
func Certificate(key string) string { return "secureboot/" + key + ".crt" }

// Load reads the artefacts among names, which are those of the installer's
// files; others are passed over. Program, Packages and Machines are left to the
// caller.
func Load(m manifest.Manifest, disk io.ReaderAt, names []string, read func(name string) ([]byte, error)) (Inputs, error) {
	in := Inputs{Manifest: m, Disk: disk, Firmware: map[string][]byte{}}
	var err error
	if in.UKI, err = read(UKI); err != nil {
		return Inputs{}, err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "firmware/") {
			if in.Firmware[name], err = read(name); err != nil {
				return Inputs{}, err
			}
		}
	}
	if !slices.ContainsFunc(boot.KeyNames(), func(key string) bool { return slices.Contains(names, Certificate(key)) }) {
		return in, nil
	}
	in.Keys = &pcr.Keys{}
	to := map[string]**x509.Certificate{"PK": &in.Keys.PK, "KEK": &in.Keys.KEK, "db": &in.Keys.DB}
	for _, key := range boot.KeyNames() {
		text, err := read(Certificate(key))
		if err != nil {
			return Inputs{}, err
		}
		if *to[key], err = parseCertificate(text); err != nil {
			return Inputs{}, fault.Newf(fault.Measurements, "%s: %w", Certificate(key), err)
		}
	}
	return in, nil
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("it is not one certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// Verify computes the document and the reference values made from it again and
// compares them with the files, byte for byte. Program, Packages and Machines of
// the inputs are not looked at: no artefact says them, so the document's own are
// taken. The error names the first field that differs; it has the code
// fault.Measurements, or fault.Damaged for a file that the build did not write.
func Verify(document, rvps []byte, in Inputs) (Document, error) {
	recorded, err := Read(document)
	if err != nil {
		return Document{}, fmt.Errorf("%s: %w", File, err)
	}
	in.Program, in.Machines, in.Packages = recorded.Program, recorded.Machines, map[string]string{}
	for _, f := range recorded.Firmware {
		in.Packages[f.File] = f.Package
	}
	computed, err := Compute(in)
	if err != nil {
		return Document{}, err
	}
	if difference := Difference(recorded, computed); difference != "" {
		return Document{}, fault.Newf(fault.Measurements, "%s: %s", File, difference)
	}
	want, err := computed.RVPS()
	if err != nil {
		return Document{}, err
	}
	if !bytes.Equal(rvps, want) {
		return Document{}, fault.Newf(fault.Measurements, "%s holds other reference values than %s", RVPSFile, File)
	}
	return computed, nil
}

// Difference names the first field, in the order of the file, in which two
// documents differ, with both values; it is empty for equal ones.
func Difference(recorded, computed Document) string {
	return difference("", reflect.ValueOf(recorded), reflect.ValueOf(computed))
}

func difference(path string, a, b reflect.Value) string {
	switch a.Kind() {
	case reflect.Struct:
		for i := range a.NumField() {
			name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("json"), ",")
			if d := difference(strings.TrimPrefix(path+"."+name, "."), a.Field(i), b.Field(i)); d != "" {
				return d
			}
		}
	case reflect.Slice:
		for i := range min(a.Len(), b.Len()) {
			if d := difference(fmt.Sprintf("%s[%d]", path, i), a.Index(i), b.Index(i)); d != "" {
				return d
			}
		}
		if a.Len() != b.Len() {
			return fmt.Sprintf("%s has %d entries, computed are %d", path, a.Len(), b.Len())
		}
	default:
		if !a.Equal(b) {
			return fmt.Sprintf("%s is %v, computed is %v", path, shown(a), shown(b))
		}
	}
	return ""
}

// shown quotes text, which may be empty.
func shown(v reflect.Value) any {
	if v.Kind() == reflect.String {
		return fmt.Sprintf("%q", v.String())
	}
	return v.Interface()
}
