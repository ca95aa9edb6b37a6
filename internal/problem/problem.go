// Package problem is the shape of every error that a user can see: a stable
// code, what failed, why, and what to do next. Inside the product errors wrap
// as usual; a problem is made where the reason is known best, and found again
// with errors.As at the surface that shows it.
package problem

import (
	"errors"
	"fmt"
	"strings"
)

// Kind is one entry of the error catalog. Kinds are declared once, as
// package-level values beside the code that reports them, and never change.
type Kind struct {
	// Code is stable and searchable: area-reason, in lower case.
	Code string
	// Title says in one sentence what is wrong.
	Title string
	// Hint says what to do next. It is never empty.
	Hint string
	// Retry tells whether the same operation may succeed later without anybody's help.
	Retry bool
}

// Error is one occurrence of a Kind.
type Error struct {
	Kind *Kind
	// What failed, with its subject: "read disk 2000 of web-01".
	What string
	// Cause is the error below; may be nil.
	Cause error
}

// New makes an error of kind k; format says what failed.
func (k *Kind) New(cause error, format string, args ...any) *Error {
	return &Error{Kind: k, What: fmt.Sprintf(format, args...), Cause: cause}
}

// Error gives one line: what failed, why, and the cause; the hint is shown apart.
func (e *Error) Error() string {
	s := e.Kind.Title
	if e.What != "" {
		s = e.What + ": " + s
	}
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is matches any other error of the same kind.
func (e *Error) Is(target error) bool {
	other, ok := target.(*Error)
	return ok && other.Kind == e.Kind
}

// Of returns the kind of the outermost problem in err's chain, or nil.
func Of(err error) *Kind {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Kind
	}
	return nil
}

// Has reports whether a problem of kind k is anywhere in err's tree.
func Has(err error, k *Kind) bool { return errors.Is(err, &Error{Kind: k}) }

// Describe gives the whole story for a person: the error's line and, where
// there is one, the hint and the code.
func Describe(err error) string {
	if err == nil {
		return ""
	}
	k := Of(err)
	if k == nil {
		return err.Error()
	}
	return fmt.Sprintf("%s. %s. [%s]", err, strings.TrimSuffix(k.Hint, "."), k.Code)
}
