package attack

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/test/world"
)

// connects are attacks on who may connect, and as whom.
func connects() []attack {
	return []attack{
		{name: "forged signature", has: "a victim's id, and a signature seen on another connection", tries: "to connect as the victim", off: check.Signature, run: forged},
		{name: "second CONNECT", has: "two handles", tries: "to be two holders on one connection", off: check.OneConnect, run: twice},
		{name: "revoked handle", has: "a handle that was revoked", tries: "to connect", off: check.Liveness, run: revokedConnects},
		{name: "revoke racing a connect", has: "a handle that is being revoked", tries: "to be connected afterwards", off: check.Register, run: racing},
		{name: "a dead component's identity", has: "the key of a component that was killed", tries: "to connect as it", off: check.Dismissal, alone: true, run: deadComponent},
		{name: "a replaced runner's keys", has: "every key of a runner that was killed", tries: "to answer in its place", off: check.Epoch, run: replacedRunner},
	}
}

func forged(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	other, err := s.wire(ctx)
	if err != nil {
		return false, err
	}
	defer other.Close()
	seen, err := sign(t.victim.seed, other.nonce)
	if err != nil {
		return false, err
	}
	observed := false
	for _, forge := range []func(nonce string) string{
		func(string) string { return seen }, // replayed
		func(nonce string) string { sig, _ := sign(t.attacker.seed, nonce); return sig },
		func(nonce string) string { sig, _ := sign(t.victim.seed, nonce); return sig[:len(sig)-2] }, // truncated
		func(nonce string) string { sig, _ := sign(t.victim.seed, nonce+"x"); return sig },
		func(string) string { return "" },
		func(string) string { return strings.Repeat("A", 86) },
	} {
		w, err := s.wire(ctx)
		if err != nil {
			return false, err
		}
		if err := w.write(connect(t.victim.id, forge(w.nonce))); err == nil && w.ping() == "" {
			observed = true
		}
		_ = w.Close()
	}
	w, err := s.wire(ctx)
	if err != nil {
		return false, err
	}
	defer w.Close()
	return observed, w.as(t.attacker)
}

func twice(ctx context.Context, s *scene) (bool, error) {
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
	sig, err := sign(t.victim.seed, w.nonce) // here it has the victim's handle too
	if err != nil {
		return false, err
	}
	if w.write(connect(t.victim.id, sig)) != nil || w.ping() != "" {
		return false, t.legitimate(ctx)
	}
	return true, t.legitimate(ctx)
}

func revokedConnects(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	if err := t.legitimate(ctx); err != nil {
		return false, err
	}
	if err := s.revoke(ctx, t.attacker.id); err != nil {
		return false, err
	}
	r, err := s.Raw(ctx, t.attacker.seed)
	if err == nil {
		r.Close()
		return true, nil
	}
	if !errors.Is(err, nats.ErrAuthorization) {
		return false, err
	}
	return false, nil
}

// racing has a holder connect again and again while it is revoked, in many rounds, and looks
// whether a connection is left when the revocation is acknowledged.
func racing(ctx context.Context, s *scene) (bool, error) {
	for range 25 {
		h, err := s.grant(ctx, s.root, 0, "svc:race/*=*")
		if err != nil {
			return false, err
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var open []*wire
		stop := make(chan struct{})
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					w, err := s.wire(ctx)
					if err != nil {
						return
					}
					err = w.as(h)
					mu.Lock()
					open = append(open, w)
					mu.Unlock()
					if err != nil {
						return // it is revoked
					}
				}
			})
		}
		err = world.Until(ctx, "connections are being made", func() (bool, error) {
			mu.Lock()
			defer mu.Unlock()
			return len(open) > 2, nil
		})
		if err == nil {
			err = s.revoke(ctx, h.id)
		}
		close(stop)
		wg.Wait()
		left := 0
		for _, w := range open {
			if w.ping() == "" {
				left++
			}
			_ = w.Close()
		}
		_ = h.Close() // nothing is under way on it
		if err != nil || left > 0 {
			return left > 0, err
		}
	}
	return false, nil
}

func deadComponent(ctx context.Context, s *scene) (bool, error) {
	ps, err := s.Named("solo-registry")
	if err != nil || len(ps) != 1 {
		return false, fmt.Errorf("registry: %v %v", ps, err)
	}
	seeds, err := stolen(ps[0].PID)
	if err != nil {
		return false, err
	}
	if n, err := s.connecting(ctx, seeds); err != nil || n == 0 {
		return false, fmt.Errorf("%d keys of the living registry connect: %v", n, err)
	}
	if err := syscall.Kill(ps[0].PID, syscall.SIGKILL); err != nil {
		return false, err
	}
	err = world.Until(ctx, "the registry runs again", func() (bool, error) {
		now, err := s.Named("solo-registry")
		return len(now) == 1 && now[0].PID != ps[0].PID, err
	})
	if err != nil {
		return false, err
	}
	n, err := s.connecting(ctx, seeds)
	return n > 0, err
}

func replacedRunner(ctx context.Context, s *scene) (bool, error) {
	of, err := s.service(ctx, "")
	if err != nil {
		return false, err
	}
	pid, err := s.runner(of.Namespace)
	if err != nil {
		return false, err
	}
	seeds, err := stolen(pid)
	if err != nil {
		return false, err
	}
	if n, err := s.connecting(ctx, seeds); err != nil || n == 0 {
		return false, fmt.Errorf("%d keys of the living runner connect: %v", n, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return false, err
	}
	var last error
	err = world.Until(ctx, "the service answers again", func() (bool, error) {
		one, cancel := context.WithTimeout(ctx, time.Second) // what a dying runner has taken is lost with it
		defer cancel()
		_, last = s.root.call(one, of, "echo", "")
		return last == nil, nil
	})
	if err != nil {
		return false, errors.Join(err, last)
	}
	n, err := s.connecting(ctx, seeds)
	return n > 0, err
}

// connecting is how many of the keys may connect.
func (s *scene) connecting(ctx context.Context, seeds []string) (n int, err error) {
	for _, seed := range seeds {
		r, err := s.Raw(ctx, seed)
		if err == nil {
			r.Close()
			n++
		} else if !errors.Is(err, nats.ErrAuthorization) {
			return n, err
		}
	}
	return n, nil
}
