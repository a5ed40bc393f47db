package attack

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/test/world"
)

// takenOver are attacks by one who has taken over the runner of its namespace, and so has the
// keys with which the runner answers.
func takenOver() []attack {
	const keys = "every key in its own runner's memory"
	return []attack{
		{name: "a service's key that asks", has: keys, tries: "to call another service in the name of one who may", off: check.ServingPublish, run: asking},
		{name: "a service's key beside the queue", has: keys, tries: "to hear every call, not only its share", off: check.ServingQueue, run: beside},
		{name: "a service that answers twice", has: keys, tries: "to send a second answer to one request", off: check.OneAnswer, run: answering},
		{name: "a runner's key at JetStream", has: keys, tries: "to read capabilities and state", off: check.RolePublish, run: runnerKey},
		{name: "laundering by a reply subject", has: "a handle for one service", tries: "to have its answer delivered as a call", off: check.ImportShape, run: laundering},
	}
}

// serving connects with the key that answers for a service, found by trying the stolen ones.
func (s *scene) serving(ctx context.Context, of subject.Service) (*world.Raw, error) {
	pid, err := s.runner(of.Namespace)
	if err != nil {
		return nil, err
	}
	return s.with(ctx, pid, func(r *world.Raw) (bool, error) { return listens(ctx, r, subject.CallServing(of), of.Queue()) })
}

// with connects with the first key stolen from a process for which is holds.
func (s *scene) with(ctx context.Context, pid int, is func(*world.Raw) (bool, error)) (*world.Raw, error) {
	seeds, err := stolen(pid)
	if err != nil {
		return nil, err
	}
	for _, seed := range seeds {
		r, err := s.Raw(ctx, seed)
		if err != nil {
			continue // an older one
		}
		if yes, err := is(r); err != nil || yes {
			return r, err
		}
		r.Close()
	}
	return nil, fmt.Errorf("none of the %d keys in process %d is the one", len(seeds), pid)
}

// listens tells whether the server takes a subscription.
func listens(ctx context.Context, r *world.Raw, pattern, queue string) (bool, error) {
	var sub *nats.Subscription
	var err error
	if queue == "" {
		sub, err = r.SubscribeSync(pattern)
	} else {
		sub, err = r.QueueSubscribeSync(pattern, queue)
	}
	if err != nil {
		return false, err
	}
	if err := r.FlushWithContext(ctx); err != nil {
		return false, err
	}
	// The server speaks of a refusal before it answers the flush.
	why := r.LastError()
	return why == nil || !strings.Contains(why.Error(), `"`+pattern+`"`), sub.Unsubscribe()
}

func asking(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	r, err := s.serving(ctx, t.mine)
	if err != nil {
		return false, err
	}
	defer r.Close()
	file := s.path()
	for _, subj := range []string{
		subject.Call(t.theirs, "mark", t.victim.id), subject.Sys(subject.Capmgr, "revoke", subject.Nothing(), s.root.id), "_R_.x", "_INBOX." + t.victim.id + ".x",
	} {
		if err := r.PublishRequest(subj, "nobody", []byte(file)); err != nil {
			return false, err
		}
	}
	if err := r.FlushWithContext(ctx); err != nil {
		return false, err
	}
	if _, err := t.victim.call(ctx, t.theirs, "echo", ""); err != nil { // behind what was sent
		return false, err
	}
	n, err := marks(file)
	return n > 0, errors.Join(err, t.legitimate(ctx))
}

// beside listens to a service's calls without being a member of its queue group.
func beside(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	r, err := s.serving(ctx, t.mine)
	if err != nil {
		return false, err
	}
	defer r.Close()
	sub, err := r.SubscribeSync(subject.CallServing(t.mine))
	if err != nil {
		return false, err
	}
	// Its runner answers all of them, and what else the server sends has come with the flush.
	if err := errors.Join(r.FlushWithContext(ctx), t.legitimate(ctx), r.FlushWithContext(ctx)); err != nil {
		return false, err
	}
	_, err = sub.NextMsg(1)
	return err == nil, nil
}

