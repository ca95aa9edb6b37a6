package staging

import (
	"errors"
	"fmt"
)

// FormatError says that an object is not what this package would have
// written. Nothing of it may be used.
type FormatError struct {
	// Object is the kind of object: "plan", "segment", "map", "manifest".
	Object string
	// Err is one of the sentinels below, usually with detail.
	Err error
}

func (e *FormatError) Error() string { return fmt.Sprintf("staging: bad %s: %v", e.Object, e.Err) }

// Unwrap returns the sentinel with its detail.
func (e *FormatError) Unwrap() error { return e.Err }

// What can be wrong with an object.
var (
	ErrTruncated = errors.New("it ends too early")
	ErrTrailing  = errors.New("bytes follow its end")
	ErrVersion   = errors.New("its version is not known here")
	ErrChecksum  = errors.New("its checksum does not match")
	ErrRange     = errors.New("a number is out of range")
	ErrOrder     = errors.New("its entries overlap or are out of order")
	ErrMalformed = errors.New("it is malformed")
	ErrMismatch  = errors.New("it belongs to something else")
)

// bad wraps a sentinel with detail into a FormatError.
func bad(object string, sentinel error, format string, args ...any) error {
	return &FormatError{object, fmt.Errorf("%w: %s", sentinel, fmt.Sprintf(format, args...))}
}
