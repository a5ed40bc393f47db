package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/world"
	"google.golang.org/protobuf/types/known/durationpb"
)

// The crowd beside which grants and revocations are measured: so many capabilities are live, and so many
// of them have a connection.
const (
	crowdCapabilities = 10_000
	crowdConnections  = 1_000
	crowdAtOnce       = 32
)

// crowd measures grants and revocations beside 10,000 live capabilities with 1,000 live connections, and
// the revocation of all of them together.
func (b *Bench) crowd(ctx context.Context) error {
	top, err := b.root.GrantCapability(ctx, &solov1.GrantCapabilityRequest{Rules: []string{"svc:bench/*=*"}, Ttl: durationpb.New(2 * time.Hour), Depth: 2, Label: "crowd"})
	if err != nil {
		return err
	}
	c, err := b.W.Client(top.Handle)
	if err != nil {
		return err
	}
	defer c.Close()
	live := make([]*world.Raw, crowdConnections)
	defer func() {
		for _, r := range live {
			if r != nil {
				r.Close()
			}
		}
	}()
	if err := parallel(crowdCapabilities, func(i int) error {
		g, err := c.GrantCapability(ctx, &solov1.GrantCapabilityRequest{Rules: []string{"svc:bench/words=call:count"}, Ttl: durationpb.New(time.Hour)})
		if err == nil && i < crowdConnections {
			live[i], err = b.W.Raw(ctx, g.Handle)
		}
		return err
	}); err != nil {
		return err
	}
	var grants, revocations []time.Duration
	for range 200 {
		begin := time.Now()
		g, err := b.root.GrantCapability(ctx, &solov1.GrantCapabilityRequest{Rules: []string{"svc:bench/words=call:count"}, Ttl: durationpb.New(time.Hour)})
		if err != nil {
			return err
		}
		grants = append(grants, time.Since(begin))
		raw, err := b.W.Raw(ctx, g.Handle)
		if err != nil {
			return err
		}
		begin = time.Now()
		r, err := b.root.RevokeCapability(ctx, &solov1.RevokeCapabilityRequest{Id: g.Capability.Id})
		if err != nil {
			return err
		}
		revocations = append(revocations, time.Since(begin))
		if r.ConnectionsCut != 1 {
			return fmt.Errorf("%d connections cut", r.ConnectionsCut)
		}
		raw.Close()
	}
	beside := fmt.Sprintf(", beside %d live ones with %d connections", crowdCapabilities, crowdConnections)
	b.Report.Add("grant"+beside, grants, 0, "", "p50 <= 5 ms")
	b.Report.Add("revoke"+beside, revocations, 0, "", "p99 <= 50 ms")
	begin := time.Now()
	r, err := b.root.RevokeCapability(ctx, &solov1.RevokeCapabilityRequest{Id: top.Capability.Id})
	if err != nil {
		return err
	}
	b.Report.Note(fmt.Sprintf("revoke a tree of %d, %d connections cut", r.RevokedCount, r.ConnectionsCut), short(time.Since(begin)), "")
	if r.RevokedCount <= crowdCapabilities || r.ConnectionsCut < crowdConnections {
		return errors.New("not all of the crowd was revoked")
	}
	return nil
}

// parallel runs f for 0 to n-1, a few at a time, and returns what went wrong first.
func parallel(n int, f func(i int) error) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	next, failed := 0, error(nil)
	for range crowdAtOnce {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := failed != nil || i >= n
				mu.Unlock()
				if stop {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	return failed
}