func answering(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	r, err := s.serving(ctx, t.mine)
	if err != nil {
		return false, err
	}
	defer r.Close()
	calls, err := r.QueueSubscribeSync(subject.CallServing(t.mine), t.mine.Queue())
	if err != nil {
		return false, err
	}
	if err := r.FlushWithContext(ctx); err != nil {
		return false, err
	}
	for { // until one of the calls comes here and not to the runner
		if err := t.raw.PublishRequest(subject.Call(t.mine, "echo", t.attacker.id), t.raw.NewInbox(), []byte("x")); err != nil {
			return false, err
		}
		if err := errors.Join(t.raw.FlushWithContext(ctx), r.FlushWithContext(ctx), ctx.Err()); err != nil {
			return false, err
		}
		m, err := calls.NextMsg(1) // what came has come
		if err != nil {
			continue
		}
		drain(r)
		for range 3 {
			if err := r.Publish(m.Reply, []byte("answer")); err != nil {
				return false, err
			}
		}
		if err := r.FlushWithContext(ctx); err != nil {
			return false, err
		}
		return r.LastError() == nil || !strings.Contains(strings.ToLower(r.LastError().Error()), "permissions violation"), nil
	}
}

// drain forgets what the server has refused so far.
func drain(r *world.Raw) {
	for {
		select {
		case <-r.Refused:
		default:
			return
		}
	}
}

func runnerKey(ctx context.Context, s *scene) (bool, error) {
	of, err := s.service(ctx, "")
	if err != nil {
		return false, err
	}
	pid, err := s.runner(of.Namespace)
	if err != nil {
		return false, err
	}
	r, err := s.with(ctx, pid, func(r *world.Raw) (bool, error) {
		return listens(ctx, r, subject.GatePush(r.ID), "")
	})
	if err != nil {
		return false, err
	}
	defer r.Close()
	observed := false
	for _, subj := range []string{
		"$JS.API.STREAM.INFO.CAPS", "$JS.API.STREAM.MSG.GET.KV_state", "$KV.state.x", subject.Caps, "evt.x.y.z",
		subject.Sys(subject.Capmgr, "endow", of, r.ID), subject.Fence(subject.FenceApply, r.ID), subject.Fence(subject.FenceAdmit, r.ID),
	} {
		_, answer, err := send(ctx, r, nats.NewMsg(subj))
		if err != nil {
			return false, err
		}
		observed = observed || answer != nil && !nobody(answer)
	}
	return observed, nil
}

// besideRegistry listens where the registry does, in its queue, with its key.
func (s *scene) besideRegistry(ctx context.Context) (*world.Raw, *nats.Subscription, error) {
	sys, group := subject.SysServing(subject.Registry), subject.Registry
	ps, err := s.Named("solo-registry")
	if err != nil || len(ps) != 1 {
		return nil, nil, fmt.Errorf("registry: %v %w", ps, err)
	}
	r, err := s.with(ctx, ps[0].PID, func(r *world.Raw) (bool, error) { return listens(ctx, r, sys, group) })
	if err != nil {
		return nil, nil, err
	}
	came, err := r.QueueSubscribeSync(sys, group)
	if err == nil {
		err = r.FlushWithContext(ctx)
	}
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return r, came, nil
}

// laundering asks for answers at subjects that the attacker may not publish to; the runner's
// answer would go there on its way back.
func laundering(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	r, came, err := s.besideRegistry(ctx)
	if err != nil {
		return false, err
	}
	defer r.Close()
	file := s.path()
	for _, reply := range []string{
		"shortcut", subject.Call(t.theirs, "mark", t.victim.id),
		subject.Sys(subject.Capmgr, "revoke", subject.Nothing(), s.root.id), subject.Sys(subject.Registry, "list", subject.Nothing(), s.root.id), "$JS.API.STREAM.DELETE.AUDIT", "audit.capmgr.x", "$KV.registry.x", "_R_.x",
		"_INBOX." + t.victim.id + ".x", subject.GatePush(t.attacker.id), subject.Caps,
	} {
		for range 20 { // the queue gives the registry itself some of them
			if err := t.raw.PublishRequest(subject.Call(t.mine, "echo", t.attacker.id), reply, []byte(file)); err != nil {
				return false, err
			}
		}
	}
	// When the runner has answered a later call, it has answered these; and the rest is in order.
	if err := errors.Join(t.legitimate(ctx), r.FlushWithContext(ctx)); err != nil {
		return false, err
	}
	for {
		m, err := came.NextMsg(1) // what came has come
		if err != nil {
			break
		}
		if string(m.Data) == file {
			return true, nil // an answer has become a system call
		}
	}
	if _, err := s.root.call(ctx, t.theirs, "echo", ""); err != nil {
		return false, err
	}
	n, err := marks(file)
	return n > 0, err
}
