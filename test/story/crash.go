package story

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/world"
	"google.golang.org/grpc/codes"
)

// patience bounds one call: one that was under way in a process that is killed is never answered.
const patience = 2 * time.Second

// ask is one call with patience.
func (s *Story) ask(ctx context.Context, service, op, text string) (*solov1.CallResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.as.Call(ctx, &solov1.CallRequest{Service: service, Op: op, Body: &solov1.CallRequest_Text{Text: text}})
}

// value reads the counter, waiting for it to answer.
func (s *Story) value(ctx context.Context) (n int64, err error) {
	err = world.Until(ctx, "the counter answers", func() (bool, error) {
		r, err := s.ask(ctx, "alice/counter", "get", "")
		if err != nil {
			return false, pass(err)
		}
		n, err = strconv.ParseInt(strings.TrimSpace(r.Text), 10, 64)
		return true, err
	})
	return n, err
}

// gone tells whether an error is only that Solo, or the process that had the call, is not back yet.
func gone(err error) bool {
	f := fault.From(err)
	return f.Retryable || f.Code == codes.Unavailable || f.Code == codes.DeadlineExceeded || f.Reason == fault.ReasonInstanceCrashed
}

// under calls add from several callers while do runs, and then checks that no answered add is lost.
func (s *Story) under(ctx context.Context, do func() error) error {
	var acked, tried atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				default:
				}
				tried.Add(1)
				if _, err := s.ask(ctx, "alice/counter", "add", ""); err == nil {
					acked.Add(1)
				}
			}
		})
	}
	err := world.Until(ctx, "calls are under way", func() (bool, error) { return acked.Load() > 20, nil })
	if err == nil {
		err = do()
	}
	seen := acked.Load()
	if err == nil {
		err = world.Until(ctx, "calls are answered again", func() (bool, error) { return acked.Load() > seen+20, nil })
	}
	close(stop)
	wg.Wait()
	if err != nil {
		return err
	}
	n, err := s.value(ctx)
	if err != nil {
		return err
	}
	low, high := s.acked+acked.Load(), s.acked+tried.Load()
	if n < low || n > high {
		return fmt.Errorf("the counter is %d after %d answered and %d tried adds", n, low, high)
	}
	s.say("    %d of %d calls answered through it; the counter holds every answered one: %d", acked.Load(), tried.Load(), n)
	s.acked, s.tried = n, n
	return nil
}

func (s *Story) killRunner(ctx context.Context) error {
	return s.under(ctx, func() error {
		before, err := s.W.Named("solo-runner")
		if err != nil {
			return err
		}
		begin := time.Now()
		if n, err := s.W.Signal("solo-runner", syscall.SIGKILL); err != nil || n == 0 {
			return fmt.Errorf("killed %d runners: %w", n, err)
		}
		if _, err := s.value(ctx); err != nil {
			return err
		}
		s.say("    %d runner processes killed; answering again after %s", len(before), round(time.Since(begin)))
		return nil
	})
}

func (s *Story) killComponents(ctx context.Context) error {
	for _, c := range []string{"audit", "capmgr", "registry", "resmon", "deployer", "gateway", "keeper"} {
		before, err := s.instances(ctx)
		if err != nil {
			return err
		}
		old, err := s.W.Named("solo-" + c)
		if err != nil {
			return err
		}
		begin := time.Now()
		if n, err := s.W.Signal("solo-"+c, syscall.SIGKILL); err != nil || n != 1 {
			return fmt.Errorf("killed %d of solo-%s: %v", n, c, err)
		}
		if err := s.back(ctx, c, old...); err != nil {
			return fmt.Errorf("after killing %s: %w", c, err)
		}
		took := time.Since(begin)
		after, err := s.instances(ctx)
		if err != nil {
			return err
		}
		if len(after) != len(before) {
			return fmt.Errorf("after killing %s: instances %v, before %v", c, after, before)
		}
		s.say("    solo-%-9s killed, everything back after %s", c, round(took))
	}
	return nil
}

// back waits until every process runs once, none of them a killed one, and every operation
// works. The supervisor takes down what comes after a killed component before it starts the
// next one, so a replaced process says that those after it are new, too.
func (s *Story) back(ctx context.Context, what string, killed ...world.Process) error {
	one := []string{"solo-kernel", "solo-audit", "solo-capmgr", "solo-registry", "solo-resmon", "solo-deployer", "solo-gateway", "solo-keeper"}
	err := world.Until(ctx, "every process of Solo runs", func() (bool, error) {
		for _, name := range one {
			ps, err := s.W.Named(name)
			if err != nil || len(ps) != 1 {
				return false, err
			}
			if slices.ContainsFunc(killed, func(p world.Process) bool { return p.PID == ps[0].PID }) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	n, err := s.value(ctx)
	if err != nil {
		return err
	}
	if n != s.acked {
		return fmt.Errorf("the counter is %d, want %d", n, s.acked)
	}
	if err := s.add(ctx, 1); err != nil {
		return err
	}
	return world.Until(ctx, "status, describe and refusals work", func() (bool, error) {
		for _, name := range []string{"alice/counter", "alice/wordcount", "alice/echo"} {
			st, err := s.as.Status(ctx, &solov1.StatusRequest{Service: name})
			if err != nil {
				return false, pass(err)
			}
			if st.Service.State != solov1.ServiceState_SERVICE_STATE_RUNNING {
				return false, nil
			}
		}
		d, err := s.as.DescribeCapability(ctx, &solov1.DescribeCapabilityRequest{Id: s.bobID})
		if err != nil {
			return false, pass(err)
		}
		if d.Capability.Live {
			return false, errors.New("bob is alive again")
		}
		e, err := s.ask(ctx, "alice/echo", "echo", what)
		if err != nil {
			return false, pass(err)
		}
		if !strings.Contains(e.Text, what) {
			return false, fmt.Errorf("echo answered %q", e.Text)
		}
		return true, nil
	})
}

// pass is nil for errors that waiting cures.
func pass(err error) error {
	if gone(err) {
		return nil
	}
	return err
}

// instances lists the ids of all instances.
func (s *Story) instances(ctx context.Context) (ids []string, err error) {
	var l *solov1.ListResponse
	err = world.Until(ctx, "services are listed", func() (ok bool, err error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if l, err = s.as.List(ctx, &solov1.ListRequest{Namespace: "alice"}); err != nil {
			return false, pass(err)
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	for _, v := range l.Services {
		for _, i := range v.Instances {
			ids = append(ids, v.Name+"/"+i.Id)
		}
	}
	return ids, nil
}

func (s *Story) killEverything(ctx context.Context) error {
	n, err := s.W.KillAll(ctx)
	if err != nil {
		return err
	}
	took, err := s.W.Start(ctx)
	if err != nil {
		return err
	}
	seed, err := world.Handle(s.alice)
	if err != nil {
		return err
	}
	if err := s.as.Close(); err != nil {
		return err
	}
	if s.as, err = s.W.Client(seed); err != nil {
		return err
	}
	if err := s.back(ctx, "everything"); err != nil {
		return err
	}
	s.say("    %d processes killed; ready again after %s, with services, capabilities, revocations and state", n, round(took))
	return nil
}
