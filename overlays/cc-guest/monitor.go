package main

import (
	"context"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"cc-base/overlays/cc-guest/internal/watch"
	"cc-base/tasks/fault"
)

const (
	// monitorUnit is the unit of the verb watch.
	monitorUnit = "cc-monitor.service"
	// watchEvery is the pause between two looks, a third of what the unit grants
	// (WatchdogSec).
	watchEvery = 10 * time.Second
)

// watchSystem returns when the machine has to be switched off.
func watchSystem(ctx context.Context) error {
	check, err := readyCheck()
	if err != nil {
		return err
	}
	w := watch.Watcher{Every: watchEvery, Look: check, Sys: os.DirFS("/sys"), Alive: alive}
	return fault.New(fault.GuestMonitor, w.Run(ctx))
}

// alive tells systemd that the system was looked at and is well.
func alive() error {
	heard, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\n"+daemon.SdNotifyWatchdog)
	if err == nil && !heard {
		err = fault.Newf(fault.GuestMonitor, "NOTIFY_SOCKET is not set")
	}
	return err
}

// refuse says why the machine is switched off: systemd tells which unit made it
// call (systemd.exec(5), $MONITOR_UNIT).
func refuse(context.Context) error {
	if os.Getenv("MONITOR_UNIT") == monitorUnit {
		return fault.Newf(fault.GuestMonitor, "%s has ended: %s %s %s", monitorUnit,
			os.Getenv("MONITOR_SERVICE_RESULT"), os.Getenv("MONITOR_EXIT_CODE"), os.Getenv("MONITOR_EXIT_STATUS"))
	}
	return fault.Newf(fault.GuestBoot, "the boot failed; there is no emergency shell")
}
