package machine_test

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"cc-base/installer/virt"
	"cc-base/tasks/sh"
)

// libvirt is a virsh that remembers. It knows what the tests here need, and
// answers as virsh 11.3 does; the real one is asked in real_test.go.
type libvirt struct {
	mu      sync.Mutex
	things  map[string]string // "domain n", "network n", "filter n" → XML
	running map[string]bool
	auto    map[string]bool
	changes int    // commands that change something, so far
	failAt  int    // the change that fails, from 1; 0 none
	deadAt  int    // the change from which on all fail; 0 none
	started func() // called when a domain starts
}

func newLibvirt() *libvirt {
	return &libvirt{things: map[string]string{}, running: map[string]bool{}, auto: map[string]bool{}}
}

// image is all of it, for comparing.
func (l *libvirt) image() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(l.things)) {
		fmt.Fprintf(&b, "%s running %t autostart %t\n%s\n", k, l.running[k], l.auto[k], l.things[k])
	}
	return b.String()
}

var (
	nameElement = regexp.MustCompile(`<name>([^<]*)</name>|<filter name=['"]([^'"]*)['"]`)
	kinds       = map[string]string{"net-": "network ", "nwfilter-": "filter "}
)

func (l *libvirt) runner() sh.Runner {
	return &sh.Recorder{Answer: func(c sh.Cmd) (string, error) {
		out, err := l.answer(c)
		if err != nil {
			return "", &sh.Error{Name: "virsh", Code: 1, Tail: strings.Split(err.Error(), "\n")}
		}
		return out, nil
	}}
}

func (l *libvirt) answer(c sh.Cmd) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	verb, args := c.Args[2], c.Args[3:]
	kind := "domain "
	for prefix, k := range kinds {
		if rest, ok := strings.CutPrefix(verb, prefix); ok {
			verb, kind = rest, k
		}
	}
	key := ""
	if len(args) >= 2 {
		key = kind + args[slices.IndexFunc(args, func(a string) bool { return a == "--domain" || a == "--network" || a == "--nwfilter" })+1]
	}
	switch verb { // those that change nothing
	case "version":
		return "Using library: libvirt 11.3.0\nRunning against daemon: 11.3.0\n", nil
	case "list":
		return l.list(kind, slices.Contains(args, "--all")), nil
	}
	if _, known := l.things[key]; !known && verb != "define" {
		return "", fmt.Errorf("error: failed to get %s'%s'", strings.Replace(kind, "filter", "nwfilter", 1), strings.TrimPrefix(key, kind))
	}
	switch verb {
	case "dumpxml":
		return l.things[key], nil
	case "domstate":
		if l.running[key] {
			return "running\n", nil
		}
		return "shut off\n", nil
	}
	l.changes++
	if l.changes == l.failAt || l.deadAt > 0 && l.changes >= l.deadAt {
		return "", errors.New("error: injected")
	}
	switch verb {
	case "define":
		xml, err := io.ReadAll(c.Stdin)
		if err != nil {
			return "", err
		}
		m := nameElement.FindStringSubmatch(string(xml))
		l.things[kind+m[1]+m[2]] = string(xml)
	case "undefine":
		delete(l.things, key)
		delete(l.auto, key)
	case "start":
		l.running[key] = true
		if kind == "domain " && l.started != nil {
			l.started()
		}
	case "destroy":
		delete(l.running, key)
	case "autostart":
		l.auto[key] = !slices.Contains(args, "--disable")
	default:
		return "", fmt.Errorf("error: unknown command: '%s'", verb)
	}
	return "", nil
}

func (l *libvirt) list(kind string, all bool) string {
	var b strings.Builder
	if kind == "domain " {
		b.WriteString(" Id Name State\n------\n")
	}
	for _, k := range slices.Sorted(maps.Keys(l.things)) {
		name, ok := strings.CutPrefix(k, kind)
		if !ok || !all && kind != "filter " && !l.running[k] {
			continue
		}
		switch kind {
		case "domain ":
			state := "shut off"
			if l.running[k] {
				state = "running"
			}
			fmt.Fprintf(&b, " -    %s   %s\n", name, state)
		case "filter ":
			fmt.Fprintf(&b, " 0a1b2c3d-2fa1-41d2-883f-0016d3cca427  %s\n", name)
		default:
			fmt.Fprintf(&b, "%s\n", name)
		}
	}
	return b.String()
}

func (l *libvirt) client() virt.Client { return virt.Client{Run: l.runner()} }
