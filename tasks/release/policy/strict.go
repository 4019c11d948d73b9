package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// decode reads a JSON object into a struct, as encoding/json does it but for
// what nobody writes on purpose: unknown keys, keys in another case, and keys
// that stand there twice are errors, all with their place as "line:column".
func decode(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	walk := walker{data: data, dec: dec}
	if err := walk.value(reflect.TypeOf(into).Elem(), ""); err != nil {
		return err
	}
	if rest := bytes.TrimSpace(data[dec.InputOffset():]); len(rest) > 0 {
		return walk.at(dec.InputOffset(), errors.New("something follows the JSON object"))
	}
	err := json.Unmarshal(data, into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return walk.at(wrong.Offset, fmt.Errorf("%s: a JSON %s, not a %s", wrong.Field, wrong.Value, kind(wrong.Type)))
	}
	return err
}

// walker goes over the tokens of a text beside the type that it is meant for.
type walker struct {
	data []byte
	dec  *json.Decoder
}

func (w walker) value(t reflect.Type, path string) error {
	token, err := w.token()
	if err != nil {
		return err
	}
	open, ok := token.(json.Delim)
	if !ok {
		return nil // a plain value; its type is looked at by Unmarshal
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	seen := map[string]bool{}
	for w.dec.More() {
		inner, name := elem(t), path
		if open == '{' {
			token, err := w.token()
			if err != nil {
				return err
			}
			key := token.(string) // the decoder lets nothing else be a key
			name = strings.TrimPrefix(path+"."+key, ".")
			end := w.dec.InputOffset()
			if seen[key] {
				return w.at(end, fmt.Errorf("%s stands there twice", name))
			}
			seen[key] = true
			if t != nil && t.Kind() == reflect.Struct {
				if inner = field(t, key); inner == nil {
					return w.at(end, fmt.Errorf("unknown key %.60q", name))
				}
			}
		}
		if err := w.value(inner, name); err != nil {
			return err
		}
	}
	_, err = w.token() // the closing one
	return err
}

func (w walker) token() (json.Token, error) {
	token, err := w.dec.Token()
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, w.at(syntax.Offset, err)
	case err != nil:
		return nil, w.at(int64(len(w.data)), errors.New("the text ends in the middle"))
	}
	return token, nil
}

// at adds the place to an error.
func (w walker) at(offset int64, err error) error {
	before := w.data[:min(int(offset), len(w.data))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return fmt.Errorf("%d:%d: %w", line, column, err)
}

// elem returns what a list or map holds.
func elem(t reflect.Type) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		return t.Elem()
	}
	return nil
}

// field returns the type of a struct's field by its JSON name.
func field(t reflect.Type, key string) reflect.Type {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == key {
			return f.Type
		}
	}
	return nil
}

func kind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Slice:
		return "list"
	case reflect.Struct, reflect.Map:
		return "object"
	case reflect.Bool:
		return "truth value"
	case reflect.String:
		return "string"
	}
	return "number of type " + t.String()
}
