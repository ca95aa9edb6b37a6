package nbd

import (
	"encoding/binary"
)

// receive takes replies until the connection is over, and ends the requests
// that are left then.
func (c *Client) receive() {
	c.fail(c.replies())
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.pending {
		c.end(r, c.err)
	}
	c.queue = nil
}

// replies returns why no more can be understood.
func (c *Client) replies() error {
	header := make([]byte, chunkHeader)
	for {
		if err := c.read(nil, header[:simpleHeader]); err != nil {
			return err
		}
		magic, cookie := binary.BigEndian.Uint32(header), binary.BigEndian.Uint64(header[8:])
		if magic != magicSimple && (magic != magicStructured || !c.structured) {
			return malformed("a reply begins with %#x", magic)
		}
		r := c.awaited(cookie)
		if r == nil {
			return malformed("it replies to request %d, which it was not sent", cookie)
		}
		if magic == magicSimple {
			if err := c.simple(r, Code(binary.BigEndian.Uint32(header[4:]))); err != nil {
				return err
			}
			continue
		}
		if err := c.read(nil, header[simpleHeader:]); err != nil {
			return err
		}
		flags, kind := binary.BigEndian.Uint16(header[4:]), binary.BigEndian.Uint16(header[6:])
		if err := c.chunk(r, kind, binary.BigEndian.Uint32(header[16:])); err != nil {
			return err
		}
		switch {
		case flags&chunkDone != 0:
			if err := c.conclude(r); err != nil {
				return err
			}
		case kind == chunkNone:
			return malformed("an empty chunk is not the last of its reply")
		}
	}
}

// awaited finds the request that a reply is for.
func (c *Client) awaited(cookie uint64) *request {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r := c.pending[cookie]; r != nil && r.sent {
		return r
	}
	return nil
}

// simple takes a reply that is one piece: to any request where structured
// replies were not agreed on, else only to those that read nothing.
func (c *Client) simple(r *request, code Code) error {
	if c.structured && (r.command == cmdRead || code == 0) {
		return malformed("a simple reply to request %d, where a structured one was agreed on", r.cookie)
	}
	if code != 0 {
		return c.refused(r, &Error{Code: code})
	}
	if err := c.read(r, r.p); err != nil {
		return err
	}
	c.finish(r, nil)
	return nil
}

// chunk takes one chunk of a structured reply.
func (c *Client) chunk(r *request, kind uint16, length uint32) error {
	if r.chunks++; r.chunks > int(r.length>>9)+1024 {
		return malformed("more than %d chunks for %d bytes", r.chunks-1, r.length)
	}
	switch {
	case kind == chunkNone && length == 0:
		return nil
	case kind == chunkData && r.command == cmdRead && length > 8:
		if err := c.read(nil, c.small[:8]); err != nil {
			return err
		}
		p, err := r.part(binary.BigEndian.Uint64(c.small[:]), length-8)
		if err != nil {
			return err
		}
		return c.read(r, p)
	case kind == chunkHole && r.command == cmdRead && length == 12:
		if err := c.read(nil, c.small[:12]); err != nil {
			return err
		}
		p, err := r.part(binary.BigEndian.Uint64(c.small[:]), binary.BigEndian.Uint32(c.small[8:]))
		if err != nil {
			return err
		}
		c.zero(r, p)
		return nil
	case kind == chunkBlockStatus && r.command == cmdBlockStatus && length%8 == 4 && length > 4 && !r.told:
		r.told = true
		return c.statusChunk(r, length)
	case kind&chunkErrorBit != 0 && length >= 6 && length <= maxErrorChunk:
		return c.errorChunk(r, kind, length)
	}
	return malformed("a chunk of kind %d and %d bytes in reply to request %d", kind, length, r.cookie)
}

// part finds the memory for n bytes at off of the export, and notes that they
// have come.
func (r *request) part(off uint64, n uint32) ([]byte, error) {
	from := off - uint64(r.off) // huge when off lies before
	if n == 0 || from >= uint64(r.length) || uint64(n) > uint64(r.length)-from {
		return nil, malformed("%d bytes at %d in reply to the request for %d bytes at %d", n, off, r.length, r.off)
	}
	if err := r.covered.add(uint32(from), uint32(from)+n); err != nil {
		return nil, err
	}
	return r.p[from : from+uint64(n)], nil
}

// errorChunk notes the first error of a reply. Chunks of unknown kinds begin
// like the known ones.
func (c *Client) errorChunk(r *request, kind uint16, length uint32) error {
	if err := c.read(nil, c.small[:6]); err != nil {
		return err
	}
	code, n := Code(binary.BigEndian.Uint32(c.small[:])), uint32(binary.BigEndian.Uint16(c.small[4:]))
	rest := length - 6
	if code == 0 || n > rest || kind == chunkErrorOffset && rest-n != 8 {
		return malformed("an error chunk of %d bytes with error %d and a message of %d", length, code, n)
	}
	text := make([]byte, min(n, maxString))
	if err := c.read(nil, text); err != nil {
		return err
	}
	for left := int(rest) - len(text); left > 0; left -= min(left, len(c.small)) {
		if err := c.read(nil, c.small[:min(left, len(c.small))]); err != nil {
			return err
		}
	}
	if r.failure == nil {
		r.failure = &Error{Code: code, Message: printable(text)}
	}
	return nil
}

// conclude ends a structured reply.
func (c *Client) conclude(r *request) error {
	switch {
	case r.failure != nil:
		return c.refused(r, r.failure)
	case r.command == cmdRead && !r.covered.whole(r.length):
		return malformed("it ends the reply to request %d before all of its %d bytes have come", r.cookie, r.length)
	case r.command == cmdBlockStatus && !r.told:
		return malformed("it ends the reply to request %d without telling the status", r.cookie)
	}
	c.finish(r, nil)
	return nil
}

// refused ends a request that failed, and the connection of a server that is
// about to end it.
func (c *Client) refused(r *request, err *Error) error {
	c.finish(r, err)
	if err.Code == ShuttingDown {
		return err
	}
	return nil
}
