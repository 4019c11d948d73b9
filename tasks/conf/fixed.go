package conf

import (
	"fmt"
	"slices"
)

// Fixed returns every key in which c differs from the configuration that an image
// was built with although it cannot be changed any more: those that are read at
// none of the given times. Nil means that c may be used with the image.
func (c Config) Fixed(image Config, open ...When) Problems {
	var problems Problems
	for _, k := range table() {
		was, is := image.Value(k.name), c.Value(k.name)
		if was == is || slices.Contains(open, k.when) {
			continue
		}
		do := "build the image again"
		if k.when == AtInstall {
			do = "install it again"
		}
		problems = append(problems, Problem{
			File: c.Origin(k.name), Key: k.name,
			What: fmt.Sprintf("is %q, the image has %q and it is read at %s time: %s", is, was, k.when, do),
		})
	}
	return problems
}
