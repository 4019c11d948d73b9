package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cc-base/tasks/atomicfile"
	"cc-base/tasks/digest"
)

// record is what is known of a finished stage: out/state/NAME.json.
type record struct {
	Key     string            `json:"key"`
	Inputs  map[string]string `json:"inputs"`
	Outputs []output          `json:"outputs"`
	Seconds float64           `json:"seconds"`
}

// output is one file that a stage wrote. Inode, change time and size together
// tell that nobody wrote to it since, without reading it: the kernel sets the
// change time on every write and no program can set it back. Where they differ
// the content decides.
type output struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Inode  uint64 `json:"inode"`
	CTime  int64  `json:"ctime"` // nanoseconds since 1970
}

func (r record) took() time.Duration { return time.Duration(r.Seconds * float64(time.Second)) }

// bytes is the size of all outputs.
func (r record) bytes() (sum int64) {
	for _, o := range r.Outputs {
		sum += o.Size
	}
	return sum
}

func (b *Build) recordFile(stage string) string { return filepath.Join(b.stateDir(), stage+".json") }

// inputs returns everything that the stage's result depends on, by name.
func (b *Build) inputs(s stage) (map[string]string, error) {
	in := map[string]string{}
	for k, v := range b.Config.Subset(s.keys...) {
		in["config:"+k] = v
	}
	for _, name := range s.reads {
		r, err := b.load(name)
		if err != nil {
			return nil, fmt.Errorf("reading the record of %s: %w", name, err)
		}
		for _, o := range r.Outputs {
			in["output:"+name+":"+b.relative(o.Path)] = o.SHA256
		}
	}
	if s.facts != nil {
		facts, err := s.facts(b)
		if err != nil {
			return nil, err
		}
		maps.Copy(in, facts)
	}
	code, err := b.codeDigest("tasks/build", s.name)
	if err != nil {
		return nil, err
	}
	in["program"] = code
	return in, nil
}

// relative makes a path that means the same in another output folder.
func (b *Build) relative(path string) string {
	for _, dir := range []string{b.CacheDir, b.OutDir} {
		if rest, ok := strings.CutPrefix(path, dir+string(filepath.Separator)); ok {
			return rest
		}
	}
	return path
}

func key(inputs map[string]string) string {
	sum := sha256.New()
	for _, k := range slices.Sorted(maps.Keys(inputs)) {
		fmt.Fprintf(sum, "%q=%q\n", k, inputs[k])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// fresh tells whether the stage's last result still stands: made from equal
// inputs, every output there and unchanged.
func (b *Build) fresh(s stage, in map[string]string) (record, bool) {
	r, err := b.load(s.name)
	if err != nil || r.Key != key(in) {
		return r, false
	}
	want := s.outputs(b)
	if len(want) != len(r.Outputs) {
		return r, false
	}
	for i, o := range r.Outputs {
		if o.Path != want[i] || !o.unchanged() {
			return r, false
		}
	}
	return r, true
}

func (b *Build) load(stage string) (record, error) {
	var r record
	data, err := os.ReadFile(b.recordFile(stage))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// record writes the stage's record, by temporary file and rename, and returns it.
func (b *Build) record(s stage, in map[string]string, took time.Duration) (record, error) {
	r := record{Key: key(in), Inputs: in, Seconds: took.Seconds()}
	for _, path := range s.outputs(b) {
		o, err := describe(path)
		if err != nil {
			return r, err
		}
		r.Outputs = append(r.Outputs, o)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return r, err
	}
	return r, atomicfile.Write(b.recordFile(s.name), 0o644, append(data, '\n'))
}

func describe(path string) (output, error) {
	sum, err := digest.File(path)
	if err != nil {
		return output{}, err
	}
	o := output{Path: path, SHA256: sum}
	o.Size, o.Inode, o.CTime, err = identity(path)
	return o, err
}

func (o output) unchanged() bool {
	size, inode, ctime, err := identity(o.Path)
	if err != nil || size != o.Size {
		return false
	}
	if inode == o.Inode && ctime == o.CTime {
		return true
	}
	sum, err := digest.File(o.Path)
	return err == nil && sum == o.SHA256
}

func identity(path string) (size int64, inode uint64, ctime int64, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, 0, fmt.Errorf("%s: no inode information", path)
	}
	return info.Size(), st.Ino, st.Ctim.Nano(), nil
}
