package fence_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/fence"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/rpc"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

// A change holds at every gate when Apply returns.
func TestGatesKnowBeforeTheAnswer(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	p, q := w.Process(t, subject.Registry), w.Process(t, subject.Gateway)
	if d := p.Table.Live(alice.ID); d != gate.Allowed {
		t.Fatalf("a gate that joined says %s", d)
	}
	bob := w.Grant(t, "svc:bob/*=*")
	change := w.Revoke(t, alice.ID)
	for _, x := range []*gate.Table{p.Table, q.Table} {
		if x.Live(bob.ID) != gate.Allowed || x.Live(alice.ID) != gate.Revoked || !x.Leased() {
			t.Errorf("a gate says %s and %s, leased %t", x.Live(bob.ID), x.Live(alice.ID), x.Leased())
		}
	}
	if change.Gates < 2 || change.GatesCut != 0 {
		t.Errorf("change %+v", change)
	}
	if got := q.Table.Component(p.Peer.ID); got != subject.Registry {
		t.Errorf("a gate takes the registry for %q", got)
	}
}

// A gate that does not acknowledge is cut off, and the answer waits until it can act no more.
func TestSilentGateIsCutOff(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	c, id := component(t, w, subject.Registry)
	if _, err := c.SubscribeSync(subject.GatePush(id)); err != nil {
		t.Fatal(err)
	}
	if err := c.settle(); err != nil {
		t.Fatal(err)
	}
	lease := join(t, c, id, os.Getpid())
	change := w.Revoke(t, alice.ID)
	if change.GatesCut != 1 {
		t.Errorf("change %+v", change)
	}
	if gate.Boottime() < lease {
		t.Error("the answer came while the gate's lease still ran")
	}
	eventually(t, "the gate is disconnected", c.IsClosed)
}

// A gate that hangs is reported, and not waited for once its process is killed.
func TestHungGateIsWaitedForUntilItIsKilled(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, id := component(t, w, subject.Registry)
	if _, err := c.SubscribeSync(subject.GatePush(id)); err != nil {
		t.Fatal(err)
	}
	c.settle()
	lease := join(t, c, id, cmd.Process.Pid)
	killed := make(chan string)
	go func() {
		defer close(killed)
		hung := <-w.Hung
		_ = cmd.Process.Kill() // it runs
		_ = cmd.Wait()         // killed
		killed <- hung
	}()
	change := w.Revoke(t, alice.ID)
	if now := gate.Boottime(); now > lease {
		t.Error("the fence waited for the lease of a gate whose process was killed")
	}
	if hung := <-killed; hung != id || change.GatesCut != 1 {
		t.Errorf("%s hangs, want %s; change %+v", hung, id, change)
	}
}

