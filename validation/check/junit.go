package check

import (
	"encoding/xml"
	"io"
	"strconv"
)

// The elements of JUnit's format that test runners agree on: one suite for each
// area, one case for each check.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     seconds      `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     seconds     `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name      string        `xml:"name,attr"`
		ClassName string        `xml:"classname,attr"`
		Time      seconds       `xml:"time,attr"`
		Failure   *junitMessage `xml:"failure,omitempty"`
		Error     *junitMessage `xml:"error,omitempty"`
		Skipped   *junitMessage `xml:"skipped,omitempty"`
		Output    string        `xml:"system-out,omitempty"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// seconds is written as a plain decimal: readers do not take an exponent.
type seconds float64

// MarshalXMLAttr implements [xml.MarshalerAttr].
func (s seconds) MarshalXMLAttr(name xml.Name) (xml.Attr, error) {
	return xml.Attr{Name: name, Value: strconv.FormatFloat(float64(s), 'f', 3, 64)}, nil
}

// JUnit writes the report as JUnit's XML. A skipped check is skipped there, too.
func (r Report) JUnit(w io.Writer) error {
	all := junitSuites{Name: "cc-base", Tests: len(r.Results), Failures: r.Counts[Fail], Errors: r.Counts[Error], Skipped: r.Counts[Skip]}
	at := map[string]int{}
	for _, c := range r.Results {
		name := string(c.Where) + "." + c.Area
		i, known := at[name]
		if !known {
			i = len(all.Suites)
			at[name] = i
			all.Suites = append(all.Suites, junitSuite{Name: name})
		}
		all.Suites[i].add(c, name)
		all.Time += seconds(c.Seconds)
	}
	text, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, xml.Header+string(text)+"\n")
	return err
}

func (s *junitSuite) add(c Result, class string) {
	one := junitCase{Name: c.ID + ": " + c.Title, ClassName: class, Time: seconds(c.Seconds)}
	message := &junitMessage{Message: printable(c.Detail), Text: printable(c.Remedy)}
	s.Tests++
	s.Time += one.Time
	switch c.Status {
	case Pass:
		one.Output = printable(c.Detail)
	case Skip:
		one.Skipped = message
		s.Skipped++
	case Fail:
		one.Failure = message
		s.Failures++
	default:
		one.Error = message
		s.Errors++
	}
	s.Cases = append(s.Cases, one)
}
