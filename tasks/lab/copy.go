package lab

import (
	"errors"
	"io"
	"os"
)

func copyRange(in io.ReaderAt, start, size int64, file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.NewSectionReader(in, start, size))
	return errors.Join(err, out.Close())
}
