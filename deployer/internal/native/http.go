package native

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/instance"
	"github.com/solo-os/solo/deployer/internal/logline"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/sdk/guest/abi"
)

// Headers of a call to an http service.
const (
	// HeaderCaller is the capability id behind the call.
	HeaderCaller = "Solo-Caller"
	// HeaderTimeout is how long the caller still waits, in milliseconds.
	HeaderTimeout = "Solo-Timeout"
)

// maxSocketPath is the longest Unix socket path that everything accepts.
const maxSocketPath = 100

// HTTP is an instance that serves HTTP on a Unix socket. Calls run concurrently.
type HTTP struct {
	proc   *process
	cfg    Config
	client *http.Client
	dir    string // of the socket, where it is not in the working directory
	done   chan struct{}
	once   sync.Once
	crash  *instance.Crash // set before done is closed
}

// StartHTTP starts the executable and returns once its socket accepts, or why it does not within ctx.
func (h *Host) StartHTTP(ctx context.Context, cfg Config) (*HTTP, error) {
	if err := prepare(cfg); err != nil {
		return nil, err
	}
	in := &HTTP{cfg: cfg, done: make(chan struct{})}
	socket := filepath.Join(cfg.Dir, "s")
	if len(socket) > maxSocketPath {
		dir, err := os.MkdirTemp("", "solo-")
		if err != nil {
			return nil, err
		}
		in.dir, socket = dir, filepath.Join(dir, "s")
	}
	in.client = &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
			MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	proc, err := h.run(exec.Command(cfg.Path, cfg.Args...), cfg, socket)
	if err != nil {
		in.remove()
		return nil, err
	}
	in.proc = proc
	if err := in.accepts(ctx, socket); err != nil {
		proc.end(0)
		in.remove()
		return nil, err
	}
	if !h.own(in.follow) {
		in.follow() // Close has killed it
	}
	return in, nil
}

// accepts waits until the socket takes a connection.
func (in *HTTP) accepts(ctx context.Context, socket string) error {
	for wait := time.Millisecond; ; wait = min(wait*3/2, 50*time.Millisecond) {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return c.Close()
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			continue
		case <-in.proc.done:
			t.Stop()
			c := in.proc.crashed()
			return fault.New(codes.FailedPrecondition, fault.ReasonStartFailed,
				"the process ended before it served its socket: %s", c.Message).Because(c).
				Next("serve HTTP/1.1 on the Unix socket named by SOLO_LISTEN")
		case <-ctx.Done():
			t.Stop()
			return fault.New(codes.DeadlineExceeded, fault.ReasonStartFailed,
				"the process did not serve the Unix socket named by SOLO_LISTEN in time").
				Because(&instance.Crash{Kind: "deadline", Message: "not ready in time", Trace: in.proc.tail.String()})
		}
	}
}

// follow marks the instance dead when the process has ended.
func (in *HTTP) follow() {
	<-in.proc.done
	in.crash = in.proc.crashed()
	in.client.CloseIdleConnections()
	in.remove()
	close(in.done)
}

func (in *HTTP) remove() {
	in.once.Do(func() {
		cleanup(in.cfg)
		if in.dir != "" {
			_ = os.RemoveAll(in.dir) // it holds nothing but the socket
		}
	})
}

// crashed tells how a process that has been waited for ended.
func (p *process) crashed() *instance.Crash {
	p.mu.Lock()
	over, killed, rss := p.over, p.killed, p.rss
	p.mu.Unlock()
	c := &instance.Crash{Kind: "exit", MemoryBytes: rss, Trace: p.tail.String(), Message: "the process exited with status 0"}
	exit, ok := errors.AsType[*exec.ExitError](p.err)
	switch {
	case over:
		c.Kind, c.Message = "memory", "the process held "+strconv.FormatUint(rss, 10)+" bytes, above its limit of "+strconv.FormatUint(p.limit, 10)
	case killed:
		c.Kind, c.Message = "killed", "the process was told to end"
	case ok:
		c.Message = "the process ended: " + exit.Error()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			c.Kind = "killed"
		}
	case p.err != nil && !errors.Is(p.err, exec.ErrWaitDelay):
		c.Message = "the process ended: " + p.err.Error()
	}
	return c
}

// Call posts one message.
func (in *HTTP) Call(ctx context.Context, r instance.Request) ([]byte, error) {
	if r.Kind != abi.KindCall {
		return nil, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "a native process saves and restores nothing on request")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://service/"+r.Op, bytes.NewReader(r.Payload))
	if err != nil {
		return nil, fault.Invalid("op", "%q cannot stand in a path", r.Op)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set(HeaderCaller, r.Caller)
	if d, ok := ctx.Deadline(); ok {
		req.Header.Set(HeaderTimeout, strconv.FormatInt(max(1, time.Until(d).Milliseconds()), 10))
	}
	resp, err := in.client.Do(req)
	if err != nil {
		return nil, in.failed(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, abi.MaxPayload+1))
	if err != nil {
		return nil, in.failed(ctx, err)
	}
	if len(body) > abi.MaxPayload {
		return nil, fault.New(codes.OutOfRange, fault.ReasonTooLarge, "the reply has more than %d bytes", abi.MaxPayload)
	}
	if resp.StatusCode/100 != 2 {
		text := logline.Clean(string(bytes.TrimSpace(body)))
		if text == "" {
			text = "the service answered " + resp.Status
		}
		return nil, fault.New(codes.Unknown, fault.ReasonServiceError, "%s", text).With("http_status", strconv.Itoa(resp.StatusCode))
	}
	return body, nil
}

// failed says why a call got no answer.
func (in *HTTP) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "the call did not end in time").Because(err)
		}
		// The end of the process may be why the call was stopped, and then it is the reason, unless
		// the process was told to end.
		if c := in.Crash(); c != nil && !in.proc.told() {
			return crashFault(c)
		}
		return fault.New(codes.Unavailable, fault.ReasonUnavailable, "the call was stopped before it ended").Because(err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return fault.Unavailable(0, "the instance has ended").Because(instance.ErrEnded)
	}
	// A broken connection is mostly the process's death, which is known a moment later.
	t := time.NewTimer(100 * time.Millisecond)
	defer t.Stop()
	select {
	case <-in.done:
		return crashFault(in.crash)
	case <-t.C:
	}
	return fault.New(codes.Internal, fault.ReasonServiceError, "the service broke off its answer").Because(err)
}

func crashFault(c *instance.Crash) error {
	if c.Kind == "memory" {
		return fault.New(codes.ResourceExhausted, fault.ReasonMemoryLimit, "%s", c.Message).Final().Because(c).
			Next("raise limits.memory in the manifest")
	}
	return fault.New(codes.Internal, fault.ReasonInstanceCrashed, "%s", c.Message).Because(c)
}

// Usage measures the process and its children.
func (in *HTTP) Usage() instance.Usage {
	st, err := readStat(in.proc.pid)
	if err != nil || st.born != in.proc.born {
		return instance.Usage{}
	}
	return instance.Usage{MemoryBytes: in.proc.memory(), CPU: st.cpu}
}

// Done is closed once the process has ended.
func (in *HTTP) Done() <-chan struct{} { return in.done }

// Crash says how it ended.
func (in *HTTP) Crash() *instance.Crash {
	select {
	case <-in.done:
		return in.crash
	default:
		return nil
	}
}

// Pid is the process.
func (in *HTTP) Pid() int { return in.proc.pid }

// Close ends the process.
func (in *HTTP) Close(grace time.Duration) {
	in.proc.end(grace)
	<-in.done
}

var _ instance.Instance = (*HTTP)(nil)
