package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"cc-base/installer/virt"
	"cc-base/tasks/fault"
	"cc-base/tasks/sh"
)

// link is what `ip -details -json address` prints of an interface.
type link struct {
	Name      string `json:"ifname"`
	Type      string `json:"link_type"`
	Master    string `json:"master"`
	ParentBus string `json:"parentbus"` // pci, virtio, usb …: of hardware only
	Info      struct {
		Kind string `json:"info_kind"` // bridge, veth …: of software only
	} `json:"linkinfo"`
	Addresses []struct {
		Local string `json:"local"`
	} `json:"addr_info"`
}

func (l link) physical() bool { return l.Type == "ether" && l.Info.Kind == "" && l.ParentBus != "" }

// Look asks a host for its facts, with ip of iproute2 and through libvirt.
func Look(ctx context.Context, run sh.Runner, v virt.Client) (Facts, error) {
	f := Facts{Networks: map[string]string{}}
	var links []link
	if err := ip(ctx, run, &links, "-details", "address", "show"); err != nil {
		return Facts{}, err
	}
	if err := f.links(links); err != nil {
		return Facts{}, err
	}
	for _, version := range []string{"-4", "-6"} {
		var routes []struct {
			Destination string `json:"dst"`
		}
		if err := ip(ctx, run, &routes, version, "route", "show", "table", "all"); err != nil {
			return Facts{}, err
		}
		for _, r := range routes {
			if p, ok := destination(r.Destination); ok && !slices.Contains(f.Used, p) {
				f.Used = append(f.Used, p)
			}
		}
	}
	names, err := v.Networks(ctx)
	if err != nil {
		return Facts{}, err
	}
	for _, name := range names {
		if f.Networks[name], err = v.NetXML(ctx, name); err != nil {
			return Facts{}, err
		}
	}
	return f, nil
}

func ip(ctx context.Context, run sh.Runner, into any, args ...string) error {
	var out bytes.Buffer
	if err := run.Run(ctx, sh.Cmd{Name: "ip", Args: append([]string{"-json"}, args...), Stdout: &out}); err != nil {
		return fault.New(fault.HostNetwork, err).Hint("install iproute2")
	}
	if out.Len() == 0 {
		return nil // no routes at all
	}
	if err := json.Unmarshal(out.Bytes(), into); err != nil {
		return fault.New(fault.HostNetwork, fmt.Errorf("ip %v: %w", args, err))
	}
	return nil
}

func (f *Facts) links(links []link) error {
	for _, l := range links {
		for _, a := range l.Addresses {
			addr, err := netip.ParseAddr(a.Local)
			if err != nil {
				return fault.New(fault.HostNetwork, fmt.Errorf("%s: %w", l.Name, err))
			}
			f.Addresses = append(f.Addresses, addr)
		}
		if l.physical() {
			f.Cards = append(f.Cards, l.Name)
		}
		if l.Info.Kind == "bridge" {
			f.Bridges = append(f.Bridges, Bridge{Name: l.Name, Physical: slices.ContainsFunc(links, func(p link) bool { return p.Master == l.Name && p.physical() })})
		}
	}
	return nil
}

// destination reads a route's: a network, or an address for one of full length.
// "default" and the words of other kinds of routes are no networks.
func destination(text string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked(), true
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	return netip.Prefix{}, false
}
