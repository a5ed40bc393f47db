// Package backend is what a place that audit records are copied to must do: take them in
// order, durably, and know how far it has come.
package backend

import (
	"context"
	"time"
)

// Record is one record of stream AUDIT.
type Record struct {
	// Sequence in the stream, counted from 1.
	Sequence uint64
	Subject  string
	// Stored is when the stream took it.
	Stored time.Time
	// Data is the record's canonical JSON, as it was stored.
	Data []byte
}

// Backend is used by one goroutine.
type Backend interface {
	// Cursor is the sequence of the last record that is durable; 0 before the first.
	Cursor() uint64
	// Append makes records durable, in their order, and returns when they are. Those at or below
	// the cursor are passed over. After an error some of them may be durable, as Cursor tells,
	// and the same call may be made again.
	Append(ctx context.Context, records []Record) error
	// Close releases what the backend holds; it loses nothing.
	Close() error
}
