// Package hw tells what this machine is: its block devices with every reason
// not to write to them, and its kind of trusted execution environment.
//
// Everything is read through an [io/fs.FS] that stands for the root folder
// (os.DirFS("/") in earnest, an fstest.MapFS in tests) and nothing is ever
// opened for writing: a probe cannot change what it looks at. The sources are
// sysfs, procfs and the sectors of the disks (see package signature); no
// program is run, so the answers do not depend on what happens to be
// installed.
//
//	devices, err := hw.Devices(os.DirFS("/"))
//	for _, d := range devices {
//		fmt.Println(d.Path, d.Class, hw.Refusals(d, hw.Need{Size: size}))
//	}
package hw
