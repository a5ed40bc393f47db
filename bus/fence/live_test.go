package fence_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/embed"
	"github.com/solo-os/solo/bus/fence"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/subject"
)

const wait = 10 * time.Second

var (
	counter = subject.Service{Namespace: "alice", Name: "counter"}
	victim  = subject.Service{Namespace: "alice", Name: "victim"}
	bobs    = subject.Service{Namespace: "bob", Name: "vault"}
)

// client is a connection whose refusals by the server can be waited for.
type client struct {
	*nats.Conn
	t    *testing.T
	errs chan error
}

func dial(t *testing.T, w *bustest.World, h bustest.Handle) client {
	t.Helper()
	c := client{w.Dial(t, h), t, make(chan error, 64)}
	c.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case c.errs <- err:
		default:
		}
	})
	return c
}

func component(t *testing.T, w *bustest.World, role string) (client, string) {
	t.Helper()
	h := bustest.NewHandle(t)
	if err := w.Fence.Identify(t.Context(), h.ID, fence.Identity{Role: role}); err != nil {
		t.Fatal(err)
	}
	return dial(t, w, h), h.ID
}

// settle returns once the server has read all that the client has sent, and whether it refused any of it.
func (c client) settle() (refused error) {
	c.t.Helper()
	if err := c.FlushTimeout(wait); err != nil {
		c.t.Fatal(err)
	}
	for {
		select {
		case err := <-c.errs:
			if errors.Is(err, nats.ErrPermissionViolation) {
				refused = err
			}
		default:
			return refused
		}
	}
}

// refused tells whether the server refuses a publish. Errors come before the answer to the
// flush, but on the way of a callback of their own, so the one expected is waited for.
func (c client) mustRefuse(what string) {
	c.t.Helper()
	if err := c.FlushTimeout(wait); err != nil {
		c.t.Fatal(err)
	}
	select {
	case err := <-c.errs:
		if !errors.Is(err, nats.ErrPermissionViolation) {
			c.t.Errorf("%s: %v", what, err)
		}
	case <-time.After(wait):
		c.t.Errorf("%s: the server did not refuse", what)
	}
}

// serve answers the calls of a service as an instance of it.
func serve(t *testing.T, w *bustest.World, s subject.Service, f nats.MsgHandler) client {
	t.Helper()
	h, _ := w.Endow(t, s.String(), 1)
	c := dial(t, w, h)
	if _, err := c.QueueSubscribe(subject.CallServing(s), s.Queue(), f); err != nil {
		t.Fatal(err)
	}
	if err := c.settle(); err != nil {
		t.Fatal(err)
	}
	return c
}

func echo(m *nats.Msg) { _ = m.Respond([]byte(m.Subject)) }

