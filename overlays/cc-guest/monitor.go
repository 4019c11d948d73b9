package main

import (
	"context"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"cc-base/overlays/cc-guest/internal/watch"
	"cc-base/tasks/fault"
)

// watchEvery is the pause between two looks, a third of what the unit grants
// (WatchdogSec).
const watchEvery = 10 * time.Second

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

// gone stands in for a monitor that has ended. How it did is not passed on: the
// init system says that to a unit with one reason to start, and this has two.
func gone(context.Context) error {
	return fault.Newf(fault.GuestMonitor, "the monitor has ended or does not answer")
}
