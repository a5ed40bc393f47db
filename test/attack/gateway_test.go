package attack

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/solo-os/solo/bus/check"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// gateways are attacks by way of the gateway.
func gateways() []attack {
	return []attack{
		{name: "mixed-up handles", has: "its handle among many in use at once", tries: "to be taken for another", off: check.HolderKey, run: mixing},
		{name: "several handles in one call", has: "metadata of its own making", tries: "to have a second value taken", off: check.OneHandle, run: smuggling},
	}
}

// mixing has many holders call at once. Each calls the one service that it may, and asks who
// it is; the effect is any answer meant for another.
func mixing(ctx context.Context, s *scene) (bool, error) {
	of, err := s.service(ctx, "")
	if err != nil {
		return false, err
	}
	var wg sync.WaitGroup
	var observed atomic.Bool
	errs := make(chan error, 16)
	for i := range 8 {
		h, err := s.grant(ctx, s.root, 0, "svc:"+of.String()+"=call:echo", fmt.Sprintf("svc:own%d/*=status", i))
		if err != nil {
			return false, err
		}
		defer h.Close()
		for range 2 {
			wg.Go(func() {
				for n := range 20 {
					d, err := h.DescribeCapability(ctx, &solov1.DescribeCapabilityRequest{})
					if err == nil && d.GetCapability().GetId() != h.id {
						observed.Store(true) // it is somebody else who asks
						return
					}
					own := h.id + strconv.Itoa(n)
					out := own
					if err == nil && n < 5 {
						out, err = h.call(ctx, of, "echo", own)
					}
					if err != nil {
						errs <- err
						return
					}
					if out != own {
						observed.Store(true)
					}
				}
			})
		}
	}
	wg.Wait()
	close(errs)
	if observed.Load() {
		return true, nil
	}
	return false, <-errs
}

// smuggling presents handles in every way but the one.
func smuggling(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	conn, err := grpc.NewClient(s.Addr["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	c := solov1.NewSoloKernelClient(conn)
	ask := func(pairs ...string) error {
		_, err := c.DescribeCapability(metadata.AppendToOutgoingContext(ctx, pairs...), &solov1.DescribeCapabilityRequest{})
		return err
	}
	mine, theirs := "Bearer "+t.attacker.seed, "Bearer "+t.victim.seed
	if err := ask("Authorization", "bearer "+t.attacker.seed); err != nil {
		return false, fmt.Errorf("its own handle: %w", err)
	}
	for _, pairs := range [][]string{
		{"authorization", mine, "authorization", theirs},
		{"authorization", mine, "AUTHORIZATION", mine},
		{"authorization", mine + ", " + theirs},
		{"authorization", mine + " " + theirs},
		{"authorization", t.attacker.seed},
		{"authorization", "Bearer  " + t.attacker.seed},
		{"authorization", "Basic " + t.attacker.seed},
		{"authorization-bin", mine},
		{"proxy-authorization", mine},
		{"x-authorization", mine},
		{"authorization", "Bearer " + t.attacker.id},
		{"authorization", ""},
		{},
	} {
		switch err := ask(pairs...); status.Code(err) {
		case codes.OK:
			return true, nil
		case codes.Unauthenticated:
		default:
			return false, fmt.Errorf("%q: %w", pairs, err)
		}
	}
	// A line end, and a name that gRPC keeps for itself, never leave a client, nor reach a header.
	for _, v := range []string{"00-x\r\nNats-Rollup: all", "00-\n"} {
		if err := ask("authorization", mine, "traceparent", v); status.Code(err) != codes.Internal {
			return false, fmt.Errorf("%q: %w", v, err)
		}
	}
	return false, ask("authorization", mine, "grpc-authorization", theirs, "solo-timeout", "1", "nats-rollup", "all")
}
