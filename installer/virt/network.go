package virt

import "context"

// NetDefine makes a persistent network, or redefines the one of that name.
func (c Client) NetDefine(ctx context.Context, xml string) error {
	return c.give(ctx, xml, "net-define", "/dev/stdin")
}

// NetUndefine removes a network's definition; a running one goes on until it is
// destroyed.
func (c Client) NetUndefine(ctx context.Context, name string) error {
	return c.do(ctx, "net-undefine", "--network", name)
}

// NetStart makes a network's bridge and starts its DHCP.
func (c Client) NetStart(ctx context.Context, name string) error {
	return c.do(ctx, "net-start", "--network", name)
}

// NetDestroy removes a running network's bridge; its definition stays.
func (c Client) NetDestroy(ctx context.Context, name string) error {
	return c.do(ctx, "net-destroy", "--network", name)
}

// NetAutostart says whether the network is started with the host.
func (c Client) NetAutostart(ctx context.Context, name string, on bool) error {
	return c.do(ctx, autostart("net-autostart", "--network", name, on)...)
}

// NetXML returns a network's definition.
func (c Client) NetXML(ctx context.Context, name string) (string, error) {
	return c.text(ctx, "net-dumpxml", "--inactive", "--network", name)
}

// Networks returns the names of all networks, running or not.
func (c Client) Networks(ctx context.Context) ([]string, error) {
	return c.names(ctx, "net-list", "--all", "--name")
}

// RunningNetworks returns the names of the networks that have a bridge now.
func (c Client) RunningNetworks(ctx context.Context) ([]string, error) {
	return c.names(ctx, "net-list", "--name")
}

// FilterDefine makes a network filter, or redefines the one of that name, for
// running domains that refer to it at once. Filters are always persistent.
func (c Client) FilterDefine(ctx context.Context, xml string) error {
	return c.give(ctx, xml, "nwfilter-define", "/dev/stdin")
}

// FilterUndefine removes a filter; libvirt refuses while a running domain
// refers to it.
func (c Client) FilterUndefine(ctx context.Context, name string) error {
	return c.do(ctx, "nwfilter-undefine", "--nwfilter", name)
}

// FilterXML returns a filter's definition.
func (c Client) FilterXML(ctx context.Context, name string) (string, error) {
	return c.text(ctx, "nwfilter-dumpxml", "--nwfilter", name)
}

// Filters returns the names of all network filters.
func (c Client) Filters(ctx context.Context) ([]string, error) {
	out, err := c.text(ctx, "nwfilter-list")
	if err != nil {
		return nil, err
	}
	return filterNames(out), nil
}

// BindingCreate puts a filter on a network interface that belongs to no domain
// of this libvirt (<filterbinding>, libvirt 4.5).
func (c Client) BindingCreate(ctx context.Context, xml string) error {
	return c.give(ctx, xml, "nwfilter-binding-create", "/dev/stdin")
}

// BindingDelete takes the filter off the interface.
func (c Client) BindingDelete(ctx context.Context, port string) error {
	return c.do(ctx, "nwfilter-binding-delete", "--binding", port)
}

func (c Client) names(ctx context.Context, args ...string) ([]string, error) {
	out, err := c.text(ctx, args...)
	if err != nil {
		return nil, err
	}
	return sorted(lines(out)), nil
}
