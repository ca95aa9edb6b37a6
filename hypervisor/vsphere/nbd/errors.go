package nbd

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

var (
	// ErrProtocol is in errors about servers that break the protocol or speak
	// another one. The connection is over.
	ErrProtocol = errors.New("the server does not keep to the NBD protocol")
	// ErrNoTLS says that the server offers no TLS, which the client insists on.
	ErrNoTLS = errors.New("the NBD server offers no TLS")
	// ErrNotOffered says that the server does not tell what is allocated.
	ErrNotOffered = errors.New("the NBD server does not offer block status")
	// ErrIdle says that no byte came for Config.Idle while some were awaited.
	ErrIdle = errors.New("no byte came from the NBD server for too long")
	// ErrClosed is what calls get after Close, and those that it interrupted.
	ErrClosed = errors.New("the NBD connection is closed")
)

// Code is an error number of the protocol; they are those of Linux.
type Code uint32

// The numbers that the protocol names.
const (
	NotPermitted Code = 1   // EPERM
	IO           Code = 5   // EIO
	NoMemory     Code = 12  // ENOMEM
	Invalid      Code = 22  // EINVAL
	NoSpace      Code = 28  // ENOSPC
	Overflow     Code = 75  // EOVERFLOW
	NotSupported Code = 95  // ENOTSUP
	ShuttingDown Code = 108 // ESHUTDOWN
)

func (c Code) String() string {
	switch c {
	case NotPermitted:
		return "not permitted"
	case IO:
		return "input/output error"
	case NoMemory:
		return "out of memory"
	case Invalid:
		return "invalid request"
	case NoSpace:
		return "no space left"
	case Overflow:
		return "value too large"
	case NotSupported:
		return "not supported"
	case ShuttingDown:
		return "the server is shutting down"
	}
	return fmt.Sprintf("error %d", uint32(c))
}

// Error is a server's answer that a request failed. The connection goes on,
// unless the server is shutting down.
type Error struct {
	Code Code
	// Message is the server's own, may be empty, and is safe to show.
	Message string
}

func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the NBD server answers: %s", e.Code)
	}
	return fmt.Sprintf("the NBD server answers: %s: %s", e.Code, e.Message)
}

// Refusal is a server's answer to an option of the handshake: it has no such
// export, or policy forbids it, say.
type Refusal struct {
	Option  uint32 // as in the protocol's document: 7 is NBD_OPT_GO
	Code    uint32 // likewise, without the bit that all errors have
	Message string // the server's own, may be empty, and is safe to show
}

func (e *Refusal) Error() string {
	reason := fmt.Sprintf("error %d", e.Code)
	switch e.Code {
	case 1:
		reason = "not supported"
	case 2:
		reason = "forbidden by the server's policy"
	case 3:
		reason = "invalid"
	case 4:
		reason = "not supported on its platform"
	case 5:
		reason = "TLS is required"
	case 6:
		reason = "no such export"
	case 7:
		reason = "the server is shutting down"
	case 8:
		reason = "the server's block sizes must be kept to"
	case 9:
		reason = "too big"
	}
	if e.Message != "" {
		reason += ": " + e.Message
	}
	return fmt.Sprintf("the NBD server refuses %s: %s", optionName(e.Option), reason)
}

func optionName(option uint32) string {
	switch option {
	case optStartTLS:
		return "TLS"
	case optGo:
		return "the export"
	case optStructuredReply:
		return "structured replies"
	case optSetMetaContext:
		return "block status"
	}
	return fmt.Sprintf("option %d", option)
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// printable makes a foreign message fit for logs and terminals.
func printable(p []byte) string {
	if len(p) > maxString {
		p = p[:maxString]
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\ufffd'
		}
		return r
	}, strings.TrimSpace(strings.ToValidUTF8(string(p), "\ufffd")))
}
