package attack

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// histories has many clients grant, use, revoke and outlive capabilities while components are
// killed, and has porcupine look for an order of all that happened in which no capability is
// used after its end, and none that was granted is refused before it. The effect is that there
// is no such order.
func histories() []attack {
	return []attack{{
		name: "any history", has: "many handles, and components that die", tries: "any use after an end", off: check.Expiry, alone: true,
		run: func(ctx context.Context, s *scene) (bool, error) {
			long := 4 * time.Second
			if s.off == "" {
				long = historyTime()
			}
			return history(ctx, s, long)
		},
	}}
}

// historyTime is how long the history takes: SOLO_HISTORY, or 8 s.
func historyTime() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("SOLO_HISTORY")); err == nil && d > 0 {
		return d
	}
	return 8 * time.Second
}

// doing is an operation on one capability.
type doing struct {
	cap  int
	what string // grant, use, revoke, expire
}

// The states of a capability in the model.
const (
	absent = iota
	live
	dead
)

// life is what a capability may go through. An operation whose outcome nobody knows ends in
// the order's infinity: there it has no effect, and earlier it may have had one.
func life() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			by := map[int][]porcupine.Operation{}
			for _, o := range history {
				c := o.Input.(doing).cap
				by[c] = append(by[c], o)
			}
			parts := make([][]porcupine.Operation, 0, len(by))
			for _, p := range by {
				parts = append(parts, p)
			}
			return parts
		},
		Init: func() any { return absent },
		Step: func(state, input, output any) (bool, any) {
			switch input.(doing).what {
			case "grant":
				if state == absent {
					return true, live
				}
				return true, state
			case "use":
				return (state == live) == output.(bool), state
			}
			if state == absent {
				return true, state // there is nothing yet to be ended
			}
			return true, dead
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v %v", input, output) },
	}
}

// player is one capability in the history.
type player struct {
	holder
	n int
}

// recorder collects what happens. Its lock is a leaf.
type recorder struct {
	begin time.Time

	mu      sync.Mutex
	history []porcupine.Operation // mu
	known   map[string]int        // mu; how often something happened, by what and its outcome
	players []player              // mu; those that are being used
	n       int                   // mu
}

// patience is how many times as long as asked a history may last until enough has happened.
const patience = 6

// goesOn tells whether there is more to do: until the time is over and enough has happened.
func (r *recorder) goesOn(long time.Duration) bool {
	if now := r.now(); now < int64(long) || now > patience*int64(long) {
		return now < int64(long)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.enough()
}

// enough tells whether the history can show anything. mu is held.
func (r *recorder) enough() bool {
	return r.known["use true"] >= 50 && r.known["use false"] >= 50 && r.known["grant true"] >= 5 && r.known["revoke true"] >= 3
}

func (r *recorder) now() int64 { return int64(time.Since(r.begin)) }

// note adds an operation; end is math.MaxInt64 when its outcome is not known.
func (r *recorder) note(client int, d doing, call, end int64, out any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[fmt.Sprintf("%s %v", d.what, out)]++
	r.history = append(r.history, porcupine.Operation{ClientId: client, Input: d, Call: call, Output: out, Return: end})
}

func (r *recorder) pick() (player, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.players) < playersAtOnce {
		return player{}, false
	}
	return r.players[rand.IntN(len(r.players))], true
}

func history(ctx context.Context, s *scene, long time.Duration) (bool, error) {
	of, err := s.service(ctx, "")
	if err != nil {
		return false, err
	}
	r := &recorder{begin: time.Now(), known: map[string]int{}}
	var wg sync.WaitGroup
	for client := range 8 {
		wg.Go(func() {
			for r.goesOn(long) && ctx.Err() == nil {
				s.play(ctx, r, client, of)
			}
		})
	}
	if s.off == "" {
		wg.Go(func() { err = s.kills(ctx, r, long) })
	}
	wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && !r.enough() {
		err = fmt.Errorf("too little happened: %v", r.known)
	}
	if err != nil {
		return false, err
	}
	switch got := porcupine.CheckOperationsTimeout(life(), r.history, time.Minute); got {
	case porcupine.Ok:
		return false, nil
	case porcupine.Illegal:
		return true, nil
	default:
		return false, fmt.Errorf("of %d operations: %s", len(r.history), got)
	}
}

