package conf

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// report takes what is wrong with the word number i of a value.
type report func(i int, format string, args ...any)

// field binds a key to its place in Config. set reads the words as written and
// reports what is wrong with them; get returns the effective value as words
// that set accepts again.
type field struct {
	array bool
	enum  []string // values for did-you-mean
	set   func(c *Config, words []string, bad report)
	get   func(c *Config) []string
}

// scalar makes a field of one word from a parser and a formatter.
func scalar[T any](at func(*Config) *T, parse func(string) (T, error), format func(T) string) field {
	return field{
		set: func(c *Config, words []string, bad report) {
			v, err := parse(words[0])
			if err != nil {
				bad(0, "%v", err)
				return
			}
			*at(c) = v
		},
		get: func(c *Config) []string { return []string{format(*at(c))} },
	}
}

func same(s string) string { return s }

func oneOf(at func(*Config) *string, values ...string) field {
	f := scalar(at, func(s string) (string, error) {
		if !slices.Contains(values, s) {
			return "", fmt.Errorf("%q is not known", s)
		}
		return s, nil
	}, same)
	f.enum = values
	return f
}

func yesNo(at func(*Config) *bool) field {
	f := scalar(at, func(s string) (bool, error) {
		switch s {
		case "yes":
			return true, nil
		case "no":
			return false, nil
		}
		return false, fmt.Errorf("%q is neither yes nor no", s)
	}, formatBool)
	f.enum = []string{"yes", "no"}
	return f
}

// always is a switch whose other position cannot work; why is the reason that
// a user gets who tries it.
func always(at func(*Config) *bool, must bool, why string) field {
	f := yesNo(at)
	either := f.set
	f.set = func(c *Config, words []string, bad report) {
		either(c, words, bad)
		if (words[0] == "yes" || words[0] == "no") && *at(c) != must {
			bad(0, "%s cannot work: %s", words[0], why)
		}
	}
	return f
}

func formatBool(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func text(at func(*Config) *string, check func(string) error) field {
	return scalar(at, func(s string) (string, error) { return s, check(s) }, same)
}

func number[T int | int64](at func(*Config) *T, low, high int64) field {
	return scalar(at, func(s string) (T, error) {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != s {
			return 0, fmt.Errorf("%q is not a whole number", s)
		}
		if n < low || n > high {
			return 0, fmt.Errorf("%d is out of range", n)
		}
		return T(n), nil
	}, func(n T) string { return strconv.FormatInt(int64(n), 10) })
}

// choice is a number out of a few.
func choice(at func(*Config) *int, values ...int) field {
	f := number(at, 0, 1<<31)
	inRange := f.set
	f.set = func(c *Config, words []string, bad report) {
		failed := false
		inRange(c, words, func(i int, format string, args ...any) { failed = true; bad(i, format, args...) })
		if !failed && !slices.Contains(values, *at(c)) {
			bad(0, "%s is not supported", words[0])
		}
	}
	return f
}

// size is a number of bytes with a unit; auto is stored as 0 where allowed.
func size(at func(*Config) *int64, auto bool, low, high, multiple int64) field {
	f := scalar(at, func(s string) (int64, error) {
		if auto && s == "auto" {
			return 0, nil
		}
		n, err := parseSize(s)
		switch {
		case err != nil:
			return 0, err
		case n < low:
			return 0, fmt.Errorf("%s is below the minimum of %s", s, formatSize(low))
		case n > high:
			return 0, fmt.Errorf("%s is above the maximum of %s", s, formatSize(high))
		case n%multiple != 0:
			return 0, fmt.Errorf("%s is not a multiple of %s", s, formatSize(multiple))
		}
		return n, nil
	}, func(n int64) string {
		if auto && n == 0 {
			return "auto"
		}
		return formatSize(n)
	})
	if auto {
		f.enum = []string{"auto"}
	}
	return f
}

func interval(at func(*Config) *time.Duration, low, high time.Duration) field {
	return scalar(at, func(s string) (time.Duration, error) {
		d, err := parseInterval(s)
		if err == nil && (d < low || d > high) {
			err = fmt.Errorf("%s is out of range", s)
		}
		return d, err
	}, formatInterval)
}

// list is an array of distinct words; values, where given, are the only ones.
func list(at func(*Config) *[]string, values []string, check func(string) error) field {
	return field{
		array: true,
		enum:  values,
		set: func(c *Config, words []string, bad report) {
			for i, w := range words {
				switch {
				case slices.Contains(words[:i], w):
					bad(i, "%q is there twice", w)
				case values != nil && !slices.Contains(values, w):
					bad(i, "%q is not known", w)
				case check != nil:
					if err := check(w); err != nil {
						bad(i, "%v", err)
					}
				}
			}
			*at(c) = append([]string{}, words...)
		},
		get: func(c *Config) []string { return *at(c) },
	}
}

// someOf is an array of at least one value, each once, from a parser and a
// formatter of one: two spellings of a value are that value twice.
func someOf[T comparable](at func(*Config) *[]T, parse func(string) (T, error), format func(T) string) field {
	return field{
		array: true,
		set: func(c *Config, words []string, bad report) {
			values := make([]T, 0, len(words))
			for i, w := range words {
				v, err := parse(w)
				switch {
				case err != nil:
					bad(i, "%v", err)
				case slices.Contains(values, v):
					bad(i, "%q is there twice", format(v))
				default:
					values = append(values, v)
				}
			}
			if len(words) == 0 {
				bad(0, "it is empty")
			}
			*at(c) = values
		},
		get: func(c *Config) []string {
			var words []string
			for _, v := range *at(c) {
				words = append(words, format(v))
			}
			return words
		},
	}
}

// suggesting adds the values for did-you-mean.
func (f field) suggesting(values []string) field {
	f.enum = values
	return f
}

// matching returns a check against a pattern, which covers the whole value.
func matching(pattern, what string) func(string) error {
	re := regexp.MustCompile(`^(?:` + pattern + `)$`)
	return func(s string) error {
		if !re.MatchString(s) {
			return fmt.Errorf("%q is not %s", s, what)
		}
		return nil
	}
}

var pathWord = regexp.MustCompile(`^/[A-Za-z0-9._@+:-]+(/[A-Za-z0-9._@+:-]+)*$`)

// absolute accepts a clean absolute path in plain characters: the paths end up
// in fstab, in units and on command lines.
func absolute(s string) error {
	switch {
	case !strings.HasPrefix(s, "/"):
		return fmt.Errorf("%q is not an absolute path", s)
	case s == "/":
		return fmt.Errorf("the path / is not allowed here")
	case path.Clean(s) != s:
		return fmt.Errorf("%q is not a clean path: it means %q", s, path.Clean(s))
	case !pathWord.MatchString(s):
		return fmt.Errorf("%q has characters other than A-Z a-z 0-9 . _ @ + : -", s)
	}
	return nil
}

// under reports whether p is dir or lies below it.
func under(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
