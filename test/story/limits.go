package story

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func (s *Story) limits(ctx context.Context) error {
	dir, err := s.unpack()
	if err != nil {
		return err
	}
	if _, err := s.solo(ctx, s.alice, "deploy", "-f", filepath.Join(dir, "manifest.yaml")); err != nil {
		return err
	}
	for _, c := range []struct{ op, reason string }{{"spin", fault.ReasonDeadlineExceeded}, {"eat", fault.ReasonMemoryLimit}} {
		begin := time.Now()
		var others []time.Duration
		done, stop := make(chan error, 1), make(chan struct{})
		go func() {
			_, err := s.as.Call(ctx, &solov1.CallRequest{Service: "alice/hog", Op: c.op})
			done <- err
		}()
		var wg sync.WaitGroup
		var oerr error
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				b := time.Now()
				if _, err := s.as.Call(ctx, &solov1.CallRequest{Service: "alice/counter", Op: "get"}); err != nil {
					oerr = err
					return
				}
				others = append(others, time.Since(b))
			}
		})
		err := <-done
		took := time.Since(begin)
		close(stop)
		wg.Wait()
		if oerr != nil {
			return fmt.Errorf("a neighbour failed during %s: %w", c.op, oerr)
		}
		if len(others) == 0 {
			return fmt.Errorf("no neighbour answered during %s", c.op)
		}
		if err := wantFault(err, c.reason, "alice/hog "+c.op); err != nil {
			return err
		}
		slices.Sort(others)
		s.say("    %-4s stopped after %s with %s; a neighbour answered %d calls meanwhile, p99 %s", c.op, round(took), c.reason, len(others), round(others[len(others)*99/100]))
		var r *solov1.CallResponse
		for ctx.Err() == nil {
			if r, err = s.as.Call(ctx, &solov1.CallRequest{Service: "alice/hog", Op: "ok"}); err == nil || !gone(err) {
				break
			}
		}
		if err != nil || r.Text != "ok" {
			return fmt.Errorf("a fresh instance answers %v, %w", r, err)
		}
	}
	return nil
}

func (s *Story) trail(ctx context.Context) error {
	out, err := s.solo(ctx, "", "audit", "tail", "-o", "json")
	if err != nil {
		return err
	}
	lines := strings.Split(out, "\n")
	for _, want := range [][]string{
		{`"deploy"`, `"intent"`, "svc:alice/counter"},
		{`"deploy"`, `"outcome"`, "svc:alice/counter", `"done"`},
		{`"grant"`, `"outcome"`},
		{`"revoke"`, `"intent"`, s.bobID},
		{`"revoke"`, `"outcome"`, s.bobID, `"done"`},
		{`"denied"`, s.bobID},
	} {
		if !slices.ContainsFunc(lines, func(l string) bool {
			return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(l, w) })
		}) {
			return fmt.Errorf("no audit record has all of %v among %d", want, len(lines))
		}
	}
	s.say("    %d records; the last ones:", len(lines))
	tail, err := s.solo(ctx, "", "audit", "tail")
	if err != nil {
		return err
	}
	ls := strings.Split(tail, "\n")
	for _, l := range ls[max(0, len(ls)-6):] {
		s.say("      %s", l)
	}
	return nil
}

// End shuts Solo down gracefully and checks that nothing is left.
func (s *Story) End(ctx context.Context) error {
	s.say("\n[%d] graceful shutdown", len(s.Steps())+1)
	begin := time.Now()
	if s.as != nil {
		if err := s.as.Close(); err != nil {
			return err
		}
	}
	if _, err := s.solo(ctx, "", "shutdown"); err != nil {
		return err
	}
	if err := s.W.Wait(ctx); err != nil {
		return err
	}
	if err := s.W.Gone(ctx); err != nil {
		return err
	}
	if len(s.W.Addr) == 0 {
		return errors.New("it never ran")
	}
	s.say("    no process left after %s", round(time.Since(begin)))
	return nil
}
