package firmware

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"cc-base/tasks/sh"
	"cc-base/tasks/tee/ovmf"
)

// maxTree bounds what a package unpacks to, bytes; the largest of ours has 5 MB.
const maxTree = 32 << 20

// extract returns a file of the package.
func (g Getter) extract(ctx context.Context, deb, name string) ([]byte, error) {
	tree := &bounded{left: maxTree}
	err := g.Tools.Run(ctx, sh.Cmd{Name: "dpkg-deb", Args: []string{"--fsys-tarfile", deb}, Stdout: tree})
	if tree.full {
		return nil, no(Unusable, fmt.Errorf("the package unpacks to more than %d bytes", maxTree))
	}
	if err != nil {
		return nil, err
	}
	tr := tar.NewReader(&tree.data)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil, no(Unusable, fmt.Errorf("the package has no file %s", name))
		}
		if err != nil {
			return nil, no(Unusable, err)
		}
		if path.Clean(strings.TrimPrefix(h.Name, "./")) != name {
			continue
		}
		if h.Typeflag != tar.TypeReg || h.Size > ovmf.MaxSize {
			return nil, no(Unusable, fmt.Errorf("%s is not a file of at most %d bytes", name, ovmf.MaxSize))
		}
		return io.ReadAll(tr)
	}
}

// bounded is a buffer that takes so many bytes and no more. It does not embed
// one: io.Copy would find its ReadFrom and never call Write.
type bounded struct {
	data bytes.Buffer
	left int
	full bool
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if len(p) > b.left {
		b.full = true
		return 0, io.ErrShortWrite
	}
	b.left -= len(p)
	return b.data.Write(p)
}
