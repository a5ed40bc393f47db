package control

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

const (
	// maxCrashes bounds the records that wait to be stored; the oldest go first.
	maxCrashes = 256
	// maxCrashText bounds the parts of a record, so that it fits the bucket.
	maxCrashText = 64 << 10
	// keptCrashes is how many records of a service are kept.
	keptCrashes    = 100
	defaultCrashes = 20
	crashTimeout   = 5 * time.Second
)

// crashes keeps the records of abnormal ends in bucket `crashes`, key <ns>.<service>.<time>-<sha>.
type crashes struct {
	kv   jetstream.KeyValue
	log  *slog.Logger
	wake chan struct{}

	mu   sync.Mutex
	list []*solov1.Crash // mu
}

func openCrashes(ctx context.Context, js jetstream.JetStream, log *slog.Logger) (*crashes, error) {
	kv, err := js.KeyValue(ctx, stream.Crashes)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", stream.Crashes, err)
	}
	return &crashes{kv: kv, log: log, wake: make(chan struct{}, 1)}, nil
}

// add takes a record and never waits.
func (c *crashes) add(x *solov1.Crash) {
	c.mu.Lock()
	c.list = append(c.list, x)
	if len(c.list) > maxCrashes {
		c.list = c.list[1:]
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *crashes) next() *solov1.Crash {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) == 0 {
		return nil
	}
	x := c.list[0]
	c.list = c.list[1:]
	return x
}

// run stores records until ctx ends.
func (c *crashes) run(ctx context.Context) {
	for {
		for x := c.next(); x != nil && ctx.Err() == nil; x = c.next() {
			if err := c.store(ctx, x); err != nil && ctx.Err() == nil {
				c.log.Warn("a crash record could not be stored", "service", x.GetService(), "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
	}
}

func (c *crashes) store(ctx context.Context, x *solov1.Crash) error {
	s, err := subject.ParseService(x.GetService())
	if err != nil {
		return err
	}
	x = proto.CloneOf(x)
	x.Id = ""
	x.Trace, x.Message = clip(x.GetTrace()), clip(x.GetMessage())
	total := 0
	for i := len(x.GetLogs()) - 1; i >= 0; i-- {
		if total += len(x.GetLogs()[i]); total > maxCrashText {
			x.Logs = x.GetLogs()[i+1:]
			break
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(x)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	x.Id = hex.EncodeToString(sum[:])
	if b, err = protojson.Marshal(x); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, crashTimeout)
	defer cancel()
	key := fmt.Sprintf("%s.%s.%020d-%s", s.Namespace, s.Name, x.GetTime().AsTime().UnixNano(), x.GetId())
	if _, err := c.kv.Put(ctx, key, b); err != nil {
		return err
	}
	return c.prune(ctx, s)
}

// prune removes the oldest records of a service beyond keptCrashes.
func (c *crashes) prune(ctx context.Context, s subject.Service) error {
	keys, err := c.keys(ctx, s)
	if err != nil || len(keys) <= keptCrashes {
		return err
	}
	for _, k := range keys[keptCrashes:] {
		err = errors.Join(err, c.kv.Purge(ctx, k))
	}
	return err
}

// keys are those of a service, newest first.
func (c *crashes) keys(ctx context.Context, s subject.Service) ([]string, error) {
	l, err := c.kv.ListKeysFiltered(ctx, s.Namespace+"."+s.Name+".*")
	if err != nil {
		return nil, err
	}
	var keys []string
	for k := range l.Keys() {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	slices.Reverse(keys)
	return keys, nil
}

func clip(s string) string {
	if len(s) > maxCrashText {
		return s[:maxCrashText]
	}
	return s
}

func (c *Controller) listCrashes(ctx context.Context, caller rpc.Caller, req *solov1.CrashesRequest) (*solov1.CrashesResponse, error) {
	s, err := caller.AboutOne("service", req.GetService())
	if err != nil {
		return nil, err
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultCrashes
	}
	keys, err := c.crashes.keys(ctx, s)
	if err != nil {
		return nil, fault.Unavailable(time.Second, "crash records cannot be read now").Because(err)
	}
	resp, bytes := &solov1.CrashesResponse{}, 0
	for _, k := range keys[:min(size, len(keys))] {
		v, err := c.crashes.kv.Get(ctx, k)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue // it has just been removed
		}
		if err != nil {
			return nil, fault.Unavailable(time.Second, "crash records cannot be read now").Because(err)
		}
		if bytes += len(v.Value()); bytes > 1<<20 && len(resp.Crashes) > 0 {
			break // one answer carries no more
		}
		x := &solov1.Crash{}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(v.Value(), x); err != nil {
			c.o.Log.Warn("a crash record is unreadable", "key", k, "error", err)
			continue
		}
		resp.Crashes = append(resp.Crashes, x)
	}
	return resp, nil
}
