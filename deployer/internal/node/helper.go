package node

import (
	"context"
	"errors"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/solo-os/solo/deployer/internal/helper"
)

const (
	// attachTimeout bounds how long a helper may take to answer a deployer that attaches.
	attachTimeout = 5 * time.Second
	// pingEvery and pingTimeout find a helper that is stopped or stuck.
	pingEvery   = 5 * time.Second
	pingTimeout = 5 * time.Second
)

// process is a helper process that has a socket, started by this deployer or adopted.
type process struct {
	n    *Node
	rec  record
	conn *grpc.ClientConn
	// dead is closed when a child of this process was collected; nil for an adopted one.
	dead chan struct{}
}

func (n *Node) process(rec record, dead chan struct{}) (*process, error) {
	conn, err := grpc.NewClient("unix://"+rec.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(helper.MaxMessage), grpc.MaxCallSendMsgSize(helper.MaxMessage)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true}))
	if err != nil {
		return nil, err
	}
	return &process{n: n, rec: rec, conn: conn, dead: dead}, nil
}

// follow keeps a stream to the helper for as long as it lives. open attaches, and receives until the
// stream breaks; it calls attached once the first message has come. follow returns when the helper is
// dead, which a helper that does not answer becomes, or when ctx ends.
func (p *process) follow(ctx context.Context, open func(ctx context.Context, epoch uint64, attached func()) error) {
	defer func() { _ = p.conn.Close() }()
	for ctx.Err() == nil {
		begun := time.Now()
		got, err := p.attach(ctx, open)
		if ctx.Err() != nil {
			return
		}
		if p.gone() {
			p.n.dismiss(p.rec)
			return
		}
		p.n.o.Log.Warn("the stream to a helper broke", "kind", p.rec.Kind, "namespace", p.rec.Namespace, "pid", p.rec.PID, "error", err)
		if !got || status.Code(err) == codes.FailedPrecondition {
			// It is alive, but takes no deployer: nothing can be done with it.
			p.kill()
			return
		}
		if time.Since(begun) < time.Second {
			pause(ctx, 20*time.Millisecond)
		}
	}
}

// attach opens one stream. got tells whether the helper answered at all.
func (p *process) attach(ctx context.Context, open func(ctx context.Context, epoch uint64, attached func()) error) (got bool, err error) {
	epoch, err := p.n.epochs.next()
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(attachTimeout, func() { cancel(errors.New("no answer to the attachment")) })
	defer silent.Stop()
	err = open(ctx, epoch, func() { got = silent.Stop() })
	if cause := context.Cause(ctx); cause != nil && cause != ctx.Err() {
		err = cause
	}
	return got, err
}

// gone tells whether the process has ended; a moment may pass between a closed socket and that.
func (p *process) gone() bool {
	deadline := time.NewTimer(200 * time.Millisecond)
	defer deadline.Stop()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for {
		if p.dead != nil {
			select {
			case <-p.dead:
				return true
			default:
			}
		}
		if !p.rec.alive() {
			return true
		}
		select {
		case <-deadline.C:
			return false
		case <-look.C:
		}
	}
}

// kill ends the process and takes its identity away.
func (p *process) kill() {
	if err := p.rec.signal(syscall.SIGKILL); err == nil {
		p.n.o.Log.Warn("killed a helper", "kind", p.rec.Kind, "namespace", p.rec.Namespace, "pid", p.rec.PID)
	}
	p.n.dismiss(p.rec)
}

// end asks the process to end, and kills it when ctx ends first.
func (p *process) end(ctx context.Context) {
	_ = p.rec.signal(syscall.SIGTERM) // ended already is as well
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for p.rec.alive() {
		select {
		case <-ctx.Done():
			p.kill()
			return
		case <-t.C:
		}
	}
	p.n.dismiss(p.rec)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
