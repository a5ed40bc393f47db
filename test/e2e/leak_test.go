package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/test/world"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// leaks is a world in which everything that is said is kept.
type leaks struct {
	t    *testing.T
	w    *world.World
	c    *canaries
	own  map[string]string // the one secret that a file may hold
	log  *lockedBuffer
	mu   sync.Mutex
	said map[string][]byte // mu; what was answered, by who was asked
	f    found             // what was found in files and answers
}

func (l *leaks) hear(where string, b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said[where] = append(append(l.said[where], '\n'), b...)
}

// solo runs the command line, which is to succeed or not, and keeps all that it says.
func (l *leaks) solo(ok bool, handle string, args ...string) {
	l.t.Helper()
	r := l.w.Solo(l.t.Context(), handle, args...)
	l.hear("solo "+args[0], []byte(r.Out+r.Err))
	if (r.Code == 0) != ok {
		l.t.Errorf("solo %s: exit %d\n%s%s", strings.Join(args, " "), r.Code, r.Out, r.Err)
	}
}

// handle makes a handle and returns its file and itself.
func (l *leaks) handle(name string, rules ...string) (file, seed string) {
	l.t.Helper()
	file = grant(l.t, l.w, name, rules...)
	seed, err := world.Handle(file)
	if err != nil {
		l.t.Fatal(err)
	}
	l.c.add(l.t, name, seed)
	l.own[file] = name
	return file, seed
}

