// Package supervise keeps children running as OTP does: strategies, restart types, a bound on
// restarts within a period beyond which the supervisor itself gives up, and back-off with
// jitter inside that bound. It knows nothing of processes; a child is anything that can be
// started, says when it is ready, and ends.
//
// One goroutine, the caller of Run, makes all decisions, so children are started and stopped
// one after the other, in order and in reverse order.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Strategy says who else is restarted with a child that ended.
type Strategy uint8

// The strategies of OTP.
const (
	// OneForOne restarts the child alone.
	OneForOne Strategy = iota
	// RestForOne restarts it and those started after it.
	RestForOne
	// OneForAll restarts all.
	OneForAll
)

// Restart says when a child is started again.
type Restart uint8

// The restart types of OTP.
const (
	// Permanent: always.
	Permanent Restart = iota
	// Transient: after an abnormal end.
	Transient
	// Temporary: never.
	Temporary
)

// Child is a running child.
type Child interface {
	// Done is closed when the child has ended.
	Done() <-chan struct{}
	// Err is why it ended; nil is a normal end. Valid after Done.
	Err() error
	// Stop asks the child to end and returns when it has; when ctx ends it is forced.
	Stop(ctx context.Context)
}

// Spec describes a child.
type Spec struct {
	Name string
	// Start returns when the child is ready. An error means that nothing is left of it.
	Start   func(ctx context.Context) (Child, error)
	Restart Restart
	// StopTimeout bounds an orderly end; then it is forced. Default 5 s.
	StopTimeout time.Duration
}

// Options of a supervisor.
type Options struct {
	Strategy Strategy
	// More than Max restarts within Within end the supervisor with ErrIntensity. Defaults 20 in 30 s.
	Max    int
	Within time.Duration
	// BackoffMin before the second restart of a child within the period, doubling up to
	// BackoffMax, each shifted by up to a fifth. The first restart is at once. Defaults 20 ms and 2 s.
	BackoffMin, BackoffMax time.Duration
	Log                    *slog.Logger
	// Ready is told when all children run, first and after each restart. May be nil.
	Ready func()
	// Down is told when a child has ended unasked. May be nil.
	Down func(name string, err error)
}

// ErrIntensity says that children ended more often than the supervisor bears.
var ErrIntensity = errors.New("children end more often than allowed")

// DefaultStopTimeout is for children that name none.
const DefaultStopTimeout = 5 * time.Second

type slot struct {
	spec     Spec
	child    Child
	gone     bool // will not be started again
	restarts []time.Time
}

type exit struct {
	slot  int
	child Child
	err   error
}

type supervisor struct {
	o     Options
	slots []*slot
	exits chan exit
	total []time.Time
	quit  chan struct{}
}

// Run starts the children in order and keeps them running until ctx ends; then it stops them
// in reverse order, within hurry's lifetime, and returns nil. It returns ErrIntensity, after
// stopping all, when it gives up.
func Run(ctx, hurry context.Context, o Options, specs ...Spec) error {
	if o.Max == 0 {
		o.Max = 20
	}
	if o.Within == 0 {
		o.Within = 30 * time.Second
	}
	if o.BackoffMin == 0 {
		o.BackoffMin = 20 * time.Millisecond
	}
	if o.BackoffMax == 0 {
		o.BackoffMax = 2 * time.Second
	}
	s := &supervisor{o: o, exits: make(chan exit, len(specs)), quit: make(chan struct{})}
	defer close(s.quit)
	for _, spec := range specs {
		s.slots = append(s.slots, &slot{spec: spec})
	}
	err := s.run(ctx)
	s.stop(hurry, 0)
	return err
}

