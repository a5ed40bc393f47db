package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/encoding/protodelim"

	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

const (
	// bootTimeout bounds the way from a boot message to a served socket.
	bootTimeout = 15 * time.Second
	// maxLog is the size at which a helper's log file is put aside at the next start.
	maxLog = 16 << 20
	// maxSocket is what the address of a Unix socket can hold.
	maxSocket = 107
)

// child is a process that was started and has not yet been told who it is.
type child struct {
	rec   record
	stdin io.WriteCloser
	dead  chan struct{} // closed once it has ended and was collected
}

// spawn starts a helper's executable in a session of its own, so that neither a terminal nor the
// death of this process reaches it. It waits for its boot message.
func (n *Node) spawn(kind string) (*child, error) {
	exe := filepath.Join(n.o.BinDir, "solo-"+kind)
	log, err := n.openLog(kind)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(exe)
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.o.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s cannot be started: %w", exe, err)
	}
	c := &child{rec: record{Kind: kind, PID: cmd.Process.Pid}, stdin: in, dead: make(chan struct{})}
	c.rec.Start, err = startTime(c.rec.PID)
	n.reap.Add(1)
	go func() {
		defer n.reap.Done()
		werr := cmd.Wait()
		n.o.Log.Debug("a helper has ended", "kind", kind, "pid", c.rec.PID, "how", fmt.Sprint(werr))
		close(c.dead)
	}()
	if err != nil {
		_ = in.Close()
		return nil, fmt.Errorf("%s ended at once: %w", exe, err)
	}
	return c, nil
}

func (n *Node) openLog(kind string) (*os.File, error) {
	path := filepath.Join(n.o.Dir, "log", kind+".log")
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		_ = os.Rename(path, path+".1") // else it goes on growing until the next start
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// boot gives a child its identity, which the fence admits first, and waits for its socket.
func (n *Node) boot(ctx context.Context, c *child, namespace string) (err error) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	defer kp.Wipe()
	seed, err := kp.Seed()
	if err != nil {
		return err
	}
	if c.rec.ID, err = kp.PublicKey(); err != nil {
		return err
	}
	c.rec.Namespace = namespace
	c.rec.Socket = n.keeperSocket() // runners find every next keeper under the same name
	if c.rec.Kind == kindRunner {
		c.rec.Socket = filepath.Join(n.run, "r-"+strings.ToLower(rand.Text()[:8])+".sock")
	}
	if len(c.rec.Socket) > maxSocket {
		return fmt.Errorf("the socket path %s is longer than %d bytes: use a shorter SOLO_HOME", c.rec.Socket, maxSocket)
	}
	if err := n.o.Fence.Admit(ctx, c.rec.ID, c.rec.Kind, namespace); err != nil {
		return fmt.Errorf("the fence does not admit a %s: %w", c.rec.Kind, err)
	}
	b := &nodev1.RunnerBoot{
		NatsAddr: n.o.NatsAddr, Node: n.o.Name, Namespace: namespace, Seed: string(seed), Socket: c.rec.Socket, KernelId: n.o.KernelID,
	}
	switch c.rec.Kind {
	case kindKeeper:
		b.CacheDir = filepath.Join(n.o.Dir, "state")
	default:
		b.CacheDir, b.WorkDir, b.KeeperSocket = n.CacheDir(), filepath.Join(n.o.Dir, "work", namespace), n.keeperSocket()
		if err := os.MkdirAll(b.WorkDir, 0o700); err != nil {
			return err
		}
	}
	if err := c.rec.save(n.run); err != nil {
		return err
	}
	_, err = protodelim.MarshalTo(c.stdin, b)
	if err = errors.Join(err, c.stdin.Close()); err != nil {
		return fmt.Errorf("the boot message did not reach the %s: %w", c.rec.Kind, err)
	}
	return awaitSocket(ctx, c)
}

func awaitSocket(ctx context.Context, c *child) error {
	ctx, cancel := context.WithTimeout(ctx, bootTimeout)
	defer cancel()
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for {
		if s, err := net.Dial("unix", c.rec.Socket); err == nil {
			return s.Close()
		}
		select {
		case <-c.dead:
			return fmt.Errorf("the %s ended while it started; its log has the reason", c.rec.Kind)
		case <-ctx.Done():
			return fmt.Errorf("the %s serves no socket: %w", c.rec.Kind, ctx.Err())
		case <-t.C:
		}
	}
}

// discard ends a child that is of no use.
func (n *Node) discard(c *child) {
	_ = c.stdin.Close()
	_ = c.rec.signal(syscall.SIGKILL) // ended already is as well
	<-c.dead
	n.dismiss(c.rec)
}

// dismiss takes a dead helper's identity away and removes its traces.
func (n *Node) dismiss(r record) {
	r.forget(n.run)
	if r.ID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := n.o.Fence.Dismiss(ctx, r.ID); err != nil {
		n.o.Log.Warn("the identity of a dead helper could not be taken away", "kind", r.Kind, "pid", r.PID, "error", err)
	}
}
