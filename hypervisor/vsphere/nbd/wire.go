package nbd

import "encoding/binary"

// Magic numbers.
const (
	magicServer     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption     = 0x49484156454f5054 // "IHAVEOPT"
	magicOldstyle   = 0x00420281861253
	magicReply      = 0x0003e889045565a9 // to an option
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef
)

// Flags of the handshake: the server's and, with the same bits, the client's.
const (
	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1
)

// Flags of an export.
const (
	flagReadOnly  = 1 << 1
	flagMultiConn = 1 << 8
)

// Options, and what servers reply to them.
const (
	optExportName      = 1
	optAbort           = 2
	optStartTLS        = 5
	optGo              = 7
	optStructuredReply = 8
	optSetMetaContext  = 10

	replyAck         = 1
	replyInfo        = 3
	replyMetaContext = 4
	replyError       = 1 << 31 // set in all errors

	infoExport    = 0
	infoBlockSize = 3
)

// Requests and the chunks of structured replies to them.
const (
	cmdRead        = 0
	cmdDisconnect  = 2
	cmdBlockStatus = 7

	chunkDone = 1 << 0 // the flag of a reply's last chunk

	chunkNone        = 0
	chunkData        = 1
	chunkHole        = 2
	chunkBlockStatus = 5
	chunkErrorBit    = 1 << 15 // set in all kinds of errors
	chunkErrorOffset = chunkErrorBit + 2

	stateZero = 1 << 1 // of a block: it reads as zeros
)

const (
	requestSize    = 28
	simpleHeader   = 16
	chunkHeader    = 20
	maxString      = 4096     // the protocol's limit for names and messages
	usualPayload   = 32 << 20 // what every server takes unless it says otherwise
	maxErrorChunk  = 6 + 1<<16 + 8
	allocationName = "base:allocation"
)

// appendRequest writes a request without data.
func appendRequest(p []byte, command uint16, cookie uint64, off int64, length uint32) []byte {
	p = binary.BigEndian.AppendUint32(p, magicRequest)
	p = binary.BigEndian.AppendUint16(p, 0)
	p = binary.BigEndian.AppendUint16(p, command)
	p = binary.BigEndian.AppendUint64(p, cookie)
	p = binary.BigEndian.AppendUint64(p, uint64(off))
	return binary.BigEndian.AppendUint32(p, length)
}

// appendOption writes an option of the handshake.
func appendOption(p []byte, option uint32, data []byte) []byte {
	p = binary.BigEndian.AppendUint64(p, magicOption)
	p = binary.BigEndian.AppendUint32(p, option)
	p = binary.BigEndian.AppendUint32(p, uint32(len(data)))
	return append(p, data...)
}
