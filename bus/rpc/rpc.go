// Package rpc is the system call: one request on `sys.<component>.<op>.<ns>.<service>.<id>`,
// one answer; or, on `str...`, one request and a stream of answers under the reader's credit
// with an end mark. Bodies are protobuf, or JSON with `Content-Type: application/json`, and
// the answer comes in the same form. Errors are faults in the way of NATS services: headers
// Nats-Service-Error-Code and Nats-Service-Error, and a google.rpc.Status as JSON in the body.
//
// Every request passes the gate before it is decoded, is validated by the rules in the proto,
// and is always answered, by its deadline at the latest. Requests of one Server run
// concurrently, at most Options.Concurrency at a time; beyond that they are refused with
// RESOURCE_EXHAUSTED at once. A delivered request may have run although its answer was lost:
// mutations carry a request id.
package rpc

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/proto/fault"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Headers of requests and answers. Incoming Nats-* headers are never read by a server.
const (
	// HeaderTimeout is how long the caller waits, in milliseconds.
	HeaderTimeout = "Solo-Timeout"
	// HeaderTraceparent is the W3C trace context.
	HeaderTraceparent = "traceparent"
	// HeaderStream is the id of a stream, on its first request and on credits.
	HeaderStream = "Solo-Stream"
	// HeaderCredit is how many more answers the reader takes; 0 ends the stream.
	HeaderCredit = "Solo-Credit"
	// HeaderSequence counts the answers of a stream from 1.
	HeaderSequence = "Solo-Sequence"
	// HeaderEnd marks the last message of a stream, with an empty body or an error, and says how
	// many answers came before it.
	HeaderEnd = "Solo-End"
	// HeaderInstance and HeaderRevision tell which instance answered a call to a service.
	HeaderInstance = "Solo-Instance"
	HeaderRevision = "Solo-Revision"

	headerContentType = "Content-Type"
	headerErrorCode   = "Nats-Service-Error-Code"
	headerError       = "Nats-Service-Error"
	typeJSON          = "application/json"
)

// DefaultTimeout is for requests that name none; MaxTimeout bounds what they may name.
const (
	DefaultTimeout = 30 * time.Second
	MaxTimeout     = 10 * time.Minute
)

// Timeout reads how long the caller of m waits.
func Timeout(m *nats.Msg) time.Duration {
	ms, err := strconv.ParseInt(m.Header.Get(HeaderTimeout), 10, 64)
	if err != nil || ms <= 0 {
		return DefaultTimeout
	}
	return min(time.Duration(ms)*time.Millisecond, MaxTimeout)
}

// ErrorReply makes m an error answer.
func ErrorReply(m *nats.Msg, err error) {
	e := fault.From(err)
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	m.Header.Set(headerErrorCode, strconv.Itoa(int(e.Code)))
	m.Header.Set(headerError, e.Error())
	b, jerr := e.MarshalJSON()
	if jerr != nil {
		b = nil // the headers carry code and text
	}
	m.Data = b
}

// ReplyError is the fault that an answer carries, or nil.
func ReplyError(m *nats.Msg) error {
	text := m.Header.Get(headerError)
	if text == "" {
		return nil
	}
	if e, err := fault.ParseJSON(m.Data); err == nil {
		return e
	}
	code, err := strconv.Atoi(m.Header.Get(headerErrorCode))
	if err != nil || code <= 0 || code > int(codes.Unauthenticated) {
		code = int(codes.Unknown)
	}
	return fault.New(codes.Code(code), codes.Code(code).String(), "%s", text)
}

func isJSON(h nats.Header) bool { return h.Get(headerContentType) == typeJSON }

func encode(json bool, v proto.Message) ([]byte, error) {
	if json {
		return protojson.Marshal(v)
	}
	return proto.Marshal(v)
}

func decode(json bool, b []byte, v proto.Message) error {
	if json {
		if len(b) == 0 {
			return nil
		}
		return protojson.Unmarshal(b, v)
	}
	return proto.Unmarshal(b, v)
}

// unknownField reads the name of the field out of protojson's error about one that the message
// does not have.
func unknownField(err error) (string, bool) {
	_, rest, ok := strings.Cut(err.Error(), `unknown field "`)
	if !ok {
		return "", false
	}
	name, _, ok := strings.Cut(rest, `"`)
	return name, ok
}