func TestCallsCrossTheBorderAndNothingElseDoes(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	other := w.Grant(t, "svc:alice/*=*")
	stolen := make(chan string, 16)
	serve(t, w, counter, echo)
	serve(t, w, victim, func(m *nats.Msg) { stolen <- m.Subject })
	serve(t, w, bobs, func(m *nats.Msg) { stolen <- m.Subject })
	a := dial(t, w, alice)

	m, err := a.Request(subject.Call(counter, "get", alice.ID), nil, wait)
	if err != nil || string(m.Data) != subject.Call(counter, "get", alice.ID) {
		t.Fatalf("%v %v", m, err)
	}
	for _, s := range []string{
		subject.Call(bobs, "get", alice.ID), subject.Call(counter, "get", other.ID), "svc.alice.counter.get", "svc.alice.x.counter.get." + alice.ID,
		"svc.alice.counter.get.x." + alice.ID, "svc.alice.counter.>", "svc.>", ">", "rev.alice.counter.1.get." + alice.ID,
		subject.Sys(subject.Registry, "status", bobs, alice.ID), subject.Sys(subject.Registry, "put", counter, alice.ID),
		subject.Sys(subject.Capmgr, "bind", subject.Nothing(), alice.ID), subject.Sys(subject.Kernel, "shutdown", subject.Nothing(), alice.ID),
		subject.Str(subject.Audit, "read", subject.Nothing(), alice.ID), subject.Sys(subject.Capmgr, "grant", subject.Nothing(), other.ID),
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$KV.registry.x", "$O.artifacts.M.x", "$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO",
		subject.Caps, subject.GateLease, subject.Fence(subject.FenceApply, alice.ID), "_INBOX." + other.ID + ".x", "_R_.abc.def", "audit.gateway.x",
	} {
		if err := a.Publish(s, []byte("x")); err != nil {
			t.Fatal(err)
		}
		a.mustRefuse("publish " + s)
	}
	for _, s := range []string{
		">", "_INBOX.>", "_INBOX.*.>", "_INBOX." + other.ID + ".>", "svc.>", "svc.alice.counter.*.*", "svc.alice.counter.get." + alice.ID,
		"sys.>", "_R_.>", "$SYS.>", "$JS.>", subject.GateLease, "audit.>",
	} {
		if _, err := a.SubscribeSync(s); err != nil {
			t.Fatal(err)
		}
		a.mustRefuse("subscribe " + s)
	}
	// A literal wildcard is let through by a wildcard of the permission, and leads nowhere.
	for _, s := range []string{"svc.alice.*.get." + alice.ID, "svc.alice.>.get." + alice.ID} {
		if m, err := a.Request(s, nil, wait); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("%s: %v %v", s, m, err)
		}
	}
	// A reply subject is the server's own on the far side: an answer cannot be sent somewhere else.
	for _, reply := range []string{subject.Call(victim, "get", other.ID), subject.Call(bobs, "get", other.ID), subject.AuditEvent("x", "forged"), subject.Caps} {
		if err := a.PublishRequest(subject.Call(counter, "get", alice.ID), reply, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.PublishRequest(subject.Call(counter, "get", alice.ID), "_R_.x.y", nil); err != nil {
		t.Fatal(err)
	}
	a.mustRefuse("a reply subject of the server's own kind")
	trace := nats.NewMsg(subject.Call(counter, "get", alice.ID))
	trace.Header.Set("Nats-Trace-Dest", subject.Call(victim, "get", other.ID))
	if err := a.PublishMsg(trace); err != nil {
		t.Fatal(err)
	}
	a.mustRefuse("traces of messages to another's subject")
	if _, err := a.Request(subject.Call(counter, "get", alice.ID), nil, wait); err != nil {
		t.Fatal(err) // all before it has been worked off
	}
	select {
	case s := <-stolen:
		t.Errorf("a message got to %s", s)
	default:
	}
	if n := count(t, w, stream.Audit); n != 0 {
		t.Errorf("%d records were forged in the audit trail", n)
	}
}

func count(t *testing.T, w *bustest.World, name string) uint64 {
	t.Helper()
	c, _ := component(t, w, map[string]string{stream.Audit: subject.Audit, stream.Caps: subject.Capmgr}[name])
	js, err := jetstream.New(c.Conn)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

func TestNobodyAnswers(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	a := dial(t, w, alice)
	for _, s := range []string{
		subject.Call(counter, "get", alice.ID), subject.Sys(subject.Registry, "status", counter, alice.ID),
		subject.Str(subject.Registry, "watch", counter, alice.ID),
	} {
		if _, err := a.Request(s, nil, wait); !errors.Is(err, nats.ErrNoResponders) {
			t.Errorf("%s: %v, want no responders", s, err)
		}
	}
	if n := w.Server.PendingReplies(); n != 0 {
		t.Errorf("%d ways back are kept for requests that nobody takes", n)
	}
}

func TestStreamsCrossTheBorder(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	reg, _ := component(t, w, subject.Registry)
	const n = 2000
	if _, err := reg.QueueSubscribe(subject.StrServing(subject.Registry), subject.Registry, func(m *nats.Msg) {
		for i := range n {
			if err := m.Respond([]byte(strconv.Itoa(i))); err != nil {
				t.Error(err)
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	reg.settle()
	a := dial(t, w, alice)
	inbox := a.NewInbox()
	if !strings.HasPrefix(inbox, subject.InboxPrefix(alice.ID)) {
		t.Fatalf("inbox %s", inbox)
	}
	sub, err := a.SubscribeSync(inbox)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.PublishRequest(subject.Str(subject.Registry, "watch", counter, alice.ID), inbox, nil); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		m, err := sub.NextMsg(wait)
		if err != nil || string(m.Data) != strconv.Itoa(i) {
			t.Fatalf("answer %d: %v %v", i, m, err)
		}
	}
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	a.settle()
	eventually(t, "the way back of a finished stream is gone", func() bool { return w.Server.PendingReplies() == 0 })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(wait); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not true in time: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func TestServicesOnlyAnswer(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	replies := make(chan *nats.Msg, 4)
	s := serve(t, w, counter, func(m *nats.Msg) { replies <- m })
	for _, x := range []string{subject.Call(counter, "get", alice.ID), "_INBOX." + alice.ID + ".x", "_R_.x.y", "$JS.API.INFO", "sys.x", "anything"} {
		if err := s.Publish(x, nil); err != nil {
			t.Fatal(err)
		}
		s.mustRefuse("publish " + x)
	}
	for _, x := range []string{subject.CallServing(counter), "svc.alice.counter.>", "svc.alice.*.*.*", "svc.>", ">", subject.CallServing(victim), "rev.alice.counter.1.*.*", "_R_.>"} {
		if _, err := s.SubscribeSync(x); err != nil {
			t.Fatal(err)
		}
		s.mustRefuse("subscribe " + x)
	}
	for _, x := range []string{subject.CallServing(victim), subject.RevisionServing(counter, 2), "svc.alice.counter.>"} {
		if _, err := s.QueueSubscribeSync(x, counter.Queue()); err != nil {
			t.Fatal(err)
		}
		s.mustRefuse("queue subscribe " + x)
	}
	if _, err := s.QueueSubscribeSync(subject.CallServing(counter), "mine"); err != nil {
		t.Fatal(err)
	}
	s.mustRefuse("another queue group")
	if _, err := s.QueueSubscribeSync(subject.RevisionServing(counter, 1), counter.Queue()); err != nil {
		t.Fatal(err)
	}
	if err := s.settle(); err != nil {
		t.Errorf("its own revision: %v", err)
	}
	a := dial(t, w, alice)
	got := make(chan error, 1)
	go func() {
		_, err := a.Request(subject.Call(counter, "get", alice.ID), nil, wait)
		got <- err
	}()
	m := <-replies
	if err := m.Respond(nil); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if err := m.Respond(nil); err != nil {
		t.Fatal(err)
	}
	s.mustRefuse("a second answer")
}

// Every role is refused what belongs to the others, by the live server.
func TestRolesOnTheLiveServer(t *testing.T) {
	w := bustest.Start(t)
	streams := map[string][]string{
		stream.Caps: {subject.Kernel, subject.Capmgr}, stream.Audit: {subject.Audit}, stream.Events: {subject.Registry}, stream.Logs: {subject.Deployer},
		stream.KVStream(stream.Registry): {subject.Registry}, stream.KVStream(stream.Nodes): {subject.Registry},
		stream.KVStream(stream.State): {subject.Keeper}, stream.KVStream(stream.Requests): {subject.Capmgr, subject.Deployer},
		stream.KVStream(stream.Crashes): {subject.Deployer}, stream.ObjStream(stream.Artifacts): {subject.Deployer},
	}
	for _, role := range []string{
		subject.Kernel, subject.Capmgr, subject.Registry, subject.Resmon, subject.Deployer, subject.Audit, subject.Gateway, subject.Runner, subject.Keeper,
	} {
		t.Run(role, func(t *testing.T) {
			c, id := component(t, w, role)
			for s, owners := range streams {
				subj := "$JS.API.STREAM.INFO." + s
				if slices.Contains(owners, role) {
					if _, err := c.Request(subj, nil, wait); err != nil {
						t.Errorf("%s: %v", subj, err)
					}
					continue
				}
				refused := []string{subj, "$JS.API.STREAM.MSG.GET." + s, "$JS.API.STREAM.DELETE." + s}
				if s != stream.Audit || role != subject.Capmgr { // which makes consumers for others
					refused = append(refused, "$JS.API.CONSUMER.CREATE."+s+".x")
				}
				for _, x := range refused {
					if err := c.Publish(x, nil); err != nil {
						t.Fatal(err)
					}
					c.mustRefuse("publish " + x)
				}
			}
			for _, x := range []string{"$JS.API.STREAM.DELETE.CAPS", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE.CAPS", "$SYS.REQ.SERVER.PING", "x", subject.Fence(subject.FenceApply, w.KernelID)} {
				if err := c.Publish(x, nil); err != nil {
					t.Fatal(err)
				}
				c.mustRefuse("publish " + x)
			}
			for _, x := range []string{">", "*.>", "_INBOX.>", "$KV.>", "$JS.>", "_R_.>", "audit.>", subject.Caps, subject.GatePush(w.KernelID)} {
				if _, err := c.SubscribeSync(x); err != nil {
					t.Fatal(err)
				}
				c.mustRefuse("subscribe " + x)
			}
			w.Fence.Dismiss(t.Context(), id)
			eventually(t, "a dismissed component is disconnected", c.IsClosed)
		})
	}
}

func TestWhoMayNotConnect(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	child := w.GrantFrom(t, alice.ID, time.Hour, "svc:alice/counter=call:get")
	unknown := bustest.NewHandle(t)
	expired := w.GrantFrom(t, w.Root.ID, time.Nanosecond, "svc:alice/*=*")
	for name, h := range map[string]bustest.Handle{"unknown": unknown, "expired": expired} {
		if _, err := w.TryDial(t, h); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	a, c := dial(t, w, alice), dial(t, w, child)
	change := w.Revoke(t, alice.ID)
	if change.ConnectionsCut != 2 {
		t.Errorf("%d connections were cut, want 2", change.ConnectionsCut)
	}
	for _, h := range []bustest.Handle{alice, child} {
		if _, err := w.TryDial(t, h); err == nil {
			t.Errorf("a revoked capability connected")
		}
	}
	eventually(t, "both are disconnected", func() bool { return a.IsClosed() && c.IsClosed() })

	bob := w.Grant(t, "svc:bob/*=*")
	serving, calling := w.Endow(t, "bob/vault", 1, "svc:bob/*=call:*")
	w.Fence.Open(false)
	if _, err := w.TryDial(t, bob); err == nil {
		t.Error("a holder connected before user space was open")
	}
	dial(t, w, serving)
	dial(t, w, calling)
	if _, err := nats.Connect("nats://"+w.Addr, nats.NoReconnect()); err == nil {
		t.Error("someone without a key connected")
	}
	if _, err := nats.Connect("nats://"+w.Addr, nats.NoReconnect(), nats.Nkey(w.Root.ID, func([]byte) ([]byte, error) { return make([]byte, 64), nil })); err == nil {
		t.Error("someone connected without the key to an id")
	}
}

func TestExpiryDisconnects(t *testing.T) {
	w := bustest.Start(t)
	h := w.GrantFrom(t, w.Root.ID, 700*time.Millisecond, "svc:alice/*=*")
	c := dial(t, w, h)
	eventually(t, "an expired holder is disconnected", c.IsClosed)
	if _, err := w.TryDial(t, h); err == nil {
		t.Error("an expired holder connected")
	}
}

func TestACalling(t *testing.T) {
	w := bustest.Start(t)
	_, calling := w.Endow(t, "alice/counter", 1, "svc:alice/victim=call:get")
	serve(t, w, victim, echo)
	c := dial(t, w, calling)
	if _, err := c.Request(subject.Call(victim, "get", calling.ID), nil, wait); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(subject.Call(victim, "set", calling.ID), nil); err != nil {
		t.Fatal(err)
	}
	c.mustRefuse("an operation that the service was not given")
}

// The server's limits hold where it has them.
func TestAccountsAreConfigured(t *testing.T) {
	w := bustest.Start(t)
	for account, exports := range map[string]map[string]time.Duration{
		embed.Kernel: {"sys.>": embed.ReplyTime, "str.>": embed.StreamTime}, embed.Service: {"svc.>": embed.ReplyTime},
	} {
		a, err := w.Server.Account(account)
		if err != nil {
			t.Fatal(err)
		}
		for s, want := range exports {
			if d, err := a.ServiceExportResponseThreshold(s); err != nil || d != want {
				t.Errorf("%s %s: %s %v", account, s, d, err)
			}
		}
		if js := a.JetStreamEnabled(); js != (account == embed.Kernel) {
			t.Errorf("JetStream in %s: %t", account, js)
		}
	}
	if a, err := w.Server.Account(embed.Caller); err != nil || a.JetStreamEnabled() {
		t.Errorf("JetStream in CALLER (%v)", err)
	}
	alice := w.Grant(t, "svc:alice/*=*")
	a := dial(t, w, alice)
	if err := a.Publish(subject.Call(counter, "get", alice.ID), make([]byte, embed.MaxPayload+1)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("a message above the bound: %v", err)
	}
	for i := range 1030 {
		if _, err := a.SubscribeSync(fmt.Sprintf("_INBOX.%s.%d", alice.ID, i)); err != nil {
			break
		}
	}
	eventually(t, "a holder with too many subscriptions is disconnected or refused", func() bool {
		return a.IsClosed() || errors.Is(a.LastError(), nats.ErrMaxSubscriptionsExceeded)
	})
}
