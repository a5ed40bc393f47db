// Package fault is the one error that crosses Solo's wires. A fault has a canonical gRPC
// code, a stable reason, a text for the reader (often a model), the fields that are wrong,
// whether trying again can help, and what to do next. It survives gRPC (as google.rpc
// details), the bus (as a google.rpc.Status in JSON, with the NATS service error headers)
// and errors.As. The cause stays on this side, for the log.
package fault

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
)

// Domain is the ErrorInfo domain of every fault.
const Domain = "solo"

// Field is one thing wrong with the input.
type Field struct {
	// Path of the field in the request, e.g. `manifest.limits.memory_bytes`.
	Path string
	// What is wrong and what would be right.
	Description string
}

// Error is a fault. The zero value is not useful; see New.
type Error struct {
	Code   codes.Code
	Reason string
	// Message is for the client; it names the subject and the fix.
	Message string
	Fields  []Field
	// RetryAfter is how long to wait before trying the same again; 0 with Retryable means at once.
	RetryAfter time.Duration
	// Retryable tells whether the same request can succeed later.
	Retryable bool
	// Help is what to do next, as a command or a sentence.
	Help string
	// Metadata is machine-readable detail: what is missing, ids, bounds.
	Metadata map[string]string
	cause    error
}

// New makes a fault with a formatted message. Codes Unavailable, Aborted and
// ResourceExhausted are retryable unless Final says otherwise.
func New(code codes.Code, reason, format string, args ...any) *Error {
	return &Error{
		Code: code, Reason: reason, Message: fmt.Sprintf(format, args...),
		Retryable: code == codes.Unavailable || code == codes.Aborted || code == codes.ResourceExhausted,
	}
}

// Invalid is a fault about one field of the input.
func Invalid(path, format string, args ...any) *Error {
	d := fmt.Sprintf(format, args...)
	return New(codes.InvalidArgument, ReasonInvalidArgument, "%s: %s", path, d).AddField(path, "%s", d)
}

// Internal is a defect; the cause goes to the log, not to the client.
func Internal(cause error, format string, args ...any) *Error {
	return New(codes.Internal, ReasonInternal, format, args...).Because(cause)
}

// Unavailable says that a part of Solo does not answer now and the request may be repeated.
func Unavailable(after time.Duration, format string, args ...any) *Error {
	return New(codes.Unavailable, ReasonUnavailable, format, args...).Retry(after)
}

// Error is the text for the client, the reason first.
func (e *Error) Error() string { return e.Reason + ": " + e.Message }

// Unwrap is the cause, for the log.
func (e *Error) Unwrap() error { return e.cause }

// Because keeps the cause for the log.
func (e *Error) Because(cause error) *Error { e.cause = cause; return e }

// Retry says that the same request can succeed after a time.
func (e *Error) Retry(after time.Duration) *Error {
	e.Retryable, e.RetryAfter = true, after
	return e
}

// Final says that repeating cannot help.
func (e *Error) Final() *Error { e.Retryable, e.RetryAfter = false, 0; return e }

// Next says what to do.
func (e *Error) Next(format string, args ...any) *Error {
	e.Help = fmt.Sprintf(format, args...)
	return e
}

// With adds one piece of metadata.
func (e *Error) With(key, value string) *Error {
	if e.Metadata == nil {
		e.Metadata = map[string]string{}
	}
	e.Metadata[key] = value
	return e
}

// AddField names one more wrong field.
func (e *Error) AddField(path, format string, args ...any) *Error {
	e.Fields = append(e.Fields, Field{path, fmt.Sprintf(format, args...)})
	return e
}

// From returns err as a fault: itself when it is one, the fault inside a gRPC status, else an
// Internal one that hides the text. It returns nil for nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if e := fromStatusError(err); e != nil {
		return e
	}
	return Internal(err, "an unexpected error inside Solo; its log has the cause")
}

// Is tells whether err is a fault with the reason.
func Is(err error, reason string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Reason == reason
}
