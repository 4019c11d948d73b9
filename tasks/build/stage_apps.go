package build

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"cc-base/tasks/conf"
	"cc-base/tasks/program"
	"cc-base/tasks/rootfs"
)

func appsStage() stage {
	return stage{
		name:  "apps",
		title: "sealing the application and configuration volumes",
		keys:  conf.Keys(), // every setting is in the configuration volume
		reads: []string{"prepare"},
		facts: func(b *Build) (map[string]string, error) {
			facts, err := volumeKeyDigests(b)
			if err != nil {
				return nil, err
			}
			// It seals with the other stage's code.
			if facts["program:encrypt"], err = b.codeDigest("tasks/build", "encrypt"); err != nil {
				return nil, err
			}
			for _, app := range b.Config.Apps.Apps {
				if facts["app:"+app], err = b.programDigest(filepath.Join("overlays", app)); err != nil {
					return nil, err
				}
			}
			return facts, nil
		},
		cached: true,
		outputs: func(b *Build) []string {
			return append(sealedFiles(b, "app"), append(sealedFiles(b, "config"), b.appPrograms()...)...)
		},
		run: apps,
	}
}

// appPrograms are the compiled applications, which the bill of materials reads.
func (b *Build) appPrograms() []string {
	var files []string
	for _, app := range b.Config.Apps.Apps {
		files = append(files, b.scratch(app))
	}
	return files
}

// configNames are the files that carry the configuration as built, in the
// configuration volume and in the installer.
func configNames() []string {
	return []string{"apps.conf", "os.conf", "partition.conf", "qemu.conf", "security.conf", "tee.conf"}
}

func apps(ctx context.Context, b *Build) error {
	epoch := b.Config.OS.SourceDateEpoch
	app := rootfs.Layer{Name: "apps"}
	for _, name := range b.Config.Apps.Apps {
		b.log.event("apps", "compiling %s", name)
		if err := program.Build(ctx, b.Host, b.Repo, "./overlays/"+name, b.scratch(name)); err != nil {
			return err
		}
		app.Entries = append(app.Entries, rootfs.Entry{Path: "/bin/" + name, Type: tar.TypeReg, Mode: 0o755, Source: b.scratch(name)})
	}
	config := rootfs.Layer{Name: "config"}
	for _, name := range configNames() {
		config.Entries = append(config.Entries, rootfs.File("/"+name, 0o644, b.Config.File(name)))
	}
	for _, v := range []struct {
		name  string
		layer rootfs.Layer
	}{{"app", app}, {"config", config}} {
		tarFile := b.scratch(v.name + ".tar")
		if err := rootfs.Pack(tarFile, epoch, v.layer); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		defer os.Remove(tarFile)
		if err := b.seal(ctx, v.name, tarFile); err != nil {
			return err
		}
	}
	return nil
}
