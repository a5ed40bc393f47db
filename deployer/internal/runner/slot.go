package runner

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/deployer/internal/logline"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// slot is the place of one instance: what runs in it is replaced when it ends.
type slot struct {
	id   string
	host *guestHost

	mu       sync.Mutex // guards what follows
	in       instance.Instance
	ctx      context.Context // of the calls of in
	cancel   context.CancelFunc
	state    solov1.InstanceState
	restarts uint32
	begun    time.Time
	used     time.Duration // processor time of those before
	ending   string        // why the instance was told to end; empty when it was not
	grace    time.Duration
	end      chan struct{} // closed when the instance is told to end
}

func newSlot(p *placement, id string) *slot {
	return &slot{id: id, state: solov1.InstanceState_INSTANCE_STATE_STARTING, host: &guestHost{p: p, id: id, tail: &logline.Tail{}}}
}

// worker is what a goroutine needs to answer calls with one instance.
type worker struct {
	in   instance.Instance
	life context.Context // of the calls of in
}

// put sets what runs in the slot.
func (s *slot) put(ctx context.Context, in instance.Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in, s.begun, s.state = in, time.Now(), solov1.InstanceState_INSTANCE_STATE_READY
	s.ctx, s.cancel = context.WithCancel(ctx)
	s.end, s.ending = make(chan struct{}), ""
}

// tell has the instance end; false when there is none.
func (s *slot) tell(why string, grace time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		return false
	}
	if s.ending == "" {
		s.ending, s.grace = why, grace
		close(s.end)
	}
	return true
}

func (s *slot) set(state solov1.InstanceState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

// describe is the instance as it stands.
func (s *slot) describe(p *placement) *solov1.Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &solov1.Instance{
		Id: s.id, Node: p.r.node, State: s.state, Revision: p.revision, Restarts: s.restarts,
		MailboxDepth: uint32(len(p.mailbox)), CpuMs: uint64(s.used.Milliseconds()),
	}
	if s.in != nil {
		u := s.in.Usage()
		d.MemoryBytes, d.CpuMs, d.Pid = u.MemoryBytes, uint64((s.used + u.CPU).Milliseconds()), uint32(s.in.Pid())
		d.StartedAt = timestamppb.New(s.begun)
	}
	return d
}

// drop closes the instance and tells how it ended: nil when it was told to.
func (s *slot) drop(why string, grace time.Duration) *instance.Crash {
	s.mu.Lock()
	in, cancel := s.in, s.cancel
	s.mu.Unlock()
	if in == nil {
		return nil
	}
	crash := in.Crash()
	u := in.Usage()
	cancel()
	in.Close(grace)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in = nil
	s.used += u.CPU
	if why != "" {
		return nil
	}
	return crash
}

// supervise keeps the slot filled until ctx ends. first receives the result of the first start.
func (p *placement) supervise(ctx context.Context, s *slot, first chan<- error) {
	err := p.fill(ctx, s)
	first <- err
	if err != nil {
		return
	}
	for {
		again := p.live(ctx, s)
		if !again {
			s.set(solov1.InstanceState_INSTANCE_STATE_STOPPED)
			return
		}
		for wait := time.Duration(0); ; {
			if !sleep(ctx, wait) {
				s.set(solov1.InstanceState_INSTANCE_STATE_STOPPED)
				return
			}
			err := p.fill(ctx, s)
			if err == nil {
				p.changed(s, "restarted")
				break
			}
			if ctx.Err() != nil {
				continue
			}
			p.changed(s, "restart failed: "+err.Error())
			if wait = p.count(); wait < 0 {
				p.giveUp("instance "+s.id+" could not be restarted: "+err.Error(), s)
				return
			}
		}
	}
}

// fill starts an instance in the slot.
func (p *placement) fill(ctx context.Context, s *slot) error {
	s.host.tail.Reset()
	start, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	in, err := p.start(start, s)
	if err != nil {
		if start.Err() != nil && ctx.Err() == nil {
			return overdue(p.native, err)
		}
		return err
	}
	s.put(ctx, in)
	return nil
}

// overdue is the fault of a start that did not end in time. It is the code's own failure: the next try
// would take as long.
func overdue(native bool, err error) error {
	what := "init() did not return"
	if native {
		what = "it did not become ready"
	}
	return fault.New(codes.DeadlineExceeded, fault.ReasonStartFailed, "%s within %d s", what, startTimeout/time.Second).Because(err)
}

