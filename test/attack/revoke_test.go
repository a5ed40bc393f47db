package attack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/test/world"
)

// revocations are attacks by somebody whose handle is revoked, or runs out, on the way.
func revocations() []attack {
	return []attack{
		{name: "a connection that goes on", has: "a live connection of a revoked handle", tries: "to stay, and to finish a frame begun before", off: check.Cut, run: staying},
		{name: "waiting in a mailbox", has: "calls that wait behind another when the handle is revoked", tries: "to have them begin", off: check.Effect, run: mailbox(1, nil)},
		{name: "quicker than the news", has: "the same, let go at once after the revocation's answer", tries: "to reach a gate that has not heard", off: check.Shootdown, run: mailbox(5, nil)},
		{name: "a runner that was frozen", has: "calls in the socket of a stopped runner when the handle is revoked", tries: "to have them begin when it thaws", off: check.Lease, run: mailbox(3, frozen)},
		{name: "a handle that runs out", has: "a live connection of an expired handle", tries: "to call", off: check.Expiry, run: expiring},
		{name: "wall clock turned back", has: "an expired handle, and the machine's wall clock", tries: "to have it live again", off: check.BootClock, run: clock},
	}
}

// staying has half of a frame on its way when the handle is revoked.
func staying(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	w, err := s.wire(ctx)
	if err != nil {
		return false, err
	}
	defer w.Close()
	if err := w.as(t.attacker); err != nil {
		return false, err
	}
	file := s.path()
	call := func(op, payload string) string {
		return fmt.Sprintf("PUB %s %s.1 %d\r\n%s\r\n", subject.Call(t.mine, op, t.attacker.id), subject.InboxPrefix(t.attacker.id), len(payload), payload)
	}
	frame := call("mark", file)
	if err := w.write(frame); err != nil {
		return false, err
	}
	err = world.Until(ctx, "its call is done", func() (bool, error) { n, err := marks(file); return n == 1, err })
	if err != nil {
		return false, err
	}
	if err := w.write(frame[:len(frame)/2]); err != nil {
		return false, err
	}
	if err := s.revoke(ctx, t.attacker.id); err != nil {
		return false, err
	}
	w.until(5 * time.Second)
	_ = w.write(frame[len(frame)/2:] + frame) // it may be cut already, which is what is asked
	if w.ping() == "" {
		return true, nil // it is still connected
	}
	if _, err := s.root.call(ctx, t.mine, "echo", ""); err != nil {
		return false, err
	}
	n, err := marks(file)
	return n > 1, err
}

// mailbox has an attacker's calls wait, at a service that works on one at a time, while its
// handle is revoked. Without freeze they wait behind a call of somebody else.
func mailbox(rounds int, freeze func(context.Context, *scene, two, func() error) error) func(context.Context, *scene) (bool, error) {
	if freeze == nil {
		freeze = behind
	}
	return func(ctx context.Context, s *scene) (bool, error) {
		for range rounds {
			if observed, err := waiting(ctx, s, freeze); observed || err != nil {
				return observed, err
			}
		}
		return false, nil
	}
}

func waiting(ctx context.Context, s *scene, freeze func(context.Context, *scene, two, func() error) error) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	// A grant, like a revocation, may take its time to reach the gates in a twin.
	var last error
	err = world.Until(ctx, "the attacker's own calls work", func() (bool, error) { last = t.legitimate(ctx); return last == nil, nil })
	if err != nil {
		return false, errors.Join(err, last)
	}
	file := s.path()
	err = freeze(ctx, s, t, func() error {
		for range 50 {
			if err := t.raw.PublishRequest(subject.Call(t.mine, "mark", t.attacker.id), t.raw.NewInbox(), []byte(file)); err != nil {
				return err
			}
		}
		if err := t.raw.FlushWithContext(ctx); err != nil {
			return err
		}
		return s.revoke(ctx, t.attacker.id)
	})
	if err != nil {
		return false, err
	}
	// Calls are worked on in order, so those that waited are done when this one is.
	err = world.Until(ctx, "the service answers", func() (bool, error) {
		_, last = s.root.call(ctx, t.mine, "echo", "")
		return last == nil, nil // a runner that was frozen has no lease for a moment
	})
	if err != nil {
		return false, errors.Join(err, last)
	}
	n, err := marks(file)
	return n > 0, err
}

// behind holds a call open around f.
func behind(ctx context.Context, s *scene, t two, f func() error) error {
	pipe := s.path()
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		return err
	}
	held := make(chan error, 1)
	go func() { _, err := s.root.call(ctx, t.mine, "hold", pipe); held <- err }()
	var end *os.File
	err := world.Until(ctx, "the call is under way", func() (_ bool, err error) {
		end, err = os.OpenFile(pipe, os.O_WRONLY|syscall.O_NONBLOCK, 0) // fails until somebody reads
		return err == nil, nil
	})
	if err != nil {
		return err
	}
	err = f()
	return errors.Join(err, end.Close(), <-held)
}

// frozen stops the runner around f.
func frozen(_ context.Context, s *scene, t two, f func() error) error {
	pid, err := s.runner(t.mine.Namespace)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	err = f()
	if again := syscall.Kill(pid, syscall.SIGCONT); !errors.Is(again, syscall.ESRCH) { // it may have been killed for hanging
		err = errors.Join(err, again)
	}
	return err
}

func expiring(ctx context.Context, s *scene) (bool, error) {
	of, err := s.service(ctx, "")
	if err != nil {
		return false, err
	}
	const life = 2 * time.Second
	h, err := s.grantFor(ctx, s.root, 0, life, "svc:"+of.Namespace+"/*=*")
	if err != nil {
		return false, err
	}
	over := time.Now().Add(life)
	defer h.Close()
	r, err := s.Raw(ctx, h.seed)
	if err != nil {
		return false, err
	}
	defer r.Close()
	if m, err := r.RequestWithContext(ctx, subject.Call(of, "echo", h.id), []byte("mine")); err != nil || string(m.Data) != "mine" {
		return false, fmt.Errorf("before: %v %v", m, err)
	}
	if err := world.Until(ctx, "the handle has run out", func() (bool, error) { return time.Now().After(over), nil }); err != nil {
		return false, err
	}
	_, overGRPC := h.call(ctx, of, "echo", "mine")
	m, err := r.RequestWithContext(ctx, subject.Call(of, "echo", h.id), []byte("mine"))
	if err == nil && string(m.Data) == "mine" || overGRPC == nil {
		return true, nil
	}
	if again, err := s.Raw(ctx, h.seed); err == nil {
		again.Close()
		return true, nil
	} else if !errors.Is(err, nats.ErrAuthorization) {
		return false, err
	}
	return false, nil
}

// clock cannot turn the machine's, so it runs the table's own test of it, on the build at hand.
func clock(ctx context.Context, s *scene) (bool, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "^TestExpiryByTheEarlierClock$")
	cmd.Dir = "../../bus/gate"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if s.off != "" {
		cmd.Args = append(cmd.Args, "-tags", "checksoff")
		cmd.Env = append(cmd.Env, check.Variable+"="+string(s.off))
	}
	out, err := cmd.CombinedOutput()
	switch {
	case err == nil && strings.Contains(string(out), "ok "):
		return false, nil
	case strings.Contains(string(out), "wall clock set back"):
		return true, nil
	}
	return false, fmt.Errorf("go test: %w\n%s", err, out)
}
