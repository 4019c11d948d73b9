// Package report renders what is known of a build as one HTML page: what it
// took, what takes the space in the image and what changed since the last one,
// what the disk holds, what it will measure, and what is not proven.
//
// The rules:
//
//   - The page stands by itself: no script, style, font or picture is loaded,
//     and its content security policy forbids it.
//   - It is readable without its script, which only sorts and filters a table.
//   - Everything that comes from outside is escaped (html/template).
package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"time"

	"cc-base/tasks/inventory"
	"cc-base/tasks/manifest"
	"cc-base/tasks/measurements"
	"cc-base/tasks/monitor"
)

// Report is what the page shows.
type Report struct {
	Manifest     manifest.Manifest
	Measurements measurements.Document
	Ended        time.Time        // of the build
	Stages       []Stage          // in order
	Samples      []monitor.Sample // of the machine while they ran; none when nobody looked
	Processors   int
	Now          Snapshot
	Before       *Snapshot         // of the image before this one; nil when none is known
	Licences     map[string]string // by package, as SPDX expressions; nil when nobody read them
	Unproven     []Unproven
}

// Stage is what one stage of the pipeline came to.
type Stage struct {
	Name     string
	Action   string  // none, cache or run
	Start    float64 // seconds since the build began
	Seconds  float64
	Expected float64 // seconds by former runs; 0 when nothing is known
	Bytes    int64   // of the files that it made
}

// Snapshot is what of an image is compared with the next one.
type Snapshot struct {
	Image     string              `json:"image"` // SHA-256 of the disk image
	Artefacts []Artefact          `json:"artefacts"`
	Contents  inventory.Inventory `json:"contents"` // of the root volume
}

// Artefact is a file that a build gives.
type Artefact struct {
	Name   string `json:"name"` // below the output folder
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Unproven is something that nobody should take from the page as proven.
type Unproven struct{ What, Why string }

//go:embed page.html
var pageText string

//go:embed page.css
var styleText string

//go:embed page.js
var scriptText string

// Write renders the page.
func Write(w io.Writer, r Report) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"size": size, "delta": delta, "duration": duration, "date": date, "short": short, "percent": percent,
	}).Parse(pageText)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	// Whole or not at all.
	var page bytes.Buffer
	if err := t.Execute(&page, view(r)); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	_, err = page.WriteTo(w)
	return err
}

// parts are the page's own text, which is not to be escaped.
type parts struct {
	Style      template.CSS
	Script     template.JS
	ScriptHash string // for the content security policy: this script and no other
}

func ownParts() parts {
	sum := sha256.Sum256([]byte(scriptText))
	return parts{
		Style: template.CSS(styleText), Script: template.JS(scriptText),
		ScriptHash: "sha256-" + base64.StdEncoding.EncodeToString(sum[:]),
	}
}
