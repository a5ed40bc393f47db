package bench

import (
	"context"
	"errors"
	"os/exec"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Baseline is what the same machine does without Solo.
type Baseline struct {
	// Request is a round trip between two connections of a plain server, Connect a connection
	// to it, Exec the start and end of a small static program.
	Request, Connect, Exec time.Duration
}

// Measure takes the baselines; program is a static executable that ends at once with args.
func Measure(ctx context.Context, program string, args ...string) (b Baseline, err error) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		return b, err
	}
	go s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(10 * time.Second) {
		return b, errors.New("the plain server did not start")
	}
	answering, err := nats.Connect(s.ClientURL())
	if err != nil {
		return b, err
	}
	defer answering.Close()
	if _, err := answering.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		return b, err
	}
	if err := answering.Flush(); err != nil {
		return b, err
	}
	asking, err := nats.Connect(s.ClientURL())
	if err != nil {
		return b, err
	}
	defer asking.Close()
	request, err := Repeat(ctx, 3000, func(ctx context.Context) error {
		_, err := asking.RequestWithContext(ctx, "echo", []byte("hello"))
		return err
	})
	if err != nil {
		return b, err
	}
	connect, err := Repeat(ctx, 200, func(context.Context) error {
		nc, err := nats.Connect(s.ClientURL())
		if err == nil {
			nc.Close()
		}
		return err
	})
	if err != nil {
		return b, err
	}
	start, err := Repeat(ctx, 50, func(ctx context.Context) error { return exec.CommandContext(ctx, program, args...).Run() })
	if err != nil {
		return b, err
	}
	return Baseline{Quantile(request, 0.5), Quantile(connect, 0.5), Quantile(start, 0.5)}, nil
}

// Repeat measures n runs of f, after a tenth as many that do not count.
func Repeat(ctx context.Context, n int, f func(context.Context) error) ([]time.Duration, error) {
	out := make([]time.Duration, 0, n)
	for i := range n + n/10 {
		begin := time.Now()
		if err := f(ctx); err != nil {
			return nil, err
		}
		if i >= n/10 {
			out = append(out, time.Since(begin))
		}
	}
	return out, nil
}
