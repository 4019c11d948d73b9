package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"cc-base/overlays/cc-guest/internal/firewall"
	"cc-base/tasks/atomicfile"
	"cc-base/tasks/fault"
	"cc-base/tasks/site"
)

const (
	hostnameFile = "/etc/hostname"
	// timeServers is read by systemd-timesyncd (timesyncd.conf.d(5)).
	timeServers = "/run/systemd/timesyncd.conf.d/50-site.conf"
)

// applyPlace loads the firewall and puts the checked site.conf, where there is
// one, into force. The initrd has held it against the launch.
func applyPlace(ctx context.Context) error {
	var s site.Site
	text, err := os.ReadFile(siteOutput)
	switch {
	case err == nil:
		if s, err = site.Parse(text); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.GuestBoot, err)
	}
	rules, err := firewall.Rules(s)
	if err != nil {
		return fault.New(fault.GuestFirewall, err)
	}
	_, status, err := tools{}.Run(ctx, nil, []byte(rules), "/usr/sbin/nft", "-f", "-")
	if err == nil && status != 0 {
		err = fault.Newf(fault.GuestFirewall, "nft ends with status %d", status)
	}
	if err != nil {
		return fault.New(fault.GuestFirewall, err)
	}
	if s.Hostname != "" {
		if err := setHostname(s.Hostname); err != nil {
			return fault.Newf(fault.GuestBoot, "host name: %w", err)
		}
	}
	if len(s.NTPServers) > 0 {
		line := "[Time]\nNTP=" + strings.Join(s.NTPServers, " ") + "\nFallbackNTP=\n"
		if err := writeShared(timeServers, line); err != nil {
			return fault.Newf(fault.GuestBoot, "time servers: %w", err)
		}
	}
	return nil
}

// setHostname changes the name that is in force and the one that others read.
func setHostname(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return err
	}
	return atomicfile.Write(hostnameFile, 0o644, []byte(name+"\n"))
}
