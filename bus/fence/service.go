package fence

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

const (
	// pageBytes bounds a page of the table.
	pageBytes = 1 << 20
	// maxChanges bounds changes that wait for their turn.
	maxChanges = 64
	sweepEvery = 5 * time.Second
)

// service is the fence's side of `fence.*` and `gate.*`.
type service struct {
	f      *Fence
	sub    *nats.Subscription
	work   chan *nats.Msg
	cancel context.CancelFunc
	done   chan struct{}
}

// Serve answers components and gates on the kernel's own connection and keeps gates leased
// until Close. It is called once, before any component connects.
func (f *Fence) Serve(ctx context.Context, nc *nats.Conn) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &service{f: f, work: make(chan *nats.Msg, maxChanges), cancel: cancel, done: make(chan struct{})}
	f.nc, f.service = nc, s
	var err error
	if s.sub, err = nc.Subscribe(subject.FenceServing, s.receive); err != nil {
		cancel()
		return err
	}
	if err := nc.Flush(); err != nil {
		cancel()
		return err
	}
	ended := make(chan struct{})
	go func() { defer close(ended); s.changes(run) }()
	go func() { defer close(s.done); s.lease(run); <-ended }()
	return nil
}

// Close stops serving. Gates stop acting when their leases run out.
func (f *Fence) Close() {
	if f.service == nil {
		return
	}
	_ = f.service.sub.Unsubscribe() // the connection is closed next
	f.service.cancel()
	<-f.service.done
}

func (s *service) lease(ctx context.Context) {
	t := time.NewTicker(LeaseEvery)
	defer t.Stop()
	swept := time.Now()
	for {
		l := s.f.renew()
		if b, err := proto.Marshal(l); err == nil {
			if err := s.f.nc.Publish(subject.GateLease, b); err != nil {
				s.f.o.Log.Warn("leases cannot be sent", "error", err)
			}
		}
		if time.Since(swept) > sweepEvery {
			s.f.sweep()
			swept = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// receive answers what needs no waiting and queues the rest.
func (s *service) receive(m *nats.Msg) {
	op, id, err := subject.ParseFence(m.Subject)
	if err != nil || m.Reply == "" {
		return
	}
	switch op {
	case subject.FenceApply, subject.FenceAdmit, subject.FenceDismiss:
		select {
		case s.work <- m:
		default:
			s.answer(m, nil, fault.New(codes.ResourceExhausted, fault.ReasonUnavailable, "the fence has %d changes waiting", maxChanges).Retry(50*time.Millisecond))
		}
		return
	}
	who, ok := s.f.Identity(id)
	if !ok {
		s.answer(m, nil, fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "no component has the id %s", id))
		return
	}
	resp, err := s.quick(op, id, who, m.Data)
	s.answer(m, resp, err)
}

func (s *service) quick(op, id string, who Identity, b []byte) (proto.Message, error) {
	switch op {
	case subject.FenceJoin:
		var req kernelv1.FenceJoinRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			return nil, fault.Invalid("join", "unreadable")
		}
		return s.f.join(id, &req), nil
	case subject.FenceTable:
		var req kernelv1.FenceTableRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			return nil, fault.Invalid("table", "unreadable")
		}
		return s.f.page(req.GetAfterSequence()), nil
	case subject.FenceReady:
		var req kernelv1.ReadyRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			return nil, fault.Invalid("ready", "unreadable")
		}
		if s.f.o.Ready != nil {
			s.f.o.Ready(id, who, req.GetAddresses())
		}
		return &kernelv1.ReadyResponse{}, nil
	}
	return nil, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "the fence has no operation %q", op)
}

func (f *Fence) join(id string, req *kernelv1.FenceJoinRequest) *kernelv1.FenceJoinResponse {
	p := lookup(req.GetPid())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.joined[id] = p
	return &kernelv1.FenceJoinResponse{
		Sequence: f.table.Sequence(), Components: f.tellComponents().GetComponents(),
		Lease: &kernelv1.GateLease{Sequence: f.table.Sequence(), DeadlineBoottimeNs: f.lease.Load(), ClockLeadNs: f.table.Lead()},
	}
}

