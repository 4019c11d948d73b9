package settings_test

// What green does not prove: nothing here starts a VM by these settings. That a
// GPU named here can be passed through is the doctor's business.

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"cc-base/installer/settings"
	"cc-base/tasks/fault"
	"cc-base/tasks/filetest"
	"cc-base/tasks/golden"
	"cc-base/tasks/gpu"
	"cc-base/tasks/gpu/gputest"
	"cc-base/tasks/network"
)

const first, second = "0000:18:00.0", "0000:9a:00.0"

func list(t *testing.T, tree gputest.Tree) []gpu.Function {
	t.Helper()
	functions, err := gpu.List(tree)
	if err != nil {
		t.Fatal(err)
	}
	return functions
}

// two has an H100 with 80 GB and an H200 with 141.
func two(t *testing.T) []gpu.Function {
	return list(t, gputest.New().Add(first, gputest.Device{ID: 0x2330}).Add(second, gputest.Device{ID: 0x2335}))
}

func bridged() network.Facts {
	return network.Facts{Default: "br1", Interfaces: []network.Interface{
		{Name: "br0", Kind: network.Bridge, Members: []string{"eno1"}}, {Name: "br1", Kind: network.Bridge, Members: []string{"eno2"}},
		{Name: "eno1", Kind: network.Physical}, {Name: "eno2", Kind: network.Physical},
		{Name: "virbr0", Kind: network.Bridge, Members: []string{"vnet0"}}, {Name: "vnet0", Kind: network.Virtual},
	}}
}

// against lays what is detected under files of a root folder named /.
func against(files map[string]string, functions []gpu.Function, net network.Facts) (settings.Change, error) {
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o640}
	}
	return settings.Detect(functions, net).Against(root, "/", functions, net)
}

