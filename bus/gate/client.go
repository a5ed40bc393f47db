package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

// fetchTimeout bounds one request to the fence.
const fetchTimeout = 2 * time.Second

// Client keeps a Table current from the node's fence.
type Client struct {
	table *Table
	nc    *nats.Conn
	id    string
	name  string
	log   *slog.Logger

	mu     sync.Mutex // held while the table is brought forward; the lease is read under it
	subs   []*nats.Subscription
	again  chan struct{}
	cancel context.CancelFunc
	done   chan struct{}
}

// ClientOptions say who joins.
type ClientOptions struct {
	// Conn is the process's connection in KERNEL.
	Conn *nats.Conn
	// ID is the public key that Conn authenticated with.
	ID string
	// Name is what the gate is, for logs: a component or runner/<namespace>.
	Name string
	Log  *slog.Logger
}

// Join registers this process as a gate, loads the whole table and returns once it is
// current and leased. The fence then waits for this gate at each revocation. Call Rejoin
// after the connection was lost and found again; Close leaves.
func Join(ctx context.Context, t *Table, o ClientOptions) (*Client, error) {
	c := &Client{table: t, nc: o.Conn, id: o.ID, name: o.Name, log: o.Log, again: make(chan struct{}, 1), done: make(chan struct{})}
	push, err := o.Conn.Subscribe(subject.GatePush(o.ID), c.onPush)
	if err != nil {
		return nil, err
	}
	lease, err := o.Conn.Subscribe(subject.GateLease, c.onLease)
	if err != nil {
		return nil, errors.Join(err, push.Unsubscribe())
	}
	c.subs = []*nats.Subscription{push, lease}
	if err := c.join(ctx); err != nil {
		return nil, errors.Join(err, push.Unsubscribe(), lease.Unsubscribe())
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	go c.rejoinLoop(run)
	return c, nil
}

// Rejoin asks for a new registration, in the background, until it succeeds.
func (c *Client) Rejoin() {
	select {
	case c.again <- struct{}{}:
	default:
	}
}

// Close stops following the fence. The table stays as it is and its lease runs out.
func (c *Client) Close() {
	for _, s := range c.subs {
		_ = s.Unsubscribe() // the connection may be gone already
	}
	c.cancel()
	<-c.done
}

func (c *Client) rejoinLoop(ctx context.Context) {
	defer close(c.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.again:
		}
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			err := c.join(ctx)
			if err == nil {
				break
			}
			c.log.Warn("the fence does not let this gate join again yet", "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		}
	}
}

func (c *Client) join(ctx context.Context) error {
	var r kernelv1.FenceJoinResponse
	if err := c.ask(ctx, subject.FenceJoin, &kernelv1.FenceJoinRequest{Name: c.name, Pid: uint32(os.Getpid())}, &r); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.SetComponents(r.GetComponents())
	c.table.Advance(r.GetLease().GetClockLeadNs())
	if r.GetSequence() < c.table.Sequence() {
		c.table.Reset() // another store than before: nothing of the old one counts
	}
	if err := c.catchUp(ctx, r.GetSequence()); err != nil {
		return err
	}
	if l := r.GetLease(); l.GetSequence() <= c.table.Sequence() {
		c.table.SetLease(l.GetDeadlineBoottimeNs())
	}
	return nil
}

// catchUp fetches events until the table has reached seq. c.mu is held.
func (c *Client) catchUp(ctx context.Context, seq uint64) error {
	for c.table.Sequence() < seq {
		var page kernelv1.FenceTableResponse
		if err := c.ask(ctx, subject.FenceTable, &kernelv1.FenceTableRequest{AfterSequence: c.table.Sequence()}, &page); err != nil {
			return err
		}
		if len(page.GetEvents()) == 0 {
			return fmt.Errorf("gate: the fence has no events after %d, though it announced %d", c.table.Sequence(), seq)
		}
		if _, err := c.table.Apply(page.GetEvents()); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) onPush(m *nats.Msg) {
	var p kernelv1.GatePush
	if err := proto.Unmarshal(m.Data, &p); err != nil {
		c.log.Error("unreadable push from the fence", "error", err)
		return // no answer: the fence cuts this gate off rather than trust it
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.GetComponents() != nil {
		c.table.SetComponents(p.GetComponents())
	}
	if _, err := c.table.Apply(p.GetEvents()); errors.Is(err, ErrGap) {
		err = c.catchUp(context.Background(), p.GetEvents()[len(p.GetEvents())-1].GetSequence())
		if err != nil {
			c.log.Error("cannot fetch missed capability events", "error", err)
			return
		}
	} else if err != nil {
		c.log.Error("cannot apply capability events", "error", err)
		return
	}
	b, err := proto.Marshal(&kernelv1.GateAck{Sequence: c.table.Sequence()})
	if err == nil {
		err = m.Respond(b)
	}
	if err != nil {
		c.log.Warn("cannot acknowledge capability events", "error", err)
	}
}

func (c *Client) onLease(m *nats.Msg) {
	var l kernelv1.GateLease
	if err := proto.Unmarshal(m.Data, &l); err != nil {
		return
	}
	c.table.Advance(l.GetClockLeadNs())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.table.Sequence() < l.GetSequence() {
		if err := c.catchUp(context.Background(), l.GetSequence()); err != nil {
			c.log.Warn("lease not renewed: capability events are missing", "error", err)
			return
		}
	}
	c.table.SetLease(l.GetDeadlineBoottimeNs())
}

func (c *Client) ask(ctx context.Context, op string, req, resp proto.Message) error {
	b, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	m, err := c.nc.RequestWithContext(ctx, subject.Fence(op, c.id), b)
	if err != nil {
		return fmt.Errorf("fence %s: %w", op, err)
	}
	if e := m.Header.Get("Nats-Service-Error"); e != "" {
		return fmt.Errorf("fence %s: %s", op, e)
	}
	return proto.Unmarshal(m.Data, resp)
}
