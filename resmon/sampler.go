package resmon

import (
	"context"
	"time"

	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/resmon/internal/limits"
	"google.golang.org/protobuf/proto"
)

const (
	sampleTimeout  = 2 * time.Second
	enforceTimeout = 10 * time.Second
	// tellAfter is how many measurements in a row fail before the log tells: a deployer may
	// start a little later.
	tellAfter = 3
	// messageBytes bounds one published part of a sample, well below what the bus carries.
	messageBytes = 512 << 10
)

// sampler measures the node each second until ctx ends. A measurement that takes longer makes
// it skip seconds, not queue them.
func (r *Resmon) sampler(ctx context.Context) {
	t := time.NewTicker(r.o.Every)
	defer t.Stop()
	for failed := 0; ; {
		err := r.measure(ctx)
		if failed++; err == nil {
			failed = 0
		}
		if failed == tellAfter && ctx.Err() == nil {
			r.o.Log.Warn("the node cannot be measured", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (r *Resmon) measure(ctx context.Context) error {
	ask, cancel := context.WithTimeout(ctx, sampleTimeout)
	defer cancel()
	s := &kernelv1.SampleAllResponse{}
	if err := r.o.Peer.Call(ask, subject.Deployer, "sample", subject.Nothing(), &kernelv1.SampleAllRequest{}, s); err != nil {
		r.series.failed.Inc()
		return err
	}
	at := time.Now()
	if err := r.publish(s); err != nil {
		r.o.Log.Warn("a sample could not be passed on", "error", err)
	}
	used, span := r.counters.Step(s, at)
	r.history.Add(at, span, used)
	r.series.observe(s, used)
	if err := r.services.refresh(ask, at, s.GetPlacements()); err != nil {
		r.o.Log.Warn("the registrations could not be read; limits are judged as they were last known", "error", err)
	}
	r.mu.Lock()
	decisions := r.judge.Step(at, s.GetPlacements(), r.services.bounds)
	r.mu.Unlock()
	for _, d := range decisions {
		r.decide(d)
	}
	return nil
}

// publish tells the registry, in parts.
func (r *Resmon) publish(s *kernelv1.SampleAllResponse) error {
	part, size := &kernelv1.SampleAllResponse{Node: s.GetNode(), HelperMemoryBytes: s.GetHelperMemoryBytes()}, 0
	send := func() error {
		b, err := proto.Marshal(part)
		if err != nil {
			return err
		}
		part.Placements, size = nil, 0
		return r.o.Conn.Publish(subject.Samples(s.GetNode()), b)
	}
	for _, p := range s.GetPlacements() {
		n := proto.Size(p) // some 100 KiB with the most instances there can be
		if size > 0 && size+n > messageBytes {
			if err := send(); err != nil {
				return err
			}
		}
		part.Placements, size = append(part.Placements, p), size+n
	}
	return send()
}

// decide tells of a mark, and hands an action to the enforcer.
func (r *Resmon) decide(d limits.Decision) {
	r.series.mark(d)
	if d.Mark == limits.Soft {
		r.o.Log.Warn("close to a limit", "service", d.Service, "instance", d.Instance, "limit", d.Limit, "value", d.Value, "bound", d.Bound)
		return
	}
	select {
	case r.queue <- d:
	default:
		r.done(d, false) // decided again soon
	}
}

// enforcer has decisions carried out by the deployer, one after the other, until ctx ends.
func (r *Resmon) enforcer(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-r.queue:
			r.o.Log.Warn("over a limit", "service", d.Service, "instance", d.Instance, "limit", d.Limit, "value", d.Value, "bound", d.Bound, "action", d.Action.String())
			call, cancel := context.WithTimeout(ctx, enforceTimeout)
			err := r.o.Peer.Call(call, subject.Deployer, "enforce", subject.Nothing(), &kernelv1.EnforceRequest{
				Service: d.Service, Instance: d.Instance, Action: d.Action, Limit: d.Limit, Value: d.Value, Bound: d.Bound,
			}, &kernelv1.EnforceResponse{})
			cancel()
			if err != nil && ctx.Err() == nil {
				r.o.Log.Warn("a decision could not be carried out", "service", d.Service, "limit", d.Limit, "error", err)
			}
			r.done(d, err == nil)
		}
	}
}

func (r *Resmon) done(d limits.Decision, ok bool) {
	if !ok {
		r.series.undone.Inc()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.judge.Done(d, time.Now(), ok)
}
