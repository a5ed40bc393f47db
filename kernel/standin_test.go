package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/bus/daemon"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The test binary is also the kernel and every component, by the name it is started under:
// stand-ins that speak the real protocol and do nothing else.
func TestMain(m *testing.M) {
	name := filepath.Base(os.Args[0])
	component, ok := strings.CutPrefix(name, "solo-")
	switch {
	case !ok:
		os.Exit(m.Run())
	case component == subject.Kernel:
		os.Exit(Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(daemon.Main(context.Background(), daemon.Command{Component: component, Summary: "a stand-in", Run: standIn}, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Files in the home by which a test directs a stand-in.
const (
	holdFile     = "hold-"     // while it is there, the component does not get ready
	stubbornFile = "stubborn-" // the component takes no notice of being told to end
	drainedFile  = "drained-"  // written by a component that was told to drain
)

func standIn(ctx context.Context, p *daemon.Process) error {
	name, home := p.Boot.GetComponent(), p.Boot.GetHome()
	if _, err := os.Stat(filepath.Join(home, stubbornFile+name)); err == nil {
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
		ctx = context.WithoutCancel(ctx)
	}
	for {
		if _, err := os.Stat(filepath.Join(home, holdFile+name)); errors.Is(err, os.ErrNotExist) {
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(5 * time.Millisecond):
		}
	}
	addresses := map[string]string{}
	switch name {
	case subject.Capmgr:
		if err := root(ctx, p); err != nil {
			return err
		}
	case subject.Gateway:
		addresses["grpc"] = "127.0.0.1:1"
	case subject.Resmon:
		addresses["metrics"] = "127.0.0.1:2"
	}
	if err := os.WriteFile(filepath.Join(home, "pid-"+name), fmt.Appendf(nil, "%d %s", os.Getpid(), p.Peer.ID), 0o600); err != nil {
		return err
	}
	if err := p.Ready(ctx, addresses); err != nil {
		return err
	}
	<-ctx.Done()
	if p.Draining() {
		return os.WriteFile(filepath.Join(home, drainedFile+name), nil, 0o600)
	}
	return nil
}

// root makes the first record of the chain, once, as the capability manager does.
func root(ctx context.Context, p *daemon.Process) error {
	if p.Table.Sequence() > 0 {
		return nil
	}
	key, err := nkeys.FromSeed([]byte(p.Boot.GetChainSeed()))
	if err != nil {
		return err
	}
	ev := &kernelv1.CapEvent{Time: timestamppb.Now(), Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{
		Id: p.Boot.GetRootId(), Rules: []string{"kernel=*", "svc:*/*=*"}, Depth: 16, Kind: kernelv1.CapKind_CAP_KIND_HOLDER,
	}}}
	rec, link, err := caps.Link{}.Seal(key, ev)
	if err != nil {
		return err
	}
	if _, err := p.JS.Publish(ctx, subject.Caps, rec); err != nil {
		return err
	}
	if err := caps.SaveHead(filepath.Join(p.Boot.GetHome(), "caps.head"), key, link); err != nil {
		return err
	}
	return p.Fence(ctx, subject.FenceApply, &kernelv1.FenceApplyRequest{Events: []*kernelv1.CapEvent{ev}}, &kernelv1.FenceApplyResponse{})
}
