// Package gpu tells which NVIDIA GPUs and NVSwitches a host has, in which
// confidential-computing mode they are, and what giving them to a confidential
// guest takes.
//
//	functions, err := gpu.List(os.DirFS("/"))
//	gpu.ReadModes(functions, gpu.Sysfs{Root: "/"})
//	for _, f := range gpu.Of(gpu.GPU, functions) {
//		fmt.Println(f.Address, f.Model, f.Mode)
//	}
//
// Everything is read and nothing is written: no mode is set, no driver bound
// or unbound, no device reset. The facts come from sysfs through an
// [io/fs.FS] that stands for the root folder, except for the mode, which is a
// register of the device ([Registers]).
//
// What is not known is said to be so. A device id that is not in the table has
// no model and no architecture, because a register read at another
// architecture's offset would give an answer that means nothing.
//
// github.com/NVIDIA/go-nvlib (pkg/nvpci, v0.13.0) was tried and does not fit:
// its root is the path of a folder and no fs.FS, one attribute that cannot be
// read fails the whole listing, its devices can be reset and their registers
// written, and it says nothing of what else is in an IOMMU group.
package gpu
