// Package stream names every JetStream stream and bucket of Solo and how it is kept, in one
// place. Only the kernel's bootstrap identity makes or changes them, through Ensure.
package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/proto/subject"
)

// Streams and buckets.
const (
	// Caps holds the capability events, chained, appended by capmgr alone.
	Caps = "CAPS"
	// Audit holds the audit trail.
	Audit = "AUDIT"
	// Events holds lifecycle events; bounded, oldest dropped.
	Events = "EVENTS"
	// Logs holds what instances write; bounded, oldest dropped, persisted behind.
	Logs = "LOGS"
	// Registry is the bucket of registrations.
	Registry = "registry"
	// Nodes is the bucket of node heartbeats; entries end by themselves.
	Nodes = "nodes"
	// State is the bucket of service state.
	State = "state"
	// Requests is the bucket of answered request ids.
	Requests = "requests"
	// Crashes is the bucket of crash records.
	Crashes = "crashes"
	// Artifacts is the object store of code, by SHA-256.
	Artifacts = "artifacts"
)

// RequestsKept is how long an answered request id is remembered.
const RequestsKept = 24 * time.Hour

// Sizes of what is bounded, in bytes.
const (
	eventsBytes  = 256 << 20
	logsBytes    = 512 << 20
	crashesBytes = 64 << 20
)

// KVStream is the stream behind a bucket.
func KVStream(bucket string) string { return "KV_" + bucket }

// ObjStream is the stream behind an object store.
func ObjStream(bucket string) string { return "OBJ_" + bucket }

func configs() []jetstream.StreamConfig {
	return []jetstream.StreamConfig{
		{
			Name: Caps, Subjects: []string{subject.Caps}, Storage: jetstream.FileStorage,
			DenyDelete: true, DenyPurge: true, AllowRollup: false, MaxMsgSize: 256 << 10,
			Description: "capability events, chained and signed",
		},
		{
			Name: Audit, Subjects: []string{subject.AuditAll}, Storage: jetstream.FileStorage,
			DenyDelete: true, DenyPurge: true, AllowRollup: false, MaxMsgSize: 256 << 10, Duplicates: 2 * time.Minute,
			Description: "audit trail",
		},
		{
			Name: Events, Subjects: []string{subject.EventAll}, Storage: jetstream.FileStorage,
			MaxBytes: eventsBytes, MaxAge: 7 * 24 * time.Hour, Discard: jetstream.DiscardOld, PersistMode: jetstream.AsyncPersistMode,
			Description: "lifecycle events",
		},
		{
			Name: Logs, Subjects: []string{subject.LogAll}, Storage: jetstream.FileStorage,
			MaxBytes: logsBytes, MaxAge: 7 * 24 * time.Hour, MaxMsgsPerSubject: 10_000, Discard: jetstream.DiscardOld,
			PersistMode: jetstream.AsyncPersistMode, AllowDirect: true,
			Description: "what instances write",
		},
	}
}

// bucket is how one KV bucket is kept.
type bucket struct {
	name         string
	ttl          time.Duration
	bytes        int64 // of the whole; 0 is unbounded
	maxValueSize int32 // 0 is what the bus carries
	// marks lets the marks of what was deleted end by themselves, for keys that never come back.
	marks bool
	// direct lets any replica answer reads. It is off where a reader acts on what it reads: a
	// replica that was away answers with the past.
	direct bool
}

func buckets() []bucket {
	return []bucket{
		{name: Registry, maxValueSize: 1 << 20},
		{name: Nodes, ttl: 10 * time.Second},
		{name: State, maxValueSize: 1 << 20, direct: true},
		{name: Requests, ttl: RequestsKept, maxValueSize: 1 << 20, direct: true},
		{name: Crashes, bytes: crashesBytes, maxValueSize: 256 << 10, marks: true, direct: true},
	}
}

// config is the stream behind the bucket, as every KV client expects it: one value a key.
func (b bucket) config() jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name: KVStream(b.name), Subjects: []string{"$KV." + b.name + ".>"}, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxConsumers: -1, MaxBytes: -1, MaxMsgSize: -1, MaxAge: b.ttl, Duplicates: 2 * time.Minute,
		Discard: jetstream.DiscardNew, AllowRollup: true, DenyDelete: true, AllowDirect: b.direct, AllowMsgTTL: b.marks, Replicas: 1,
	}
	if b.bytes != 0 {
		c.MaxBytes = b.bytes
	}
	if b.maxValueSize != 0 {
		c.MaxMsgSize = b.maxValueSize
	}
	if b.ttl != 0 {
		c.Duplicates = min(c.Duplicates, b.ttl)
	}
	return c
}

// Ensure makes what is missing and brings what exists to its configuration. It is idempotent.
func Ensure(ctx context.Context, js jetstream.JetStream) error {
	all := configs()
	for _, b := range buckets() {
		all = append(all, b.config())
	}
	for _, c := range all {
		if _, err := js.CreateOrUpdateStream(ctx, c); err != nil {
			return fmt.Errorf("stream %s: %w", c.Name, err)
		}
	}
	if _, err := js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: Artifacts, Storage: jetstream.FileStorage}); err != nil {
		return fmt.Errorf("object store %s: %w", Artifacts, err)
	}
	return nil
}

// RetryInFlight calls f again while JetStream answers that an earlier write to the same
// subject is still on its way (error 10164), which a client otherwise takes for a lost race.
// It gives up when ctx ends.
func RetryInFlight[T any](ctx context.Context, f func() (T, error)) (T, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		v, err := f()
		if err == nil || !inFlight(err) {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, err
		case <-time.After(wait):
		}
	}
}

func inFlight(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.ErrorCode == 10164
	}
	return strings.Contains(err.Error(), "10164")
}

// Lost tells whether a compare-and-set lost: someone else wrote first, or the key exists.
func Lost(err error) bool {
	if err == nil || inFlight(err) {
		return false
	}
	api, ok := errors.AsType[*jetstream.APIError](err)
	return errors.Is(err, jetstream.ErrKeyExists) || ok && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}
