package facts

import (
	"encoding/json"
	"fmt"
	"os"
)

// Read returns the facts in a file, as `cc-install doctor --facts` writes them.
// Those of another schema are an error.
func Read(file string) (Facts, error) {
	var f Facts
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err == nil && f.Schema != Schema {
		err = fmt.Errorf("%s has schema %d, this program knows %d", file, f.Schema, Schema)
	}
	return f, err
}
