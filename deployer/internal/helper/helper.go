// Package helper is the frame of the deployer's helper processes, the runner and the keeper: their
// identity from an inherited pipe, their Unix socket, and the deployer they obey.
//
// A helper outlives its deployer. It obeys the one with the highest epoch that ever attached, refuses
// older ones, and ends when none has been attached for Grace.
package helper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

// Grace is how long a helper works without a deployer.
const Grace = 30 * time.Second

// MaxMessage bounds a gRPC message between deployer, runner and keeper in bytes.
const MaxMessage = 16 << 20

// ReadBoot reads the boot message from standard input.
func ReadBoot(stdin io.Reader) (*nodev1.RunnerBoot, error) {
	boot := &nodev1.RunnerBoot{}
	if err := protodelim.UnmarshalFrom(bufio.NewReader(stdin), boot); err != nil {
		return nil, fmt.Errorf("no identity on standard input (%w): the deployer starts this process", err)
	}
	if boot.GetSocket() == "" || boot.GetNode() == "" {
		return nil, errors.New("the boot message names no socket or no node")
	}
	return boot, nil
}

// Signals returns a context that ends at SIGTERM or SIGINT, and makes the process survive what its
// deployer's death does to it: a closed standard error, a terminal's hangup, a full file-size limit.
func Signals(ctx context.Context) (context.Context, context.CancelFunc) {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP, syscall.SIGXFSZ)
	return signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
}

// Serve serves gRPC on a Unix socket until ctx ends, and then stops at once: whoever waits for an
// answer learns that there is none. A socket file left by a dead process is replaced.
func Serve(ctx context.Context, socket string, register func(*grpc.Server)) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("socket %s: %w", socket, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(err, l.Close())
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(MaxMessage), grpc.MaxSendMsgSize(MaxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	register(s)
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		s.Stop()
	})
	err = s.Serve(l)
	if ctx.Err() != nil {
		wg.Wait()
		return nil
	}
	return err
}

// Deployers fences deployers by epoch and counts the time without one.
type Deployers struct {
	grace time.Duration
	gone  chan struct{}

	mu     sync.Mutex // guards what follows
	epoch  uint64
	cancel context.CancelFunc // ends the attached stream; nil without one
	turn   uint64
	timer  *time.Timer
}

// NewDeployers begins without a deployer, and with the time without one running.
func NewDeployers(grace time.Duration) *Deployers {
	d := &Deployers{grace: grace, gone: make(chan struct{})}
	d.timer = time.AfterFunc(grace, func() { close(d.gone) })
	return d
}

// Gone is closed once there has been no deployer for the grace period; nothing can attach any more.
func (d *Deployers) Gone() <-chan struct{} { return d.gone }

// Watch calls end when there has been no deployer for the grace period, and returns when it has or ctx
// ends.
func (d *Deployers) Watch(ctx context.Context, log *slog.Logger, end func()) {
	select {
	case <-d.gone:
		log.Warn("no deployer; ending", "grace", d.grace)
		end()
	case <-ctx.Done():
	}
}

// Attach makes the stream of ctx the deployer of an epoch; any other is ended. The context returned
// ends with the stream or when another takes over. Call detach when the stream ends.
func (d *Deployers) Attach(ctx context.Context, epoch uint64) (attached context.Context, detach func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.check(epoch); err != nil {
		return nil, nil, err
	}
	if d.cancel == nil && !d.timer.Stop() {
		return nil, nil, fault.Unavailable(0, "this process is ending: it had no deployer for %s", d.grace)
	}
	if d.cancel != nil {
		d.cancel()
	}
	d.epoch = epoch
	d.turn++
	turn := d.turn
	attached, d.cancel = context.WithCancel(ctx)
	return attached, func() { d.detach(turn) }, nil
}

func (d *Deployers) detach(turn uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.turn != turn || d.cancel == nil {
		return
	}
	d.cancel()
	d.cancel = nil
	d.timer.Reset(d.grace)
}

// Check refuses the request of a deployer older than the one obeyed.
func (d *Deployers) Check(epoch uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.check(epoch)
}

func (d *Deployers) check(epoch uint64) error {
	if epoch < d.epoch {
		return fault.New(codes.FailedPrecondition, fault.ReasonEpochFenced,
			"a newer deployer (epoch %d) has taken over from epoch %d", d.epoch, epoch)
	}
	return nil
}
