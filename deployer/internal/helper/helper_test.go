package helper_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/deployer/internal/helper"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
)

func TestReadBoot(t *testing.T) {
	var b bytes.Buffer
	if _, err := protodelim.MarshalTo(&b, &nodev1.RunnerBoot{Socket: "s", Node: "n", Namespace: "acme"}); err != nil {
		t.Fatal(err)
	}
	boot, err := helper.ReadBoot(&b)
	if err != nil || boot.GetNamespace() != "acme" {
		t.Errorf("got %v, %v", boot, err)
	}
	if _, err := helper.ReadBoot(strings.NewReader("")); err == nil {
		t.Error("nothing was taken for an identity")
	}
	if _, err := protodelim.MarshalTo(&b, &nodev1.RunnerBoot{}); err != nil {
		t.Fatal(err)
	}
	if _, err := helper.ReadBoot(&b); err == nil {
		t.Error("an empty identity was taken")
	}
}

func TestDeployersAreFencedByEpoch(t *testing.T) {
	d := helper.NewDeployers(time.Hour)
	first, detachFirst, err := d.Attach(t.Context(), 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Check(4); !fault.Is(err, fault.ReasonEpochFenced) {
		t.Errorf("an older one: %v", err)
	}
	if _, _, err := d.Attach(t.Context(), 4); !fault.Is(err, fault.ReasonEpochFenced) {
		t.Errorf("an older one: %v", err)
	}
	second, detachSecond, err := d.Attach(t.Context(), 6)
	if err != nil {
		t.Fatal(err)
	}
	<-first.Done()
	if err := d.Check(5); !fault.Is(err, fault.ReasonEpochFenced) {
		t.Errorf("the first, after the second: %v", err)
	}
	detachFirst() // too late to mean anything
	if second.Err() != nil {
		t.Error("the second ended with the first")
	}
	detachSecond()
	detachSecond()
	if second.Err() == nil {
		t.Error("detached and not ended")
	}
	if err := d.Check(6); err != nil {
		t.Errorf("the epoch is obeyed while it is away: %v", err)
	}
}

func TestDeployersGone(t *testing.T) {
	d := helper.NewDeployers(time.Millisecond)
	<-d.Gone()
	if _, _, err := d.Attach(t.Context(), 1); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("attached to one that ends: %v", err)
	}
	d = helper.NewDeployers(50 * time.Millisecond)
	_, detach, err := d.Attach(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	detach()
	<-d.Gone()
}

func TestServe(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	registered := make(chan struct{})
	go func() { done <- helper.Serve(ctx, socket, func(*grpc.Server) { close(registered) }) }()
	<-registered
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := helper.Serve(t.Context(), filepath.Join(socket, "x", "y"), nil); err == nil {
		t.Error("served where nothing can be")
	}
}

// TestLink connects, is moved to another bus, and makes each connection useful before it shows it.
func TestLink(t *testing.T) {
	one, two := bustest.Start(t), bustest.Start(t)
	h := one.Grant(t, "svc:a/b=call:c")
	two.Root = h
	two.Grant(t, "svc:a/b=call:c")
	log := slog.New(slog.DiscardHandler)
	var ups atomic.Int32
	l := helper.NewLink(conn.Options{Addr: one.Addr, Seed: h.Seed}, log, func(_ context.Context, _ *nats.Conn, id string) error {
		if id != h.ID {
			t.Errorf("connected as %s", id)
		}
		if ups.Add(1) == 1 {
			return errors.New("not useful yet")
		}
		return nil
	})
	defer l.Close()
	nc, id, err := l.Wait(t.Context())
	if err != nil || id != h.ID || ups.Load() != 2 {
		t.Fatalf("%v, %s, after %d tries", err, id, ups.Load())
	}
	if shown, _ := l.Conn(); shown != nc {
		t.Error("another connection is shown")
	}
	l.Move(one.Addr)
	l.Move("")
	if nc.IsClosed() {
		t.Error("moved to where it was, it closed")
	}
	closed := nc.StatusChanged(nats.CLOSED)
	l.Move(two.Addr)
	<-closed
	moved, _, err := l.Wait(t.Context())
	if err != nil || moved.ConnectedAddr() != two.Addr {
		t.Errorf("at %s, %v", moved.ConnectedAddr(), err)
	}
}

func TestLinkSaysWhyItDoesNotConnect(t *testing.T) {
	w := bustest.Start(t)
	l := helper.NewLink(conn.Options{Addr: w.Addr, Seed: bustest.NewHandle(t).Seed}, slog.New(slog.DiscardHandler), nil)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := l.Wait(ctx); err == nil {
		t.Error("a stranger was let in")
	}
	if nc, _ := l.Conn(); nc != nil {
		t.Error("a connection is shown")
	}
}
