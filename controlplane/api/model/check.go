package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Fault says in which way a value differs from its shape.
type Fault string

// The faults, the gravest first.
const (
	Mistyped Fault = "mistyped" // of another JSON type, or a number out of its type's range
	Missing  Fault = "missing"  // a required member
	Invalid  Fault = "invalid"  // outside its enum, range, length or pattern
	Unknown  Fault = "unknown"  // a member that the shape does not have
)

// Violation is one difference between a document and its shape.
type Violation struct {
	Fault Fault
	Path  string // "vmServerAddressList[0].vmId"; empty for the document itself
	Want  string // what is allowed, to follow "must be"
}

// String gives the violation in one line.
func (v Violation) String() string {
	return fmt.Sprintf("%s: %s (must be %s)", v.Path, v.Fault, v.Want)
}

// Check holds doc against a shape. doc is what encoding/json decodes into an
// any, with numbers as json.Number. It returns a copy without the members that
// the shape does not have and without nulls, and the violations: in the order
// of their faults, then of their paths.
func (m *Model) Check(shape string, doc any) (any, []Violation) {
	c := checker{model: m}
	kept := c.value("", shape, doc)
	order := []Fault{Mistyped, Missing, Invalid, Unknown}
	slices.SortStableFunc(c.found, func(a, b Violation) int {
		if d := slices.Index(order, a.Fault) - slices.Index(order, b.Fault); d != 0 {
			return d
		}
		return strings.Compare(a.Path, b.Path)
	})
	return kept, c.found
}

type checker struct {
	model *Model
	found []Violation
}

func (c *checker) add(f Fault, path, want string, args ...any) {
	c.found = append(c.found, Violation{Fault: f, Path: path, Want: fmt.Sprintf(want, args...)})
}

func (c *checker) value(path, name string, v any) any {
	s := c.model.Shapes[name]
	switch s.Type {
	case "structure":
		return c.structure(path, s, v)
	case "list":
		return c.list(path, s, v)
	case "string":
		c.text(path, s, v)
	case "boolean":
		if _, ok := v.(bool); !ok {
			c.add(Mistyped, path, "true or false")
		}
	case "integer":
		c.integer(path, s, v, 32)
	case "long":
		c.integer(path, s, v, 64)
	case "timestamp":
		c.timestamp(path, v)
	default:
		c.add(Mistyped, path, "of a type that this model does not have: %q", name)
	}
	return v
}

func (c *checker) structure(path string, s Shape, v any) any {
	doc, ok := v.(map[string]any)
	if !ok {
		c.add(Mistyped, path, "an object")
		return nil
	}
	kept := make(map[string]any, len(doc))
	for _, k := range slices.Sorted(maps.Keys(doc)) {
		member, known := s.Members[k]
		switch {
		case !known:
			c.add(Unknown, join(path, k), "left out")
		case doc[k] != nil:
			kept[k] = c.value(join(path, k), member.Shape, doc[k])
		}
	}
	for _, k := range s.Required {
		if doc[k] == nil {
			c.add(Missing, join(path, k), "given")
		}
	}
	return kept
}

func (c *checker) list(path string, s Shape, v any) any {
	doc, ok := v.([]any)
	if !ok {
		c.add(Mistyped, path, "a list")
		return nil
	}
	c.size(path, s, int64(len(doc)), "a list of %s entries")
	kept := make([]any, len(doc))
	for i, e := range doc {
		kept[i] = c.value(path+"["+strconv.Itoa(i)+"]", s.Member.Shape, e)
	}
	return kept
}

func (c *checker) text(path string, s Shape, v any) {
	text, ok := v.(string)
	if !ok {
		c.add(Mistyped, path, "a string")
		return
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, text) {
		c.add(Invalid, path, "one of %s", strings.Join(s.Enum, ", "))
	}
	c.size(path, s, int64(utf8.RuneCountInString(text)), "%s characters long")
	if s.Pattern != "" {
		if p, err := regexp.Compile(`\A(?:` + s.Pattern + `)\z`); err != nil || !p.MatchString(text) {
			c.add(Invalid, path, "of the form %s", s.Pattern)
		}
	}
}

func (c *checker) integer(path string, s Shape, v any, bits int) {
	number, _ := v.(json.Number)
	n, err := strconv.ParseInt(number.String(), 10, bits)
	if err != nil {
		c.add(Mistyped, path, "a whole number of at most %d bits", bits)
		return
	}
	c.size(path, s, n, "%s")
}

// timestamp takes epoch seconds of the years 1970 to 9999, with fractions.
func (c *checker) timestamp(path string, v any) {
	number, ok := v.(json.Number)
	if !ok {
		c.add(Mistyped, path, "a number of seconds since 1970-01-01T00:00:00Z")
		return
	}
	const year10000 = 253402300800
	if f, err := number.Float64(); err != nil || f < 0 || f >= year10000 {
		c.add(Invalid, path, "a number of seconds since 1970-01-01T00:00:00Z, before the year 10000")
	}
}

func (c *checker) size(path string, s Shape, n int64, form string) {
	switch {
	case s.Min != nil && s.Max != nil && (n < *s.Min || n > *s.Max):
		c.add(Invalid, path, form, fmt.Sprintf("%d to %d", *s.Min, *s.Max))
	case s.Min != nil && s.Max == nil && n < *s.Min:
		c.add(Invalid, path, form, fmt.Sprintf("at least %d", *s.Min))
	case s.Max != nil && s.Min == nil && n > *s.Max:
		c.add(Invalid, path, form, fmt.Sprintf("at most %d", *s.Max))
	}
}

func join(path, member string) string {
	if path == "" {
		return member
	}
	return path + "." + member
}