// live lets the instance work until it ends, and tells whether another shall follow.
func (p *placement) live(ctx context.Context, s *slot) bool {
	s.mu.Lock()
	in, w, end := s.in, &worker{s.in, s.ctx}, s.end
	s.mu.Unlock()
	work, stop := context.WithCancel(ctx)
	var workers sync.WaitGroup
	for range p.workers {
		workers.Go(func() { p.work(work, s, w) })
	}
	why := ""
	select {
	case <-in.Done():
	case <-end:
		s.mu.Lock()
		why = s.ending
		s.mu.Unlock()
	case <-ctx.Done():
		why = "stopped"
	}
	stop()
	grace := p.settle(s, &workers, why)
	crash := s.drop(why, grace)
	workers.Wait()
	p.state.forget()
	if ctx.Err() != nil {
		return false
	}
	return p.decide(ctx, s, crash, why)
}

// settle gives running calls the grace period to finish, and returns what is left of it.
func (p *placement) settle(s *slot, workers *sync.WaitGroup, why string) time.Duration {
	s.mu.Lock()
	grace := s.grace
	s.mu.Unlock()
	if why == "" || why == "stopped" {
		grace = p.stopGrace()
	}
	begun := time.Now()
	idle := make(chan struct{})
	go func() { workers.Wait(); close(idle) }() // ends at the latest when the instance is closed
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
	return max(0, grace-time.Since(begun))
}

// work takes calls from the mailbox, one at a time.
func (p *placement) work(ctx context.Context, s *slot, w *worker) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.in.Done():
			return
		default:
		}
		select {
		case <-ctx.Done():
			return
		case <-w.in.Done():
			return
		case c := <-p.mailbox:
			p.serve(s, w, c)
		}
	}
}

// decide says whether the slot is filled again, and waits out the back-off.
func (p *placement) decide(ctx context.Context, s *slot, crash *instance.Crash, why string) bool {
	reason := why
	byItself := why == "" && (crash == nil || p.native)
	if crash != nil {
		reason = crash.Message
		if p.native {
			p.record(s, crash)
		}
	}
	normal := crash != nil && crash.Kind == "exit" && crash.Message == cleanExit
	switch p.manifest.GetRestart().GetType() {
	case solov1.RestartType_RESTART_TYPE_TEMPORARY:
		if why == "" {
			p.ended(s, reason)
			return false
		}
	case solov1.RestartType_RESTART_TYPE_TRANSIENT:
		if why == "" && normal {
			p.ended(s, reason)
			return false
		}
	}
	s.mu.Lock()
	s.restarts++
	s.state = solov1.InstanceState_INSTANCE_STATE_RESTARTING
	s.mu.Unlock()
	if byItself {
		wait := p.count()
		if wait < 0 {
			p.giveUp("instance "+s.id+" ended too often; last: "+reason, s)
			return false
		}
		p.changed(s, reason)
		return sleep(ctx, wait)
	}
	p.changed(s, reason)
	return true
}

// cleanExit is the message of a crash that is none.
const cleanExit = "the process exited with status 0"

// sleep waits and tells whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d > 0 {
		pause(ctx, d)
	}
	return ctx.Err() == nil
}

// Back-off between restarts inside the intensity.
const (
	backoffFirst = 20 * time.Millisecond
	backoffMost  = 5 * time.Second
)

// count notes one end that counts against the restart intensity and returns how long to wait before
// the next start: nothing for the first in a while, then twice as long each time, with jitter. It is
// negative when the intensity is exceeded.
func (p *placement) count() time.Duration {
	most, within := int(p.manifest.GetRestart().GetMax()), p.manifest.GetRestart().GetWithin().AsDuration()
	if most == 0 {
		most = defaultRestarts
	}
	if within <= 0 {
		within = defaultWithin
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	kept := p.ends[:0]
	for _, t := range p.ends {
		if now.Sub(t) < within {
			kept = append(kept, t)
		}
	}
	p.ends = append(kept, now)
	n := len(p.ends)
	if n > most {
		return -1
	}
	if n == 1 {
		return 0
	}
	d := min(backoffFirst<<min(n-2, 16), backoffMost)
	return d/2 + rand.N(d)
}

// crashed records what ended an instance during a call, or one run of a command.
func (p *placement) crashed(s *slot, err error) {
	if err == nil || p.native && !p.perCall {
		return // of a process, its end tells
	}
	if c, ok := errors.AsType[*instance.Crash](err); ok && c.Kind != "killed" {
		p.record(s, c)
	}
}
