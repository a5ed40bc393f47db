package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

const (
	// maxCrashes bounds the records that wait to be stored; the oldest go first.
	maxCrashes = 256
	// keptCrashes is how many records of a service are kept, keptSpace of a namespace.
	keptCrashes = 20
	keptSpace   = 60
	// evictTries is how many records at most make way for one when the bucket is full.
	evictTries = 8
	// markKept is how long the mark of a removed record stays.
	markKept       = time.Minute
	defaultCrashes = 20
	crashTimeout   = 5 * time.Second
)

// crashes keeps the records of abnormal ends in bucket `crashes`, key <ns>.<service>.<time>-<sha>-<bytes>.
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
	id, b, err := encodeCrash(x)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, crashTimeout)
	defer cancel()
	// Room is made first, so that there is never more than is kept.
	if err := c.prune(ctx, s.Namespace+"."+s.Name+".*", keptCrashes-1); err != nil {
		return err
	}
	if err := c.prune(ctx, s.Namespace+".*.*", keptSpace-1); err != nil {
		return err
	}
	key := fmt.Sprintf("%s.%s.%020d-%s-%d", s.Namespace, s.Name, x.GetTime().AsTime().UnixNano(), id, len(b))
	for range evictTries {
		if room, err := c.room(ctx); err != nil || room {
			break // a status that cannot be read is no reason not to try
		}
		if err := c.evict(ctx); err != nil {
			return err
		}
	}
	_, err = c.kv.Put(ctx, key, b)
	return err
}

// room tells whether the bucket has room for another record, and for the mark of one that is removed:
// a full bucket takes no marks either.
func (c *crashes) room(ctx context.Context) (bool, error) {
	st, err := c.kv.Status(ctx)
	if err != nil {
		return false, err
	}
	most := st.Config().MaxBytes
	return most <= 0 || st.Bytes()+2*maxCrash < uint64(most), nil
}

// evict removes the oldest record of the namespace whose records take the most: no one fills the bucket
// for the others.
func (c *crashes) evict(ctx context.Context) error {
	keys, err := c.keys(ctx, ">")
	if err != nil {
		return err
	}
	bytes, oldest, most := map[string]int{}, map[string]string{}, ""
	for _, k := range keys {
		ns, _, _ := strings.Cut(k, ".")
		oldest[ns] = k
		if bytes[ns] += size(k); bytes[ns] > bytes[most] {
			most = ns
		}
	}
	if most == "" {
		return errors.New("the bucket of crash records is full of something else")
	}
	return c.drop(ctx, []string{oldest[most]})
}

// prune removes the oldest of the records that match beyond n.
func (c *crashes) prune(ctx context.Context, match string, n int) error {
	keys, err := c.keys(ctx, match)
	if err != nil || len(keys) <= n {
		return err
	}
	return c.drop(ctx, keys[n:])
}

// forget removes all records of a service.
func (c *crashes) forget(ctx context.Context, s subject.Service) error {
	c.mu.Lock()
	c.list = slices.DeleteFunc(c.list, func(x *solov1.Crash) bool { return x.GetService() == s.String() })
	c.mu.Unlock()
	return c.prune(ctx, s.Namespace+"."+s.Name+".*", 0)
}

// drop removes records; the marks that this leaves go by themselves.
func (c *crashes) drop(ctx context.Context, keys []string) (err error) {
	for _, k := range keys {
		err = errors.Join(err, c.kv.Purge(ctx, k, jetstream.PurgeTTL(markKept)))
	}
	return err
}

// keys are those that match, newest first.
func (c *crashes) keys(ctx context.Context, match string) ([]string, error) {
	l, err := c.kv.ListKeysFiltered(ctx, match)
	if err != nil {
		return nil, err
	}
	var keys []string
	for k := range l.Keys() {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return strings.Compare(moment(b), moment(a)) })
	return keys, nil
}

// moment is the part of a key that rises with time.
func moment(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// size is the record's size, from its key; the most that it can be where the key does not tell.
func size(key string) int {
	n, err := strconv.Atoi(key[strings.LastIndexByte(key, '-')+1:])
	if err != nil || n <= 0 {
		return maxCrash
	}
	return n
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
	keys, err := c.crashes.keys(ctx, s.Namespace+"."+s.Name+".*")
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
