package settings

import (
	"fmt"
	"regexp"

	"cc-base/tasks/conf/literal"
	"cc-base/tasks/network"
)

// Network is network_settings.
type Network struct {
	Type      string `json:"type"`      // bridge, nat or none
	Bridge    string `json:"bridge"`    // name of the bridge; empty with none
	Isolation bool   `json:"isolation"` // the guest reaches the uplink and its DHCP and DNS only
}

// The types.
const (
	TypeBridge = "bridge" // a bridge of the host, which must be there
	TypeNAT    = "nat"    // a bridge that is made, behind the host's address
	TypeNone   = "none"   // no network card
)

// OwnBridge is the bridge that is made where none is used.
const OwnBridge = "ccbr0"

const networkHead = `# The network of the VM. Written by cc-install detect, which never changes a line
# that is here. These lines win over NETWORK_TYPE and NETWORK_ISOLATION of qemu.conf.
`

// The names of the keys.
const (
	keyType      = "NETWORK_TYPE"
	keyBridge    = "NETWORK_BRIDGE"
	keyIsolation = "NETWORK_ISOLATION"
)

func (n *Network) keys() []key {
	return []key{
		{keyType, "bridge gives the VM an address of its own in the network of a bridge that is there.\nnat hides it behind the host, on a bridge that is made for it. none gives it no card.",
			"bridge, nat, none",
			func() string { return n.Type }, n.setType},
		{keyBridge, "The bridge: with bridge one of the host, with nat the one to be made. A network card\nof the host is never put into it.",
			"the name of a bridge; nothing with none",
			func() string { return n.Bridge }, n.setBridge},
		{keyIsolation, "true lets the VM reach what lies behind the uplink, its DHCP and its DNS, and not the\nhost's other ports, private ranges or other VMs.",
			"true, false",
			func() string { return fmt.Sprint(n.Isolation) }, n.setIsolation},
	}
}

var linkPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`) // IFNAMSIZ less its NUL

func (n *Network) setType(value string) error {
	if value != TypeBridge && value != TypeNAT && value != TypeNone {
		return fmt.Errorf("%q is no type of network", value)
	}
	n.Type = value
	return nil
}

func (n *Network) setBridge(value string) error {
	if value != "" && !linkPattern.MatchString(value) {
		return fmt.Errorf("%q is no name of an interface", value)
	}
	n.Bridge = value
	return nil
}

// setIsolation takes the words of qemu.conf as well: it is the same setting.
func (n *Network) setIsolation(value string) error {
	switch value {
	case "true", "yes":
		n.Isolation = true
	case "false", "no":
		n.Isolation = false
	default:
		return fmt.Errorf("%q is neither", value)
	}
	return nil
}

// detectNetwork proposes a bridge that leads out of the host, the one of the
// default route first, and a network of its own where there is none.
func detectNetwork(net network.Facts) Network {
	n := Network{Type: TypeNAT, Bridge: OwnBridge, Isolation: true}
	for _, b := range net.Bridges() {
		if net.Uplinked(b) && (n.Type == TypeNAT || b.Name == net.Default) {
			n.Type, n.Bridge = TypeBridge, b.Name
		}
	}
	return n
}

// settle makes a missing bridge follow from a type of the operator's.
func (n *Network) settle(p places) {
	switch {
	case !p.has(keyType) || p.has(keyBridge):
	case n.Type == TypeNAT:
		n.Bridge = OwnBridge
	case n.Type == TypeNone:
		n.Bridge = ""
	case n.Bridge == OwnBridge:
		n.Bridge = "" // there is none to be proposed; judge asks for it
	}
}

func (n Network) judge(p places, net network.Facts) literal.Problems {
	i, there := net.Lookup(n.Bridge)
	switch {
	case n.Type == TypeNone:
		return nil // what the bridge is called does not matter then
	case n.Bridge == "":
		return literal.Problems{p.problem(keyBridge, "it is empty with "+keyType+"=\""+n.Type+"\"", "the name of a bridge")}
	case there && i.Kind != network.Bridge:
		return literal.Problems{p.problem(keyBridge, fmt.Sprintf("%s is a %s interface", n.Bridge, i.Kind), "the name of a bridge")}
	case n.Type == TypeBridge && !there:
		return literal.Problems{p.problem(keyBridge, n.Bridge+" is not there", "a bridge of this host; or NETWORK_TYPE=\"nat\", for which one is made")}
	}
	return nil
}
