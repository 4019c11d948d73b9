package build

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"cc-base/tasks/digest"
)

// module is the import path prefix of our own packages.
const module = "cc-base/"

// codeDigest returns a digest of the program text that makes a stage: the files
// stage_NAME.go and stage_NAME_*.go in dir and every package of this repository
// that they import, directly or not, with the versions of all others (go.sum)
// and of the compiler. A change elsewhere in the program leaves the stage's
// results valid.
func (b *Build) codeDigest(dir, stage string) (string, error) {
	entries, err := os.ReadDir(filepath.Join(b.Repo, dir))
	if err != nil {
		return "", err
	}
	c := code{repo: b.Repo, seen: map[string]bool{}}
	if err := c.file(filepath.Join(dir, "stage_"+stage+".go")); err != nil {
		return "", err
	}
	for _, e := range entries {
		if !isProgram(e.Name()) || !strings.HasPrefix(e.Name(), "stage_"+stage+"_") {
			continue
		}
		if err := c.file(filepath.Join(dir, e.Name())); err != nil {
			return "", err
		}
	}
	return c.digest()
}

// isProgram tells Go files from tests and everything else.
func isProgram(name string) bool {
	return strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
}

// programDigest is the same for a whole program, such as cc-guest.
func (b *Build) programDigest(dir string) (string, error) {
	c := code{repo: b.Repo, seen: map[string]bool{}}
	if err := c.pkg(dir); err != nil {
		return "", err
	}
	return c.digest()
}

type code struct {
	repo string
	seen map[string]bool // packages and files, relative to repo
}

func (c *code) pkg(dir string) error {
	if c.seen[dir] {
		return nil
	}
	c.seen[dir] = true
	entries, err := os.ReadDir(filepath.Join(c.repo, dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !isProgram(name) {
			continue
		}
		if err := c.file(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func (c *code) file(file string) error {
	if c.seen[file] {
		return nil
	}
	c.seen[file] = true
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(c.repo, file), nil, parser.ImportsOnly)
	if err != nil {
		return err
	}
	for _, spec := range f.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return err
		}
		if dir, ok := strings.CutPrefix(path, module); ok {
			if err := c.pkg(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *code) digest() (string, error) {
	var files []string
	for name := range c.seen {
		if strings.HasSuffix(name, ".go") {
			files = append(files, name)
		}
	}
	slices.Sort(files)
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n", runtime.Version())
	for _, name := range append(files, "go.sum") {
		content, err := digest.File(filepath.Join(c.repo, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s %s\n", content, name)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// treeDigest returns a digest of a folder: names, contents, link targets and
// the one mode bit that counts (git keeps no other, and rootfs.ReadOverlay
// reads no other).
func treeDigest(dir string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		what := ""
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			what, err = os.Readlink(path)
		case d.Type().IsRegular():
			what, err = digest.File(path)
		}
		fmt.Fprintf(sum, "%q %v %t %s\n", rel, info.Mode().Type(), info.Mode()&0o100 != 0, what)
		return err
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}
