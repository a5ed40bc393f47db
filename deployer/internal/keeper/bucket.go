package keeper

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/subject"
)

// bucketTimeout bounds one operation on the bucket.
const bucketTimeout = 5 * time.Second

var errNoBus = errors.New("the bus cannot be reached")

// KV is the bucket `state` of JetStream, over whatever connection there is at the moment.
type KV struct {
	// Conn returns the present connection, or nil.
	Conn func() *nats.Conn
}

var encoding = base32.HexEncoding.WithPadding(base32.NoPadding)

// bucketKey is <namespace>.<service>.<base32hex of key>.
func bucketKey(s subject.Service, key string) string {
	return s.Namespace + "." + s.Name + "." + encoding.EncodeToString([]byte(key))
}

func (b KV) open(ctx context.Context) (jetstream.KeyValue, error) {
	nc := b.Conn()
	if nc == nil || !nc.IsConnected() {
		return nil, errNoBus
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	return js.KeyValue(ctx, stream.State)
}

// Load reads all keys of a service.
func (b KV) Load(ctx context.Context, s subject.Service) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	kv, err := b.open(ctx)
	if err != nil {
		return nil, err
	}
	prefix := s.Namespace + "." + s.Name + "."
	w, err := kv.Watch(ctx, prefix+">", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Stop() }() // the consumer ends with its subscription
	out := map[string][]byte{}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e, open := <-w.Updates():
			if !open {
				return nil, errNoBus
			}
			if e == nil {
				return out, nil
			}
			key, err := encoding.DecodeString(strings.TrimPrefix(e.Key(), prefix))
			if err != nil {
				return nil, fmt.Errorf("bucket key %q: %w", e.Key(), err)
			}
			out[string(key)] = e.Value()
		}
	}
}

// Put sets a key.
func (b KV) Put(ctx context.Context, s subject.Service, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	_, err = stream.RetryInFlight(ctx, func() (uint64, error) { return kv.Put(ctx, bucketKey(s, key), value) })
	return err
}

// Delete removes a key; that it was not there is no error.
func (b KV) Delete(ctx context.Context, s subject.Service, key string) error {
	ctx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	_, err = stream.RetryInFlight(ctx, func() (struct{}, error) { return struct{}{}, kv.Delete(ctx, bucketKey(s, key)) })
	return err
}

var _ Bucket = KV{}
