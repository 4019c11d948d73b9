package build

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"cc-base/tasks/filetest"
)

// What green does not prove: that the real stages do not get into each other's
// way; the built image in its two folders, compared byte by byte, does.

// scheduled are stages of these names, which read each other's outputs and write a
// file each. do is what they run.
func scheduled(b *Build, reads map[string][]string, names []string, do func(name string) error) (list []stage) {
	for _, name := range names {
		list = append(list, stage{
			name: name, reads: reads[name],
			outputs: func(b *Build) []string { return []string{b.scratch(name)} },
			run:     func(context.Context, *Build) error { return do(name) },
		})
	}
	return list
}

func TestStagesRunSideBySideButNeverBeforeWhatTheyRead(t *testing.T) {
	b := testBuild(t)
	var mu sync.Mutex
	var done []string
	meet := make(chan bool)
	list := scheduled(b, map[string][]string{"encrypt": {"tee"}, "initrd": {"tee"}, "package": {"encrypt", "initrd"}},
		[]string{"tee", "initrd", "encrypt", "package"}, func(name string) error {
			switch name { // these two end only when both run
			case "initrd":
				meet <- true
			case "encrypt":
				<-meet
			}
			filetest.Write(t, b.scratch(name), []byte(name))
			mu.Lock()
			defer mu.Unlock()
			done = append(done, name)
			return nil
		})
	if b.width() < 2 {
		t.Skip("one processor: nothing runs side by side")
	}
	all, err := b.abreast(t.Context(), list)
	if err != nil {
		t.Fatal(err)
	}
	if len(done) != 4 || done[0] != "tee" || done[3] != "package" {
		t.Errorf("they ended as %v", done)
	}
	for i, o := range all {
		if o.stage != list[i].name || o.action != "run" {
			t.Errorf("outcome %d: %+v", i, o)
		}
	}
	if all, err = b.abreast(t.Context(), list); err != nil || all[3].action != "none" {
		t.Errorf("again: %+v, %v", all, err)
	}
}

func TestAStageThatFailsEndsTheOthersAndIsTheOneThatIsNamed(t *testing.T) {
	b := testBuild(t)
	broken := errors.New("broken")
	list := scheduled(b, map[string][]string{"package": {"apps"}}, []string{"apps", "firmware", "package"}, nil)
	list[0].run = func(ctx context.Context, _ *Build) error { <-ctx.Done(); return ctx.Err() }
	list[1].run = func(context.Context, *Build) error { return broken }
	list[2].run = func(context.Context, *Build) error { t.Error("package ran"); return nil }
	if b.width() < 2 {
		list = list[1:2]
	}
	_, err := b.abreast(t.Context(), list)
	if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "firmware: ") {
		t.Errorf("%v", err)
	}
}
