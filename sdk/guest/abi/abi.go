// Package abi names everything host and guest of ABI solo1 must agree on: kinds and statuses of the
// fixed imports and exports, the op strings a guest asks for through solo.call, and the encoding of
// their payloads. It promises to depend on nothing, to decode any bytes without panicking, and that
// what it encodes it decodes to the same fields.
//
// The fixed part, which never changes:
//
//	export _initialize()
//	export solo_handle(kind, oplen, payloadlen u32) -> u32   0 ok, 1 error
//	import solo.input(which u32, dst ptr)                     copies the op, the payload or the last result
//	import solo.output(status u32, ptr, len)                  sets the reply
//	import solo.call(op ptr, len, payload ptr, len) -> u32    ResultError in the top bit, length below
//	import solo.log(level u32, ptr, len)
//	import solo.now() -> i64                                  wall clock, Unix nanoseconds
//
// Everything else is an op string through solo.call, with payload and reply as Fields.
package abi

// Module is the import module of every host function of this ABI.
const Module = "solo"

// HandleExport is the function the host calls for every message.
const HandleExport = "solo_handle"

// InitExport is the function the host calls once, before anything else.
const InitExport = "_initialize"

// Kinds of solo_handle.
const (
	KindCall    uint32 = 0 // a call: op is the operation's name
	KindLoad    uint32 = 1 // source for a guest that interprets a language
	KindSave    uint32 = 2 // hand out what the next revision needs; no op
	KindRestore uint32 = 3 // take over what the previous revision saved; op is its version in decimal
)

// Which buffer solo.input copies.
const (
	InputOp      uint32 = 0
	InputPayload uint32 = 1
	InputResult  uint32 = 2
)

// Statuses of solo.output.
const (
	StatusOK        uint32 = 0 // the buffer is the reply
	StatusError     uint32 = 1 // the buffer is the error's text
	StatusUnknownOp uint32 = 2 // the buffer is the list of known operations, as Fields
)

// ResultError is set in the result of solo.call when the result is an encoded Error.
const ResultError uint32 = 1 << 31

// Levels of solo.log.
const (
	LevelDebug uint32 = 0
	LevelInfo  uint32 = 1
	LevelWarn  uint32 = 2
	LevelError uint32 = 3
)

// Ops of solo.call. Payload -> reply, both as Fields; `?` marks a field that may be absent.
const (
	// OpStateGet: key -> value?
	OpStateGet = "state.get"
	// OpStatePut: key, value -> nothing.
	OpStatePut = "state.put"
	// OpStateDelete: key -> "1" when it was there, else "0".
	OpStateDelete = "state.delete"
	// OpStateList: prefix, after -> up to ListPage keys above after, ascending.
	OpStateList = "state.list"
	// OpStateCAS: key, old?, new? -> "1" when swapped, else "0". An absent old means the key must be
	// absent, an absent new deletes it.
	OpStateCAS = "state.cas"
	// OpStateBatch: key, value?, key, value?, ... -> nothing; all or none, an absent value deletes.
	OpStateBatch = "state.batch"
	// OpBusCall: `namespace/name`, operation, payload -> payload.
	OpBusCall = "bus.call"
	// OpCaller: nothing -> the id of the capability behind the call being answered.
	OpCaller = "call.caller"
)

// ListPage is how many keys one OpStateList answers at most; fewer means the end.
const ListPage = 1000

// Bounds the host holds guests to.
const (
	MaxOp      = 255     // bytes of an op string
	MaxPayload = 1 << 20 // bytes of a call's payload and of its reply
	MaxKey     = 512     // bytes of a state key, at least 1
	MaxLog     = 16384   // bytes of one log line; what is longer is cut
)

// True and False are the replies of ops that answer yes or no.
const (
	True  = "1"
	False = "0"
)