// A gate whose process has ended can act no more, and nobody waits for it.
func TestDeadGateIsNotWaitedFor(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, id := component(t, w, subject.Registry)
	lease := join(t, c, id, cmd.Process.Pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	c.Close()
	if change := w.Revoke(t, alice.ID); change.GatesCut != 0 {
		t.Errorf("change %+v", change)
	}
	if gate.Boottime() > lease {
		t.Error("the fence waited for a process that had ended")
	}
}

// join registers a connection as the gate of a process and returns when its lease ends.
func join(t *testing.T, c client, id string, pid int) (lease int64) {
	t.Helper()
	var r kernelv1.FenceJoinResponse
	if err := ask(t, c, subject.FenceJoin, id, &kernelv1.FenceJoinRequest{Name: "registry", Pid: uint32(pid)}, &r); err != nil {
		t.Fatal(err)
	}
	return r.GetLease().GetDeadlineBoottimeNs()
}

// ask makes one request to the fence and returns its error.
func ask(t *testing.T, c client, op, id string, req, resp proto.Message) error {
	t.Helper()
	b, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Request(subject.Fence(op, id), b, wait)
	if err != nil {
		return err
	}
	if err := rpc.ReplyError(m); err != nil {
		return err
	}
	return proto.Unmarshal(m.Data, resp)
}

func TestHelpersOfTheDeployer(t *testing.T) {
	w := bustest.Start(t)
	d, did := component(t, w, subject.Deployer)
	h := bustest.NewHandle(t)
	if _, err := w.TryDial(t, h); err == nil {
		t.Fatal("a helper connected before it was admitted")
	}
	req := &kernelv1.FenceAdmitRequest{Id: h.ID, Role: subject.Runner, Namespace: "acme"}
	for range 2 { // a retry changes nothing
		if err := ask(t, d, subject.FenceAdmit, did, req, &kernelv1.FenceAdmitResponse{}); err != nil {
			t.Fatal(err)
		}
	}
	r := dial(t, w, h)
	alice := w.Grant(t, "svc:alice/*=*")
	for name, bad := range map[string]*kernelv1.FenceAdmitRequest{
		"a role that is no helper": {Id: bustest.NewHandle(t).ID, Role: subject.Capmgr},
		"no key":                   {Id: "U", Role: subject.Runner},
		"a component's id":         {Id: did, Role: subject.Runner},
		"a holder's id":            {Id: alice.ID, Role: subject.Keeper},
		"a namespace with a star":  {Id: bustest.NewHandle(t).ID, Role: subject.Runner, Namespace: "*"},
	} {
		if err := ask(t, d, subject.FenceAdmit, did, bad, &kernelv1.FenceAdmitResponse{}); err == nil {
			t.Errorf("%s: admitted", name)
		}
	}
	if err := ask(t, d, subject.FenceDismiss, did, &kernelv1.FenceDismissRequest{Id: w.KernelID}, &kernelv1.FenceDismissResponse{}); err == nil {
		t.Error("the deployer dismissed the kernel")
	}
	var out kernelv1.FenceDismissResponse
	if err := ask(t, d, subject.FenceDismiss, did, &kernelv1.FenceDismissRequest{Id: h.ID}, &out); err != nil || out.GetConnectionsCut() != 1 {
		t.Errorf("dismissed: %v, %d connections", err, out.GetConnectionsCut())
	}
	eventually(t, "the helper is disconnected", r.IsClosed)
	if _, err := w.TryDial(t, h); err == nil {
		t.Error("a dismissed helper connected")
	}
	// The server refuses the rest of the components already.
	g, gid := component(t, w, subject.Gateway)
	if err := g.Publish(subject.Fence(subject.FenceAdmit, gid), nil); err != nil {
		t.Fatal(err)
	}
	g.mustRefuse("the gateway admitting a helper")
}

// Events come in order; what was missed is asked for, what is known is passed over.
func TestApplyOverTheBus(t *testing.T) {
	w := bustest.Start(t)
	w.Grant(t, "svc:alice/*=*")
	have := w.Fence.Table().Sequence()
	c, id := component(t, w, subject.Capmgr)
	record := func(seq uint64) *kernelv1.CapEvent {
		return &kernelv1.CapEvent{Sequence: seq, Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{
			Id: bustest.NewHandle(t).ID, Parent: w.Root.ID, Rules: []string{"svc:a/b=status"}, Kind: kernelv1.CapKind_CAP_KIND_HOLDER,
		}}}
	}
	var out kernelv1.FenceApplyResponse
	if err := ask(t, c, subject.FenceApply, id, &kernelv1.FenceApplyRequest{Events: []*kernelv1.CapEvent{record(have + 2)}}, &out); err == nil {
		t.Error("an event was applied over a gap")
	}
	next := record(have + 1)
	for range 2 {
		if err := ask(t, c, subject.FenceApply, id, &kernelv1.FenceApplyRequest{Events: []*kernelv1.CapEvent{next}}, &out); err != nil {
			t.Fatal(err)
		}
	}
	var page kernelv1.FenceTableResponse
	if err := ask(t, c, subject.FenceTable, id, &kernelv1.FenceTableRequest{AfterSequence: have}, &page); err != nil || len(page.GetEvents()) != 1 || page.GetLastSequence() != have+1 {
		t.Errorf("page %v %v", &page, err)
	}
	if err := ask(t, c, subject.FenceTable, id, &kernelv1.FenceTableRequest{AfterSequence: have + 9}, &page); err != nil {
		t.Errorf("a page beyond the end: %v", err)
	}
}

// A connection authenticates once: a second CONNECT, even with the same good signature, ends it.
func TestOneConnectAConnection(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	c, err := net.Dial("tcp", w.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatal(err)
	}
	kp, err := nkeys.FromSeed([]byte(alice.Seed))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := kp.Sign([]byte(info.Nonce))
	if err != nil {
		t.Fatal(err)
	}
	connect := fmt.Sprintf("CONNECT {\"nkey\":%q,\"sig\":%q,\"protocol\":1}\r\nPING\r\n", alice.ID, base64.RawURLEncoding.EncodeToString(sig))
	if _, err := c.Write([]byte(connect)); err != nil {
		t.Fatal(err)
	}
	for line != "PONG\r\n" {
		if line, err = r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write([]byte(connect)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		line, err = r.ReadString('\n')
		if strings.HasPrefix(line, "PONG") {
			t.Fatal("the second CONNECT was accepted")
		}
	}
}

// The server tells of what it refuses, and the fence of who it was.
func TestViolationsAreToldOf(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	nc, err := nats.Connect("nats://"+w.Addr, nats.NoReconnect(), nats.Name(`x" - Publish Violation - Subject "forged`), nats.Nkey(alice.ID, func(nonce []byte) ([]byte, error) {
		kp, err := nkeys.FromSeed([]byte(alice.Seed))
		if err != nil {
			return nil, err
		}
		return kp.Sign(nonce)
	}), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	target := subject.Call(bobs, "get", alice.ID)
	if err := nc.Publish(target, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.SubscribeSync("svc.>"); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
	vs := w.Violations()
	if len(vs) != 2 || vs[0].Subject != target || vs[0].Subscribe || vs[1].Subject != "svc.>" || !vs[1].Subscribe {
		t.Fatalf("violations %+v", vs)
	}
	if id := w.Fence.ID(vs[0].CID); id != alice.ID {
		t.Errorf("the connection belongs to %q", id)
	}
	var _ fence.Bus = w.Server
}