func (s *supervisor) run(ctx context.Context) error {
	for from := 0; ; {
		failed, err := s.start(ctx, from)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			if s.o.Ready != nil {
				s.o.Ready()
			}
			if failed, err = s.wait(ctx); ctx.Err() != nil {
				return nil
			}
		}
		if from, err = s.recover(ctx, failed, err); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// start brings up every child that does not run, from one on; it returns the one that failed.
// A child that ended meanwhile and came before comes first: the others may need it.
func (s *supervisor) start(ctx context.Context, from int) (int, error) {
	for i := from; i < len(s.slots); i++ {
		sl := s.slots[i]
		if sl.gone || sl.child != nil {
			continue
		}
		begin, cancel := context.WithCancel(ctx)
		stop := s.watchBefore(i, cancel)
		c, err := sl.spec.Start(begin)
		stop()
		cancel()
		if j := s.endedBefore(i); j >= 0 && s.o.Strategy != OneForOne {
			if err == nil {
				s.keep(i, c)
			}
			before := s.slots[j]
			cause := before.child.Err()
			before.child = nil
			s.tell(j, cause)
			return j, cause
		}
		if err != nil {
			return i, fmt.Errorf("start: %w", err)
		}
		s.keep(i, c)
	}
	return 0, nil
}

// keep takes a started child and hears of its end.
func (s *supervisor) keep(i int, c Child) {
	s.slots[i].child = c
	go func() { // ends with the child, or with the supervisor
		select {
		case <-c.Done():
			select {
			case s.exits <- exit{i, c, c.Err()}:
			case <-s.quit:
			}
		case <-s.quit:
		}
	}()
}

// watchBefore gives a start up when a child before it ends that must be started again.
func (s *supervisor) watchBefore(i int, cancel context.CancelFunc) (stop func()) {
	if s.o.Strategy == OneForOne {
		return func() {}
	}
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for _, sl := range s.slots[:i] {
		if c := sl.child; c != nil {
			wg.Go(func() {
				select {
				case <-c.Done():
					if again(sl.spec.Restart, c.Err()) {
						cancel()
					}
				case <-quit:
				}
			})
		}
	}
	return func() { close(quit); wg.Wait() }
}

// endedBefore is the first child before i that has ended and must be started again, or -1.
func (s *supervisor) endedBefore(i int) int {
	for j, sl := range s.slots[:i] {
		if sl.child == nil {
			continue
		}
		select {
		case <-sl.child.Done():
			if again(sl.spec.Restart, sl.child.Err()) {
				return j
			}
		default:
		}
	}
	return -1
}

func again(r Restart, err error) bool { return r == Permanent || (r == Transient && err != nil) }

func (s *supervisor) tell(i int, err error) {
	if s.o.Down != nil {
		s.o.Down(s.slots[i].spec.Name, err)
	}
}

// wait returns the first child that must be started again.
func (s *supervisor) wait(ctx context.Context) (int, error) {
	for {
		select {
		case <-ctx.Done():
			return 0, nil
		case x := <-s.exits:
			sl := s.slots[x.slot]
			if sl.child != x.child {
				continue // stopped on purpose
			}
			sl.child = nil
			s.tell(x.slot, x.err)
			if !again(sl.spec.Restart, x.err) {
				sl.gone = true
				s.o.Log.Info("child ended and stays so", "child", sl.spec.Name)
				continue
			}
			return x.slot, x.err
		}
	}
}

// recover counts the restart, stops those who go with the child and waits for the back-off. It
// returns the first slot to start.
func (s *supervisor) recover(ctx context.Context, i int, cause error) (int, error) {
	sl, now := s.slots[i], time.Now()
	s.total = append(within(s.total, now, s.o.Within), now)
	sl.restarts = append(within(sl.restarts, now, s.o.Within), now)
	s.o.Log.Warn("child ended", "child", sl.spec.Name, "error", cause, "restarts", len(sl.restarts), "within", s.o.Within.String())
	if len(s.total) > s.o.Max {
		return 0, fmt.Errorf("%w: %d within %s, the last was %s: %v", ErrIntensity, len(s.total), s.o.Within, sl.spec.Name, cause)
	}
	from := i
	switch s.o.Strategy {
	case RestForOne:
		s.stop(ctx, i+1)
	case OneForAll:
		s.stop(ctx, 0)
		from = 0
	}
	if n := len(sl.restarts); n > 1 {
		d := min(s.o.BackoffMin<<min(n-2, 20), s.o.BackoffMax)
		d += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(d))
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	if s.o.Strategy == OneForOne {
		from = 0 // others may have ended meanwhile
	}
	return from, nil
}

// stop ends the children from one on, the last first.
func (s *supervisor) stop(ctx context.Context, from int) {
	for i := len(s.slots) - 1; i >= from; i-- {
		sl := s.slots[i]
		if sl.child == nil {
			continue
		}
		c := sl.child
		sl.child = nil
		d := sl.spec.StopTimeout
		if d == 0 {
			d = DefaultStopTimeout
		}
		end, cancel := context.WithTimeout(ctx, d)
		c.Stop(end)
		cancel()
	}
}

func within(ts []time.Time, now time.Time, d time.Duration) []time.Time {
	for len(ts) > 0 && now.Sub(ts[0]) > d {
		ts = ts[1:]
	}
	return ts
}
