package fault

import (
	"fmt"
	"io"
)

// WriteMeaning prints what a code means; an unknown code is an error with the
// exit status of a usage error.
func WriteMeaning(w io.Writer, code Code) error {
	m := Explain(code)
	if m.Cause == "" {
		return Newf(Usage, "%q is not a code of cc-base", string(code)).Hint("codes look like %s", Config)
	}
	_, err := fmt.Fprintf(w, "%s: %s (exit status %d)\n\nwhen: %s\nwhat to do: %s\n", m.Code, m.Title, m.Exit, m.Cause, m.Cure)
	return err
}