func (f *Fence) page(after uint64) *kernelv1.FenceTableResponse {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &kernelv1.FenceTableResponse{LastSequence: f.table.Sequence()}
	size := 0
	for i := after; i < uint64(len(f.events)); i++ {
		size += proto.Size(f.events[i]) + 8
		if size > pageBytes && len(r.Events) > 0 {
			break
		}
		r.Events = append(r.Events, f.events[i])
	}
	return r
}

// changes makes one change after the other.
func (s *service) changes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-s.work:
			resp, err := s.change(ctx, m)
			s.answer(m, resp, err)
		}
	}
}

func (s *service) change(ctx context.Context, m *nats.Msg) (proto.Message, error) {
	op, id, err := subject.ParseFence(m.Subject)
	if err != nil {
		return nil, err
	}
	who, _ := s.f.Identity(id)
	may := subject.Deployer
	if op == subject.FenceApply {
		may = subject.Capmgr
	}
	if who.Role != may {
		return nil, fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "only %s may ask the fence to %s", may, op)
	}
	switch op {
	case subject.FenceApply:
		var req kernelv1.FenceApplyRequest
		if err := proto.Unmarshal(m.Data, &req); err != nil {
			return nil, fault.Invalid("events", "unreadable")
		}
		c, err := s.f.Apply(ctx, req.GetEvents())
		if errors.Is(err, gate.ErrGap) {
			return nil, fault.New(codes.Aborted, fault.ReasonConflict, "%v", err).Because(err)
		}
		if err != nil {
			return nil, fault.New(codes.DataLoss, fault.ReasonDataLoss, "%v", err).Because(err)
		}
		return &kernelv1.FenceApplyResponse{Gates: uint32(c.Gates), GatesCut: uint32(c.GatesCut), ConnectionsCut: uint32(c.ConnectionsCut)}, nil
	case subject.FenceAdmit:
		var req kernelv1.FenceAdmitRequest
		if err := proto.Unmarshal(m.Data, &req); err != nil {
			return nil, fault.Invalid("admit", "unreadable")
		}
		return &kernelv1.FenceAdmitResponse{}, s.f.admitHelper(ctx, &req)
	}
	var req kernelv1.FenceDismissRequest
	if err := proto.Unmarshal(m.Data, &req); err != nil {
		return nil, fault.Invalid("dismiss", "unreadable")
	}
	if who, ok := s.f.Identity(req.GetId()); ok && !helper(who.Role) {
		return nil, fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "%s is no helper of the deployer", who.Role)
	}
	return &kernelv1.FenceDismissResponse{ConnectionsCut: uint32(s.f.Dismiss(ctx, req.GetId()))}, nil
}

func helper(role string) bool { return role == subject.Runner || role == subject.Keeper }

// admitHelper gives a runner or keeper its identity. An id that is something else already
// stays what it is.
func (f *Fence) admitHelper(ctx context.Context, req *kernelv1.FenceAdmitRequest) error {
	if !helper(req.GetRole()) {
		return fault.Invalid("role", "%q: want runner or keeper", req.GetRole())
	}
	if !subject.ValidID(req.GetId()) {
		return fault.Invalid("id", "not a public key")
	}
	if n := req.GetNamespace(); n != "" && !subject.ValidName(n) {
		return fault.Invalid("namespace", "%q is no name", n)
	}
	who := Identity{Role: req.GetRole(), Namespace: req.GetNamespace()}
	if old, ok := f.Identity(req.GetId()); ok && old != who {
		return fault.New(codes.AlreadyExists, fault.ReasonConflict, "the id belongs to a %s", old.Role)
	}
	if _, ok := f.table.Get(req.GetId()); ok {
		return fault.New(codes.AlreadyExists, fault.ReasonConflict, "the id belongs to a capability")
	}
	return f.Identify(ctx, req.GetId(), who)
}

func (s *service) answer(m *nats.Msg, resp proto.Message, err error) {
	r := nats.NewMsg(m.Reply)
	if err == nil {
		r.Data, err = proto.Marshal(resp)
	}
	if err != nil {
		rpc.ErrorReply(r, err)
	}
	if err := s.f.nc.PublishMsg(r); err != nil {
		s.f.o.Log.Warn("the fence's answer could not be sent", "subject", m.Subject, "error", err)
	}
}