func TestWhatIsProposed(t *testing.T) {
	t.Parallel()
	none := settings.GPU{Index: "none"}
	nat := settings.Network{Type: "nat", Bridge: "ccbr0", Isolation: true}
	own := network.Facts{Interfaces: []network.Interface{{Name: "virbr0", Kind: network.Bridge}}}
	other := bridged()
	other.Default = "eno3"
	for _, test := range []struct {
		name string
		tree gputest.Tree
		net  network.Facts
		want settings.Settings
	}{
		{"nothing", gputest.New(), network.Facts{}, settings.Settings{GPU: none, Network: nat}},
		{"the bridge of the default route, the first GPU", gputest.New().Add(second, gputest.Device{ID: 0x2335}).Add(first, gputest.Device{ID: 0x2330}), bridged(),
			settings.Settings{GPU: settings.GPU{Index: "0", Addresses: []string{first}, Memory: 80 << 30}, Network: settings.Network{Type: "bridge", Bridge: "br1", Isolation: true}}},
		{"a bridge that leads out, libvirt's own does not", gputest.New(), other, settings.Settings{GPU: none, Network: settings.Network{Type: "bridge", Bridge: "br0", Isolation: true}}},
		{"libvirt's bridge alone", gputest.New(), own, settings.Settings{GPU: none, Network: nat}},
		{"a GPU without a CC mode is passed over", gputest.New().Add(first, gputest.Device{ID: 0x26b9}).Add(second, gputest.Device{ID: 0x2335}), own,
			settings.Settings{GPU: settings.GPU{Index: "1", Addresses: []string{second}, Memory: 141 << 30}, Network: nat}},
		{"only such a GPU", gputest.New().Add(first, gputest.Device{ID: 0x26b9}), own, settings.Settings{GPU: none, Network: nat}},
		{"a board with switches", gputest.New().Add(first, gputest.Device{ID: 0x2330}).Add(second, gputest.Device{ID: 0x2335}).Add("0000:05:00.0", gputest.Device{ID: 0x22a3, Class: 0x068000}), own,
			settings.Settings{GPU: settings.GPU{Index: "all", Addresses: []string{first, second}, Memory: 80 << 30}, Network: nat}},
		{"a model whose memory is not known", gputest.New().Add(first, gputest.Device{ID: 0x2901}), own,
			settings.Settings{GPU: settings.GPU{Index: "0", Addresses: []string{first}}, Network: nat}},
	} {
		functions := list(t, test.tree)
		if diff := cmp.Diff(test.want, settings.Detect(functions, test.net)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		// What is proposed is never refused.
		if _, err := against(nil, functions, test.net); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestNewFiles(t *testing.T) {
	t.Parallel()
	c, err := against(nil, two(t), bridged())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Files {
		if f.State != settings.New {
			t.Errorf("%s is %s", f.Path, f.State)
		}
		golden.Compare(t, filepath.Base(f.Path), f.Text)
	}
	// They are read as they were written.
	again, err := against(map[string]string{settings.GPUFile: c.Files[0].Text, settings.NetworkFile: c.Files[1].Text}, two(t), bridged())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.Settings, again.Settings); diff != "" {
		t.Errorf("written and read (-want +got):\n%s", diff)
	}
	for _, f := range again.Files {
		if f.State != settings.Kept || len(f.Added) > 0 {
			t.Errorf("%s is %s, added %v", f.Path, f.State, f.Added)
		}
	}
}

func TestHandEditsAreKeptAndMissingKeysFollowFromThem(t *testing.T) {
	t.Parallel()
	const edited = "# mine\nNVIDIA_GPU_INDEX='1' # the big one\n"
	c, err := against(map[string]string{settings.GPUFile: edited, settings.NetworkFile: "NETWORK_TYPE=nat\nNETWORK_ISOLATION=no"}, two(t), bridged())
	if err != nil {
		t.Fatal(err)
	}
	want := settings.Settings{
		GPU:     settings.GPU{Index: "1", Addresses: []string{second}, Memory: 141 << 30},
		Network: settings.Network{Type: "nat", Bridge: "ccbr0"},
	}
	if diff := cmp.Diff(want, c.Settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	f := c.Files[0]
	if f.State != settings.Extended || !strings.HasPrefix(f.Text, edited) || !strings.Contains(f.Text, `NVIDIA_GPU_ADDRESS="`+second+`"`) {
		t.Errorf("%s:\n%s", f.State, f.Text)
	}
	if diff := cmp.Diff([]string{"NVIDIA_GPU_ADDRESS", "NVIDIA_GPU_MEMORY"}, f.Added); diff != "" {
		t.Error(diff)
	}
	if !strings.HasPrefix(c.Files[1].Text, "NETWORK_TYPE=nat\nNETWORK_ISOLATION=no\n\n#") {
		t.Errorf("a last line without its end:\n%s", c.Files[1].Text)
	}
	again, err := against(map[string]string{settings.GPUFile: f.Text, settings.NetworkFile: c.Files[1].Text}, two(t), bridged())
	if err != nil || again.Files[0].Text != f.Text || again.Files[0].State != settings.Kept {
		t.Errorf("the second run: %v, %+v", err, again.Files)
	}
}

func TestProblemsComeAllAtOnceWithTheirLines(t *testing.T) {
	t.Parallel()
	_, err := against(map[string]string{
		settings.GPUFile:     "NVIDIA_GPU_INDX=0\nNVIDIA_GPU_MEMORY=\"80 GB\"\nNVIDIA_GPU_ADDRESS=\"18:00.0\"\nNVIDIA_GPU_INDEX=\"$(reboot)\"\n",
		settings.NetworkFile: "\nNETWORK_TYPE=\"tap\"\nNETWORK_ISOLATION=\"1\"\nNETWORK_TYPE=\"nat\"\nNETWORK_BRIDGE=(a b)\n",
	}, two(t), bridged())
	if fault.Exit(err) != fault.ExitUsage || fault.Of(err).Code != fault.HostSettings {
		t.Fatalf("got %v", err)
	}
	golden.Compare(t, "problems.txt", err.Error()+"\n")
}

func TestWhatTheHostDoesNotHaveIsRefused(t *testing.T) {
	t.Parallel()
	switched := list(t, gputest.New().Add(first, gputest.Device{ID: 0x2330}).Add(second, gputest.Device{ID: 0x2330}).Add("0000:05:00.0", gputest.Device{ID: 0x22a3, Class: 0x068000}))
	b200 := list(t, gputest.New().Add(first, gputest.Device{ID: 0x2901}))
	for _, test := range []struct {
		gpu, net  string
		functions []gpu.Function
		want      string // "" is accepted
	}{
		{"NVIDIA_GPU_INDEX=0\nNVIDIA_GPU_ADDRESS=" + first, "", two(t), ""},
		{"NVIDIA_GPU_INDEX=0\nNVIDIA_GPU_ADDRESS=\"\"", "", two(t), ""},
		{"NVIDIA_GPU_INDEX=0\nNVIDIA_GPU_ADDRESS=" + second, "", two(t), `/etc/cc/qemu/gpu_settings:2:1: NVIDIA_GPU_ADDRESS: it is 0000:9a:00.0, but NVIDIA_GPU_INDEX="0" is 0000:18:00.0`},
		{"NVIDIA_GPU_INDEX=none\nNVIDIA_GPU_ADDRESS=" + second, "", two(t), "is none on this host"},
		{"NVIDIA_GPU_INDEX='1, 0'\nNVIDIA_GPU_ADDRESS='" + second + " " + first + "'\nNVIDIA_GPU_MEMORY=80G", "", two(t), ""},
		{"NVIDIA_GPU_INDEX=2", "", two(t), "gpu_settings:1:1: NVIDIA_GPU_INDEX: there is no GPU 2"},
		{"NVIDIA_GPU_INDEX=0,0", "", two(t), "named twice"},
		{"NVIDIA_GPU_INDEX=1\nNVIDIA_GPU_MEMORY=141G", "", two(t), ""},
		{"NVIDIA_GPU_INDEX=all\nNVIDIA_GPU_MEMORY=141GiB", "", two(t), "0000:18:00.0, NVIDIA H100 SXM5 80GB, has 80G"},
		{"NVIDIA_GPU_INDEX=0\nNVIDIA_GPU_MEMORY=81920MiB", "", two(t), ""},
		{"NVIDIA_GPU_INDEX=0\nNVIDIA_GPU_MEMORY=0", "", two(t), ""},
		{"NVIDIA_GPU_MEMORY=128G", "", b200, ""},
		{"NVIDIA_GPU_MEMORY=129G", "", b200, "has at most 128G"},
		{"NVIDIA_GPU_INDEX=0", "", switched, "joined by 1 NVSwitches"},
		{"NVIDIA_GPU_INDEX=none", "", switched, ""},

		{"", "NETWORK_TYPE=bridge\nNETWORK_BRIDGE=br0", nil, ""},
		{"", "NETWORK_TYPE=bridge\nNETWORK_BRIDGE=br7", nil, "network_settings:2:1: NETWORK_BRIDGE: br7 is not there"},
		{"", "NETWORK_TYPE=nat\nNETWORK_BRIDGE=br7", nil, ""},
		{"", "NETWORK_TYPE=nat\nNETWORK_BRIDGE=eno1", nil, "eno1 is a physical interface"},
		{"", "NETWORK_TYPE=bridge\nNETWORK_BRIDGE=", nil, "it is empty"},
		{"", "NETWORK_TYPE=none\nNETWORK_BRIDGE=", nil, ""},
		{"", "NETWORK_TYPE=none", nil, ""},
		{"", "NETWORK_BRIDGE='a b'", nil, "no name of an interface"},
		{"", "NETWORK_ISOLATION=false", nil, ""},
	} {
		_, err := against(map[string]string{settings.GPUFile: test.gpu, settings.NetworkFile: test.net}, test.functions, bridged())
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q %q: %v", test.gpu, test.net, err)
		}
	}
	// A type of bridge on a host without one.
	if _, err := against(map[string]string{settings.NetworkFile: "NETWORK_TYPE=bridge"}, nil, network.Facts{}); err == nil || !strings.Contains(err.Error(), "it is empty with NETWORK_TYPE") {
		t.Error(err)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	find := func() settings.Change {
		c, err := settings.Detect(two(t), bridged()).Against(os.DirFS(dir), dir, two(t), bridged())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	if err := find().Write(); err != nil {
		t.Fatal(err)
	}
	filetest.Only(t, filepath.Join(dir, "etc/cc/qemu"), "gpu_settings", "network_settings")
	file := filepath.Join(dir, settings.GPUFile)
	edited := strings.Replace(string(filetest.Read(t, file)), `NVIDIA_GPU_MEMORY="80G"`, "", 1)
	edited = strings.Replace(edited, `="`+first+`"`, `=""`, 1)
	filetest.Write(t, file, []byte(edited))
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := find().Write(); err != nil {
		t.Fatal(err)
	}
	got := string(filetest.Read(t, file))
	if !strings.HasPrefix(got, strings.TrimRight(edited, "\n")) || !strings.Contains(got, `NVIDIA_GPU_MEMORY="80G"`) || !strings.Contains(got, `NVIDIA_GPU_ADDRESS=""`) {
		t.Errorf("after a hand edit:\n%s", got)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := find().Write(); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
		t.Error("a complete file was written again")
	}
}

func TestAFileThatCannotBeReadIsAnError(t *testing.T) {
	t.Parallel()
	root := fstest.MapFS{settings.GPUFile + "/x": &fstest.MapFile{}}
	_, err := settings.Detect(nil, network.Facts{}).Against(root, "/", nil, network.Facts{})
	var path *fs.PathError
	if !errors.As(err, &path) || fault.Of(err).Code != fault.HostSettings {
		t.Errorf("got %v", err)
	}
}

func TestReadIsWhatIsInForce(t *testing.T) {
	t.Parallel()
	root := fstest.MapFS{settings.GPUFile: &fstest.MapFile{Data: []byte("NVIDIA_GPU_INDEX=all\n")}}
	s, err := settings.Read(root, "/", two(t), bridged())
	if err != nil || s.Network.Bridge != "br1" {
		t.Fatalf("%+v, %v", s, err)
	}
	chosen, err := s.GPU.Chosen(two(t))
	if err != nil || len(chosen) != 2 {
		t.Errorf("%v, %v", chosen, err)
	}
}
