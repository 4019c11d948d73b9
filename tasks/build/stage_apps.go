package build

import (
	"archive/tar"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"cc-base/tasks/program"
	"cc-base/tasks/rootfs"
)

func appsStage() stage {
	return stage{
		name:  "apps",
		title: "sealing the application and configuration volumes",
		keys:  append(sealingKeys(), "APPS", "APP_ENCRYPT"),
		reads: []string{"prepare"},
		facts: func(b *Build) (map[string]string, error) {
			facts, err := imageKeyDigest(b)
			if err != nil {
				return nil, err
			}
			for _, app := range b.Config.Apps.Apps {
				if facts["app:"+app], err = b.programDigest(filepath.Join("overlays", app)); err != nil {
					return nil, err
				}
			}
			files, err := b.configFiles()
			if err != nil {
				return nil, err
			}
			for name, file := range files {
				if facts["config:"+name], err = fileDigest(file); err != nil {
					return nil, err
				}
			}
			facts["profile"] = b.Profile
			return facts, nil
		},
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

// configFiles returns the configuration as built: name in the image to file.
func (b *Build) configFiles() (map[string]string, error) {
	files := map[string]string{}
	confs, err := filepath.Glob(filepath.Join(b.ConfigDir, "*.conf"))
	if err != nil {
		return nil, err
	}
	for _, f := range confs {
		files[filepath.Base(f)] = f
	}
	if p := b.Config.Profile; p != "" {
		files[filepath.Join("profiles", p+".conf")] = filepath.Join(b.ConfigDir, "profiles", p+".conf")
	}
	return files, nil
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
	files, err := b.configFiles()
	if err != nil {
		return err
	}
	config := rootfs.Layer{Name: "config", Entries: []rootfs.Entry{
		rootfs.File("/config.resolved", 0o644, b.Config.Resolved()),
	}}
	for name, file := range files {
		config.Entries = append(config.Entries, rootfs.Entry{Path: "/" + filepath.ToSlash(name), Type: tar.TypeReg, Mode: 0o644, Source: file})
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