// rpc makes one call with an authorization as it is.
func (l *leaks) rpc(authorization string) {
	c, err := grpc.NewClient(l.w.Addr["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	ctx := metadata.AppendToOutgoingContext(l.t.Context(), "authorization", authorization)
	m, err := solov1.NewSoloKernelClient(c).Call(ctx, &solov1.CallRequest{Service: "alice/counter", Op: "add"})
	l.hear("gRPC", fmt.Append(nil, m, err, status.Convert(err).Proto()))
}

// stream keeps all messages of one stream until it ends or more does not come.
func stream[M proto.Message](l *leaks, what string, open func(context.Context) (interface{ Recv() (M, error) }, error)) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	defer cancel()
	s, err := open(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	for n := 0; ; n++ {
		idle := time.AfterFunc(2*time.Second, cancel)
		m, err := s.Recv()
		idle.Stop()
		if err != nil {
			if n == 0 {
				l.t.Errorf("%s: nothing came: %v", what, err)
			}
			return
		}
		b, err := proto.Marshal(m)
		if err != nil {
			l.t.Fatal(err)
		}
		l.hear(what, b)
	}
}

// watch looks at the processes, again and again, until the result is called.
func (l *leaks) watch(f found) (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		most := 0
		for {
			most = max(most, l.c.processes(l.w.Home(), f))
			select {
			case <-end:
				if most < 3*8 {
					l.t.Errorf("of the processes of the world only %d parts could be looked at", most)
				}
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return sync.OnceFunc(func() { close(end); <-done })
}

// A handle never turns up where it was not put: not in logs, files, streams, records, figures, errors,
// arguments, environments or memory images, whatever happens to those who hold it. A handle that a
// deployer puts into a manifest shows that the search would have found it.
func TestHandlesNeverLeak(t *testing.T) {
	l := &leaks{t: t, c: newCanaries(), own: map[string]string{}, log: &lockedBuffer{}, said: map[string][]byte{}, f: found{}}
	l.w = loggedWorld(t, bin(t), l.log, "SOLO_LOG_LEVEL=debug")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, err := l.w.Start(ctx); err != nil {
		t.Fatal(err)
	}
	home := l.w.Home()
	for name, path := range map[string]string{"root": "root.nk", "chain": "keys/chain.nk"} {
		seed, err := world.Handle(filepath.Join(home, path))
		if err != nil {
			t.Fatal(err)
		}
		l.c.add(t, name, seed)
		l.own[filepath.Join(home, path)] = name
	}
	planted, unknown := newSeed(t), newSeed(t)
	l.c.add(t, "planted", planted)
	l.c.add(t, "unknown", unknown)
	stranger := filepath.Join(home, "unknown.nk")
	if err := os.WriteFile(stranger, []byte(unknown), 0o600); err != nil {
		t.Fatal(err)
	}
	l.own[stranger] = "unknown"
	alice, aliceSeed := l.handle("alice", "svc:alice/*=*", "audit=read")
	bob, bobSeed := l.handle("bob", "svc:alice/counter=call:get")
	gone, goneSeed := l.handle("gone", "svc:alice/*=*")
	inProcesses := found{}
	stop := l.watch(inProcesses)
	defer stop()

	l.deploys(alice, planted)
	l.use(alice, bob, gone, stranger, goneSeed)
	for _, s := range []string{aliceSeed, bobSeed, goneSeed, unknown} {
		for _, form := range []string{"Bearer %s", "bearer %s", "Basic %s", "%s", "Bearer %s ", "Bearer  %s", "Bearer %sA", "Bearer x%s", "Bearer %[1]s, Bearer %[1]s"} {
			l.rpc(fmt.Sprintf(form, s))
		}
		l.raw(s)
	}
	l.crashes(ctx, alice, aliceSeed)
	l.ask(aliceSeed)
	l.c.files(t, home, l.own, l.f)
	stop()
	if err := l.w.Stop(ctx); err != nil {
		t.Error(err)
	}
	l.c.files(t, home, l.own, l.f)
	for where, b := range l.said {
		l.f.note("answers to "+where, l.c.find(b))
	}
	for line := range strings.Lines(l.log.tail(1 << 40)) {
		if names := l.c.find([]byte(line)); len(names) > 0 {
			l.f.note("the log: "+l.c.without(line), names)
		}
	}
	if n := strings.Count(l.log.tail(1<<40), `"level":"DEBUG"`); n == 0 {
		t.Error("the log was not kept at level debug")
	}
	images, err := filepath.Glob("core*")
	if err != nil || len(images) > 0 {
		t.Errorf("memory images were left: %v %v", images, err)
	}

	for _, f := range []found{l.f, inProcesses} {
		if len(f["planted"]) == 0 {
			t.Error("what was planted was not found: the search is worth nothing")
		}
		t.Logf("what was planted was found in %v", f["planted"])
		delete(f, "planted")
		for name, places := range f {
			t.Errorf("%s: %v", name, places)
		}
	}
}

func newSeed(t *testing.T) string {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return string(seed)
}

// deploys makes services of all kinds, one that calls out, one that has a handle planted in its
// environment, and one that cannot be built.
func (l *leaks) deploys(alice, planted string) {
	l.t.Helper()
	parrot := filepath.Join(l.w.Home(), "parrot")
	cmd := exec.Command("go", "build", "-trimpath", "-o", parrot, ".")
	cmd.Dir, cmd.Env = "testdata/parrot", append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("%v\n%s", err, b)
	}
	manifest := filepath.Join(l.w.Home(), "parrot.yaml")
	text := "name: alice/parrot\nformat: binary\nsource: ./parrot\nenv: {PLANTED: " + planted + "}\n"
	if err := os.WriteFile(manifest, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.own[manifest] = "planted"
	l.solo(true, alice, "deploy", "alice/counter", filepath.Join(examples(l.t), "counter"), "--format", "go")
	l.solo(true, alice, "deploy", "alice/relay", "testdata/relay", "--format", "go", "--grant", "svc:alice/counter=call:add")
	l.solo(true, alice, "deploy", "-f", manifest)
	broken := filepath.Join(l.w.Home(), "broken")
	if err := os.Mkdir(broken, 0o700); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "main.go"), []byte("package main\n\nfunc main() { x := 1 }\n"), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.solo(false, alice, "deploy", "alice/broken", broken, "--format", "go")
}

// use calls and is refused in all the ways there are, and revokes a handle.
func (l *leaks) use(alice, bob, gone, unknown, goneSeed string) {
	l.t.Helper()
	l.solo(true, alice, "call", "alice/relay", "add", "2")
	l.solo(true, bob, "call", "alice/counter", "get")
	l.solo(false, bob, "call", "alice/counter", "add")
	l.solo(false, bob, "kill", "alice/counter")
	l.solo(false, alice, "call", "bob/vault", "get")
	l.solo(false, unknown, "ps")
	l.solo(true, gone, "call", "alice/counter", "add")
	l.solo(false, alice, "revoke", "U"+strings.Repeat("A", 55))
	id, err := conn.ID(goneSeed)
	if err != nil {
		l.t.Fatal(err)
	}
	l.solo(true, "", "revoke", id)
	l.solo(false, gone, "call", "alice/counter", "add")
	l.solo(true, "", "caps")
	l.solo(true, "", "doctor")
}

// raw presents a handle to the bus, in the right way and in wrong ones.
func (l *leaks) raw(seed string) {
	l.t.Helper()
	url := "nats://" + l.w.Addr["nats"]
	for _, o := range []nats.Option{nats.Token(seed), nats.UserInfo(seed, seed), nats.Name(seed), nats.Nkey(seed, func([]byte) ([]byte, error) { return []byte(seed), nil })} {
		nc, err := nats.Connect(url, o, nats.NoReconnect())
		if err == nil {
			nc.Close()
			l.t.Error("someone without a key connected")
		}
		l.hear("the bus", fmt.Append(nil, err))
	}
	r, err := l.w.Raw(l.t.Context(), seed)
	if err != nil {
		l.hear("the bus", fmt.Append(nil, err))
		return
	}
	defer r.Close()
	counter := subject.Service{Namespace: "alice", Name: "counter"}
	for _, s := range []string{subject.Call(counter, "get", r.ID), subject.Call(subject.Service{Namespace: "bob", Name: "vault"}, "get", r.ID), "svc.>"} {
		if err := r.PublishRequest(s, r.NewInbox(), nil); err != nil {
			l.t.Error(err)
		}
	}
	if err := r.FlushTimeout(10 * time.Second); err != nil {
		l.t.Error(err)
	}
	select {
	case why := <-r.Refused:
		l.hear("the bus", []byte(why))
	case <-time.After(10 * time.Second):
		l.t.Error("the bus refuses nothing")
	}
}

// crashes ends an instance, and each kind of process, by force.
func (l *leaks) crashes(ctx context.Context, alice, seed string) {
	l.t.Helper()
	l.solo(false, alice, "call", "alice/parrot", "die")
	for _, name := range []string{"solo-runner", "solo-keeper", "solo-capmgr", "solo-deployer", "solo-gateway"} {
		for _, s := range []syscall.Signal{syscall.SIGKILL, syscall.SIGQUIT} { // the second writes all stacks
			var old []world.Process
			err := world.Until(ctx, name+" runs", func() (ok bool, err error) {
				if old, err = l.w.Named(name); err != nil || len(old) == 0 {
					return false, err
				}
				_, err = l.w.Signal(name, s)
				return err == nil, nil // one that has ended by itself is followed by another
			})
			if err == nil {
				err = world.Until(ctx, name+" has ended", func() (bool, error) {
					now, err := l.w.Named(name)
					return !slices.ContainsFunc(now, func(p world.Process) bool {
						return slices.ContainsFunc(old, func(o world.Process) bool { return o.PID == p.PID })
					}), err
				})
			}
			if err != nil {
				l.t.Fatal(err)
			}
			l.answers(ctx, seed)
		}
	}
}

// answers waits until services answer again.
func (l *leaks) answers(ctx context.Context, seed string) {
	l.t.Helper()
	c, err := l.w.Client(seed)
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	for _, req := range []*solov1.CallRequest{{Service: "alice/relay", Op: "add"}, {Service: "alice/parrot", Op: "say"}} {
		err = world.Until(ctx, req.Service+" answers", func() (bool, error) {
			ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			defer cancel()
			_, err := c.Call(ctx, req)
			if err != nil {
				l.hear("gRPC", fmt.Append(nil, fault.From(err), status.Convert(err).Proto()))
			}
			return err == nil, nil
		})
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

// ask reads everything that Solo tells: records, logs, events, crashes, figures.
func (l *leaks) ask(seed string) {
	l.t.Helper()
	c, err := l.w.Client(seed)
	if err != nil {
		l.t.Fatal(err)
	}
	defer c.Close()
	type message[M proto.Message] = interface{ Recv() (M, error) }
	stream(l, "the audit trail", func(ctx context.Context) (message[*solov1.AuditResponse], error) {
		return c.Audit(ctx, &solov1.AuditRequest{})
	})
	_, err = c.RevokeCapability(l.t.Context(), &solov1.RevokeCapabilityRequest{Id: seed}) // taken for an id
	l.hear("gRPC", fmt.Append(nil, err, status.Convert(err).Proto()))
	for _, s := range []string{"alice/counter", "alice/relay", "alice/parrot"} {
		stream(l, "the events of "+s, func(ctx context.Context) (message[*solov1.WatchResponse], error) {
			return c.Watch(ctx, &solov1.WatchRequest{Service: s, AfterSequence: 1})
		})
		l.solo(true, "", "status", s)
		l.solo(true, "", "crash", s)
	}
	stream(l, "the logs", func(ctx context.Context) (message[*solov1.LogsResponse], error) {
		return c.Logs(ctx, &solov1.LogsRequest{Service: "alice/parrot", Tail: 10000})
	})
	r, err := http.Get("http://" + l.w.Addr["metrics"] + "/metrics")
	if err != nil {
		l.t.Fatal(err)
	}
	b, err := io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err != nil || len(b) == 0 {
		l.t.Fatalf("no figures: %v", err)
	}
	l.hear("/metrics", b)
}
