package lab_test

// The hardened guest, seen from inside one boot.
//
// What green does not prove: that a packet is dropped, only that the rules are
// loaded (overlays/cc-guest/internal/firewall sends packets); that a BREAK on the
// console does nothing, only that kernel.sysrq is 0; and nothing about what an
// application brings along.

import (
	"os"
	"path/filepath"
	"testing"

	"cc-base/tasks/site"
	"cc-base/tasks/vm"
)

func TestTheGuestIsHardenedAndKnowsItsPlace(t *testing.T) {
	boots.LongOnly(t)
	m := install(t)
	m.image.WithInitrdFiles(t, m.tools, m.guest.Disk, "", map[string][]byte{
		"usr/lib/cc/probe": m.probe(t),
		"usr/lib/systemd/system/cc-mounts.service.d/probe.conf": []byte("[Service]\nExecStartPre=/usr/lib/cc/probe plant hardened\n"),
	})
	g := m.first()
	conf := filepath.Join(m.tmp, "site.conf")
	g.FWCfg = []vm.FWCfg{{Name: site.FWCfg, Path: conf}}
	if err := os.WriteFile(conf, []byte("HOSTNAME=\"node-7\"\nFIREWALL_ALLOW=\"tcp/9100@192.0.2.0/24\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	lines := m.boot(t, g, nil)
	for _, want := range []string{
		`sysctls: [3-9]\d as set, others: \[\]`,
		`firewall: 3 chains drop`,
		`firewall: site: ip saddr 192\.0\.2\.0/24 tcp dport 9100 accept`,
		`ssh: 0 listeners`,
		`unsigned module: (operation not permitted|key was rejected by service)`,
		`kexec: operation not permitted`,
		`host name: node-7`,
		`core limit: 0`,
		`/tmp: noexec true`,
	} {
		seen(t, lines, want)
	}
}
