package boot

import (
	"context"
	"os"

	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
	"cc-base/tasks/tpm"
)

// BuildMeasured returns a boot image that carries the signature of what it will
// be measured as. It is built twice by way of file: the measurement is known
// only of a whole image, and does not change with the signature in it.
func BuildMeasured(ctx context.Context, run sh.Runner, u UKI, key PCRKey, file string) ([]byte, error) {
	defer os.Remove(file)
	u.PCRPublicKey = key.Public
	var measured [2][32]byte
	var image []byte
	for i := range measured {
		err := BuildUKI(ctx, run, u, file)
		if err != nil {
			return nil, err
		}
		if image, err = os.ReadFile(file); err != nil {
			return nil, err
		}
		if measured[i], err = PCR11(image, PCRPhase); err != nil {
			return nil, err
		}
		signatures, err := tpm.SignPCR11(key.Private, measured[i])
		if err != nil {
			return nil, fault.New(fault.BootImage, err)
		}
		if u.PCRSignature, err = signatures.Encode(); err != nil {
			return nil, fault.New(fault.BootImage, err)
		}
	}
	if measured[0] != measured[1] {
		return nil, fault.Newf(fault.BootImage, "the boot image with its signature measures as another than the one that was signed")
	}
	return image, nil
}
