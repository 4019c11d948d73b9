package network

import (
	"encoding/binary"
	"io/fs"
	"math/bits"
	"net/netip"
	"path"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// networksDir holds libvirt's definitions of networks; only root can read it.
const networksDir = "etc/libvirt/qemu/networks"

// libvirtRanges returns the IPv4 ranges of libvirt's networks, running or not:
// one that is defined but stopped has no route yet, and would clash later. What
// cannot be read or parsed is passed over.
func libvirtRanges(root fs.FS) []netip.Prefix {
	var out []netip.Prefix
	for _, name := range names(root, networksDir) {
		if !strings.HasSuffix(name, ".xml") {
			continue
		}
		b, err := fs.ReadFile(root, path.Join(networksDir, name))
		if err != nil {
			continue
		}
		var n libvirtxml.Network
		if n.Unmarshal(string(b)) != nil {
			continue
		}
		for _, ip := range n.IPs {
			if p, ok := prefixOf(ip); ok {
				out = append(out, p)
			}
		}
	}
	return out
}

func prefixOf(ip libvirtxml.NetworkIP) (netip.Prefix, bool) {
	addr, err := netip.ParseAddr(ip.Address)
	if err != nil || !addr.Is4() {
		return netip.Prefix{}, false
	}
	length := int(ip.Prefix)
	if mask, err := netip.ParseAddr(ip.Netmask); err == nil && mask.Is4() {
		m := mask.As4()
		length = bits.LeadingZeros32(^binary.BigEndian.Uint32(m[:]))
	}
	if length < 1 || length > 32 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr, length).Masked(), true
}