// kills ends one component after the other.
func (s *scene) kills(ctx context.Context, r *recorder, long time.Duration) error {
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if !r.goesOn(long) {
			return nil
		}
		if _, err := s.root.DescribeCapability(ctx, &solov1.DescribeCapabilityRequest{}); err != nil {
			continue // the last one is not back yet
		}
		if _, err := s.Signal([]string{"solo-capmgr", "solo-gateway", "solo-registry", "solo-deployer"}[i%4], syscall.SIGKILL); err != nil {
			return err
		}
	}
}

// play does one thing.
func (s *scene) play(ctx context.Context, r *recorder, client int, of subject.Service) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	p, ok := r.pick()
	switch n := rand.IntN(400); {
	case !ok:
		s.playGrant(ctx, r, client, of)
	case n < 6:
		call := r.now()
		_, err := s.root.RevokeCapability(ctx, &solov1.RevokeCapabilityRequest{Id: p.id})
		end := r.now()
		if err != nil {
			end = math.MaxInt64
		}
		r.note(client, doing{p.n, "revoke"}, call, end, err == nil)
	default:
		use := s.useRaw
		if n%2 == 0 {
			use = useCall
		}
		call := r.now()
		if works, known := use(ctx, p.holder, of); known {
			r.note(client, doing{p.n, "use"}, call, r.now(), works)
		}
	}
}

// So many are in use at once, each for so long, so that each is used a good deal, and also
// after its end.
const (
	playersAtOnce = 12
	playedFor     = 3 * time.Second
)

// retire takes one out of use.
func (r *recorder) retire(p player) {
	r.mu.Lock()
	r.players = slices.DeleteFunc(r.players, func(q player) bool { return q.n == p.n })
	r.mu.Unlock()
	_ = p.Close() // what is under way on it has no known outcome
}

func (s *scene) playGrant(ctx context.Context, r *recorder, client int, of subject.Service) {
	seed, id, err := newKey()
	if err != nil {
		return
	}
	h, err := s.holder(seed)
	if err != nil {
		return
	}
	r.mu.Lock()
	r.n++
	p := player{h, r.n}
	r.players = append(r.players, p)
	r.mu.Unlock()
	time.AfterFunc(playedFor, func() { r.retire(p) })
	ttl := time.Hour
	if rand.IntN(2) == 0 {
		ttl = time.Second/2 + rand.N(time.Second)
	}
	call := r.now()
	_, err = s.root.GrantCapability(ctx, &solov1.GrantCapabilityRequest{Rules: []string{"svc:" + of.String() + "=call:echo"}, Ttl: durationpb.New(ttl), PublicKey: id})
	end := r.now()
	expired := end + int64(ttl)
	if err != nil {
		end, expired = math.MaxInt64, math.MaxInt64
	}
	r.note(client, doing{p.n, "grant"}, call, end, err == nil)
	r.note(client, doing{p.n, "expire"}, call+int64(ttl), expired, true)
}

// useCall uses a capability through the gateway.
func useCall(ctx context.Context, h holder, of subject.Service) (works, known bool) {
	_, err := h.call(ctx, of, "echo", "")
	switch status.Code(err) {
	case codes.OK:
		return true, true
	case codes.Unauthenticated, codes.PermissionDenied:
		return false, true
	}
	return false, false
}

// useRaw uses one on a fresh connection of its own.
func (s *scene) useRaw(ctx context.Context, h holder, of subject.Service) (works, known bool) {
	c, err := s.Raw(ctx, h.seed)
	if err != nil {
		return false, errors.Is(err, nats.ErrAuthorization)
	}
	defer c.Close()
	m, err := c.RequestWithContext(ctx, subject.Call(of, "echo", h.id), nil)
	switch {
	case err != nil:
		return false, false
	case m.Header.Get("Nats-Service-Error") == "":
		return true, true
	}
	return false, m.Header.Get("Nats-Service-Error-Code") == fmt.Sprint(int(codes.Unauthenticated))
}
