package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"time"
)

const (
	maxReplies = 64       // to one option
	maxReply   = 16 << 10 // bytes of one
)

// agreed is what the handshake found out.
type agreed struct {
	size       int64
	flags      uint16
	minBlock   int64 // reads begin and end at multiples of it
	maxPayload int64 // bytes that one read may ask for
	structured bool
	allocation *uint32 // the ID of base:allocation, nil without it
}

// haggling is a handshake under way.
type haggling struct {
	conn net.Conn // TLS as soon as that was agreed
	idle time.Duration
	c    Config
	agreed
}

// handshake leads to the transmission phase. The connection that it returns is
// conn, or TLS above it.
func handshake(ctx context.Context, conn net.Conn, c Config) (agreed, net.Conn, error) {
	h := &haggling{conn: conn, idle: c.Idle, c: c, agreed: agreed{minBlock: 1, maxPayload: usualPayload}}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err := h.haggle(ctx)
	if !stop() {
		return agreed{}, nil, context.Cause(ctx)
	}
	if refused := (*Refusal)(nil); errors.As(err, &refused) {
		// The protocol asks for a farewell; who refuses need not answer it.
		_ = h.conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = h.conn.Write(appendOption(nil, optAbort, nil))
	}
	return h.agreed, h.conn, err
}

func (h *haggling) haggle(ctx context.Context) error {
	flags, err := h.greet()
	if err != nil {
		return err
	}
	if flags&flagFixedNewstyle == 0 {
		if h.c.TLS != nil {
			return fmt.Errorf("%w: its handshake has no options", ErrNoTLS)
		}
		return h.exportName(flags)
	}
	if h.c.TLS != nil {
		if err := h.startTLS(ctx); err != nil {
			return err
		}
	}
	if h.structured, err = h.granted(h.option(optStructuredReply, nil, nil)); err != nil {
		if refused := (*Refusal)(nil); h.c.TLS != nil && !errors.As(err, &refused) {
			// A server that dislikes the client's certificate tells it behind
			// the handshake, by an alert at best.
			err = fmt.Errorf("no answer behind the TLS handshake, as from servers that want another certificate of the client: %w", err)
		}
		return err
	}
	if h.structured {
		if err := h.askForAllocation(); err != nil {
			return err
		}
	}
	err = h.goFor()
	if refused := (*Refusal)(nil); errors.As(err, &refused) && refused.Code == 1 {
		return h.exportName(flags)
	}
	return err
}

// greet exchanges the flags that begin every handshake.
func (h *haggling) greet() (uint16, error) {
	var hello [18]byte
	if err := h.read(hello[:16]); err != nil {
		return 0, fmt.Errorf("wait for the NBD server's greeting: %w", err)
	}
	first, second := binary.BigEndian.Uint64(hello[:]), binary.BigEndian.Uint64(hello[8:])
	switch {
	case first != magicServer:
		return 0, malformed("its greeting is another protocol's")
	case second == magicOldstyle:
		return 0, malformed("it speaks the outdated oldstyle handshake")
	case second != magicOption:
		return 0, malformed("its greeting is %#x", second)
	}
	if err := h.read(hello[16:]); err != nil {
		return 0, fmt.Errorf("wait for the NBD server's greeting: %w", err)
	}
	flags := binary.BigEndian.Uint16(hello[16:])
	return flags, h.write(binary.BigEndian.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes))))
}

// startTLS changes over to TLS. Nothing may have been read ahead by then: it
// would be plain text taken for the server's word.
func (h *haggling) startTLS(ctx context.Context) error {
	err := h.option(optStartTLS, nil, nil)
	if refused := (*Refusal)(nil); errors.As(err, &refused) {
		return fmt.Errorf("%w: %w", ErrNoTLS, err)
	}
	if err != nil {
		return fmt.Errorf("ask the NBD server for TLS: %w", err)
	}
	config := h.c.TLS.Clone()
	if config.ServerName == "" {
		if config.ServerName, _, err = net.SplitHostPort(h.c.Address); err != nil {
			return fmt.Errorf("address of the NBD server: %w", err)
		}
	}
	secured := tls.Client(h.conn, config)
	if err := h.conn.SetDeadline(time.Now().Add(h.idle)); err != nil {
		return err
	}
	if err := secured.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("agree on TLS with the NBD server: %w", h.named(err))
	}
	h.conn = secured
	return nil
}

// askForAllocation selects base:allocation where the server has it.
func (h *haggling) askForAllocation() error {
	data := appendString(nil, h.c.Export)
	data = binary.BigEndian.AppendUint32(data, 1)
	data = appendString(data, allocationName)
	_, err := h.granted(h.option(optSetMetaContext, data, func(kind uint32, p []byte) error {
		if kind != replyMetaContext || len(p) < 4 {
			return malformed("reply %d of %d bytes to the wish for block status", kind, len(p))
		}
		if string(p[4:]) == allocationName {
			id := binary.BigEndian.Uint32(p)
			h.allocation = &id
		}
		return nil
	}))
	return err
}

// granted makes of an option's error whether the server has it. Who wants TLS
// or shuts down refuses everything else as well.
func (h *haggling) granted(err error) (bool, error) {
	refused := (*Refusal)(nil)
	if errors.As(err, &refused) && refused.Code != 5 && refused.Code != 7 {
		return false, nil
	}
	return err == nil, err
}

// goFor asks for the export and its block sizes, and ends the handshake.
func (h *haggling) goFor() error {
	data := appendString(nil, h.c.Export)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	found := false
	err := h.option(optGo, data, func(kind uint32, p []byte) error {
		if kind != replyInfo || len(p) < 2 {
			return malformed("reply %d of %d bytes to the wish for the export", kind, len(p))
		}
		switch info := binary.BigEndian.Uint16(p); info {
		case infoExport:
			if len(p) != 12 {
				return malformed("%d bytes tell of the export", len(p))
			}
			found = true
			return h.describe(p[2:])
		case infoBlockSize:
			if len(p) != 14 {
				return malformed("%d bytes tell of block sizes", len(p))
			}
			return h.sizes(binary.BigEndian.Uint32(p[2:]), binary.BigEndian.Uint32(p[10:]))
		}
		return nil // what was not asked for may be told
	})
	if err == nil && !found {
		return malformed("it grants the export without telling its size")
	}
	return err
}

// exportName ends the handshake with servers that do not know a better way.
// They refuse by hanging up.
func (h *haggling) exportName(flags uint16) error {
	if err := h.write(appendOption(nil, optExportName, []byte(h.c.Export))); err != nil {
		return err
	}
	reply := make([]byte, 10, 134)
	if flags&flagNoZeroes == 0 {
		reply = reply[:134]
	}
	err := h.read(reply)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("ask for the export: the NBD server hung up, as servers do that have no such export: %w", err)
	}
	if err != nil {
		return fmt.Errorf("ask for the export: %w", err)
	}
	return h.describe(reply)
}

// describe takes an export's size and flags.
func (h *haggling) describe(p []byte) error {
	size := binary.BigEndian.Uint64(p)
	if size > math.MaxInt64 {
		return malformed("the export has %d bytes", size)
	}
	h.size, h.flags = int64(size), binary.BigEndian.Uint16(p[8:])
	return nil
}

// sizes takes the block sizes that an export insists on.
func (h *haggling) sizes(low, high uint32) error {
	if low == 0 || low&(low-1) != 0 || low > 1<<16 || high < low {
		return malformed("the export's smallest block has %d bytes, the largest %d", low, high)
	}
	h.minBlock = int64(low)
	h.maxPayload = min(int64(high), usualPayload) / h.minBlock * h.minBlock
	return nil
}

// option sends an option and hands what the server replies to each, which may
// be nil where nothing but yes or no is expected. No is a *Refusal.
func (h *haggling) option(option uint32, data []byte, each func(kind uint32, p []byte) error) error {
	if err := h.write(appendOption(nil, option, data)); err != nil {
		return err
	}
	for range maxReplies {
		kind, p, err := h.reply(option)
		switch {
		case err != nil:
			return err
		case kind == replyAck:
			return nil
		case kind&replyError != 0:
			return &Refusal{Option: option, Code: kind &^ replyError, Message: printable(p)}
		case each == nil:
			return malformed("reply %d to option %d", kind, option)
		}
		if err := each(kind, p); err != nil {
			return err
		}
	}
	return malformed("more than %d replies to option %d", maxReplies, option)
}

func (h *haggling) reply(option uint32) (kind uint32, p []byte, err error) {
	var header [20]byte
	if err := h.read(header[:]); err != nil {
		return 0, nil, fmt.Errorf("wait for the NBD server's reply: %w", err)
	}
	kind, length := binary.BigEndian.Uint32(header[12:]), binary.BigEndian.Uint32(header[16:])
	switch {
	case binary.BigEndian.Uint64(header[:]) != magicReply:
		return 0, nil, malformed("its reply begins with %#x", header[:8])
	case binary.BigEndian.Uint32(header[8:]) != option:
		return 0, nil, malformed("it replies to option %d, not %d", binary.BigEndian.Uint32(header[8:]), option)
	case length > maxReply:
		return 0, nil, malformed("its reply to option %d has %d bytes", option, length)
	}
	p = make([]byte, length)
	return kind, p, h.read(p)
}

func (h *haggling) read(p []byte) error {
	if err := h.conn.SetDeadline(time.Now().Add(h.idle)); err != nil {
		return err
	}
	_, err := io.ReadFull(h.conn, p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return h.named(err)
}

func (h *haggling) write(p []byte) error {
	if err := h.conn.SetDeadline(time.Now().Add(h.idle)); err != nil {
		return err
	}
	if _, err := h.conn.Write(p); err != nil {
		return fmt.Errorf("talk to the NBD server: %w", h.named(err))
	}
	return nil
}

// named calls a time-out by its name.
func (h *haggling) named(err error) error {
	if isTimeout(err) {
		return fmt.Errorf("%w (%s)", ErrIdle, h.idle)
	}
	return err
}

func appendString(p []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(p, uint32(len(s))), s...)
}
