package gate

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/solo-os/solo/proto/capability"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// feed numbers events as a chain would.
type feed struct {
	t   testing.TB
	tab *Table
	seq uint64
}

func newFeed(t testing.TB) *feed {
	f := &feed{t: t, tab: NewTable()}
	f.tab.SetLease(Boottime() + int64(time.Hour))
	return f
}

func (f *feed) event(ev *kernelv1.CapEvent) *kernelv1.CapEvent {
	f.seq++
	ev.Sequence, ev.Time = f.seq, timestamppb.Now()
	return ev
}

func (f *feed) apply(ev *kernelv1.CapEvent) []string {
	f.t.Helper()
	died, err := f.tab.Apply([]*kernelv1.CapEvent{f.event(ev)})
	if err != nil {
		f.t.Fatal(err)
	}
	return died
}

func granted(r *kernelv1.CapRecord) *kernelv1.CapEvent {
	if r.Kind == kernelv1.CapKind_CAP_KIND_UNSPECIFIED {
		r.Kind = kernelv1.CapKind_CAP_KIND_HOLDER
	}
	return &kernelv1.CapEvent{Change: &kernelv1.CapEvent_Granted{Granted: r}}
}

func revoked(id string) *kernelv1.CapEvent {
	return &kernelv1.CapEvent{Change: &kernelv1.CapEvent_Revoked{Revoked: &kernelv1.CapRevoked{Id: id}}}
}

func (f *feed) grant(id, parent string, rules ...string) {
	f.t.Helper()
	f.apply(granted(&kernelv1.CapRecord{Id: id, Parent: parent, Rules: rules}))
}

// uid makes an id of the right shape.
func uid(n int) string {
	b := []byte("U" + fmt.Sprintf("%055d", n))
	for i := range b {
		if b[i] >= '0' && b[i] <= '9' {
			b[i] += 'A' - '0'
		}
	}
	return string(b)
}

func TestApplyOrder(t *testing.T) {
	f := newFeed(t)
	a := f.event(granted(&kernelv1.CapRecord{Id: "a"}))
	b := f.event(granted(&kernelv1.CapRecord{Id: "b", Parent: "a"}))
	c := f.event(granted(&kernelv1.CapRecord{Id: "c", Parent: "b"}))
	if _, err := f.tab.Apply([]*kernelv1.CapEvent{a, c}); !errors.Is(err, ErrGap) || f.tab.Sequence() != 1 || f.tab.Live("a") != Allowed || f.tab.Live("c") != Unknown {
		t.Fatal(err, f.tab.Sequence())
	}
	if _, err := f.tab.Apply([]*kernelv1.CapEvent{a, b, b, c, a}); err != nil || f.tab.Sequence() != 3 {
		t.Fatal(err, f.tab.Sequence())
	}
	for name, ev := range map[string]*kernelv1.CapEvent{
		"given twice":    {Sequence: 4, Change: granted(&kernelv1.CapRecord{Id: "b", Parent: "a"}).Change},
		"unknown parent": {Sequence: 4, Change: granted(&kernelv1.CapRecord{Id: "d", Parent: "x"}).Change},
		"bad rule":       {Sequence: 4, Change: granted(&kernelv1.CapRecord{Id: "d", Parent: "a", Rules: []string{"x"}}).Change},
		"unknown kind":   {Sequence: 4},
	} {
		if _, err := f.tab.Apply([]*kernelv1.CapEvent{ev}); err == nil || f.tab.Sequence() != 3 {
			t.Errorf("%s: %v, sequence %d", name, err, f.tab.Sequence())
		}
	}
	// Revoking what nobody knows changes nothing but is a record like any other.
	if died := f.apply(revoked("nobody")); len(died) != 0 || f.tab.Sequence() != 4 {
		t.Error(died, f.tab.Sequence())
	}
	f.tab.Reset()
	if f.tab.Sequence() != 0 || f.tab.Live("a") != Unknown {
		t.Error("reset keeps something")
	}
}

func TestRevokeTakesTheSubtree(t *testing.T) {
	f := newFeed(t)
	f.grant("root", "", "svc:*/*=*")
	for _, x := range []string{"a", "b"} {
		f.grant(x, "root", "svc:x/*=*")
		f.grant(x+"1", x, "svc:x/y=*")
		f.grant(x+"2", x+"1", "svc:x/y=status")
	}
	if died := f.apply(revoked("a1")); !slices.Equal(died, []string{"a1", "a2"}) {
		t.Error(died)
	}
	if died := f.apply(revoked("a")); !slices.Equal(died, []string{"a"}) {
		t.Error(died)
	}
	if died := f.apply(revoked("a")); len(died) != 0 {
		t.Error(died)
	}
	f.grant("late", "a1", "svc:x/y=status") // a child of the dead is born dead
	for id, want := range map[string]Decision{"root": Allowed, "a": Revoked, "a1": Revoked, "a2": Revoked, "late": Revoked, "b": Allowed, "b2": Allowed, "?": Unknown} {
		if d := f.tab.Live(id); d != want {
			t.Errorf("%s: %s, want %s", id, d, want)
		}
	}
	if v, ok := f.tab.Get("a2"); !ok || !v.RevokedAt.IsZero() || v.State != Revoked {
		t.Errorf("%+v", v)
	}
	if v, ok := f.tab.Get("a"); !ok || v.RevokedAt.IsZero() || v.Children != 1 {
		t.Errorf("%+v", v)
	}
	if _, ok := f.tab.Get("?"); ok {
		t.Error("unknown is known")
	}
	if c := f.tab.Chain("b2"); !slices.Equal(c, []string{"b1", "b", "root"}) || f.tab.Chain("?") != nil {
		t.Error(c)
	}
	if !f.tab.Descends("b2", "b") || !f.tab.Descends("b", "b") || f.tab.Descends("b", "b2") || f.tab.Descends("?", "b") {
		t.Error("descent")
	}
	if all, live := f.tab.Count(); all != 8 || live != 4 {
		t.Error(all, live)
	}
	if n := f.tab.LiveChildren("root"); n != 1 || f.tab.LiveChildren("?") != 0 {
		t.Error(n)
	}
	if c := f.tab.Children("root", 1, 5); len(c) != 1 || c[0].Record.GetId() != "b" {
		t.Errorf("%v", c)
	}
	if f.tab.Children("root", 2, 5) != nil || f.tab.Children("root", -1, 5) != nil || f.tab.Children("?", 0, 1) != nil {
		t.Error("children that are not there")
	}
}

func TestExpiryByTheEarlierClock(t *testing.T) {
	f := newFeed(t)
	at := func(id, parent string, d time.Duration) {
		f.apply(granted(&kernelv1.CapRecord{Id: id, Parent: parent, Rules: []string{"svc:x/y=*"}, ExpiresAt: timestamppb.New(time.Now().Add(d))}))
	}
	f.grant("root", "", "svc:*/*=*")
	at("gone", "root", -time.Second)
	at("a", "root", time.Hour)
	at("b", "a", 2*time.Hour) // cannot outlive a
	f.grant("c", "b", "svc:x/y=*")
	if f.tab.Live("gone") != Expired || f.tab.Live("a") != Allowed || f.tab.Live("c") != Allowed {
		t.Fatal(f.tab.Live("gone"), f.tab.Live("a"), f.tab.Live("c"))
	}
	va, _ := f.tab.Get("a")
	vc, _ := f.tab.Get("c")
	if !va.Expires.Equal(vc.Expires) {
		t.Error(va.Expires, vc.Expires)
	}
	s := subject.Service{Namespace: "x", Name: "y"}
	for name, move := range map[string]func(*Entry){
		"wall clock set forward": func(e *Entry) { e.wall = time.Now().UnixNano() - 1 },
		"wall clock set back": func(e *Entry) {
			e.wall, e.clock = time.Now().Add(time.Hour).UnixNano(), &clock{}
			e.clock.advance(f.tab.Lead() + int64(2*time.Hour))
		},
	} {
		e := *f.tab.entries["c"]
		move(f.tab.entries["c"])
		if d := f.tab.Live("c"); d != Expired {
			t.Errorf("%s: %s", name, d)
		}
		if d := f.tab.Call("c", s, "get"); d != Expired {
			t.Errorf("%s: %s", name, d)
		}
		*f.tab.entries["c"] = e
	}
	if _, live := f.tab.Count(); live != 4 {
		t.Error(live)
	}
}

func TestDecisions(t *testing.T) {
	f := newFeed(t)
	root, holder, serving, service, answers, asks := uid(1), uid(2), uid(3), uid(4), uid(5), uid(6)
	f.grant(root, "", "svc:*/*=*", "kernel=*", "audit=*")
	f.grant(holder, root, "svc:x/y=call:get,status")
	f.apply(granted(&kernelv1.CapRecord{Id: serving, Kind: kernelv1.CapKind_CAP_KIND_SERVING, Service: "x/y"}))
	f.apply(granted(&kernelv1.CapRecord{Id: service, Parent: holder, Kind: kernelv1.CapKind_CAP_KIND_SERVICE, Service: "x/y", Rules: []string{"svc:x/y=call:get"}}))
	bound := func(id, parent string, epoch uint64, node string) []string {
		return f.apply(granted(&kernelv1.CapRecord{Id: id, Parent: parent, Kind: kernelv1.CapKind_CAP_KIND_BOUND, Service: "x/y", Epoch: epoch, Node: node}))
	}
	bound(answers, serving, 1, "n")
	bound(asks, service, 1, "n")
	component := uid(9)
	f.tab.SetComponents(map[string]string{component: subject.Deployer})
	xy := subject.Service{Namespace: "x", Name: "y"}

	for id, want := range map[string]Decision{root: Allowed, holder: Allowed, asks: Allowed, answers: NotGranted, serving: NotGranted, service: NotGranted, uid(7): Unknown, component: Unknown} {
		if d := f.tab.Call(id, xy, "get"); d != want {
			t.Errorf("call by %s: %s, want %s", id, d, want)
		}
	}
	if d := f.tab.Call(holder, xy, "add"); d != NotGranted {
		t.Error(d)
	}
	for _, c := range []struct {
		component, op string
		s             subject.Service
		id            string
		want          Decision
	}{
		{subject.Registry, "status", xy, holder, Allowed},
		{subject.Registry, "status", xy, component, NotGranted},
		{subject.Registry, "resolve", xy, holder, Allowed},
		{subject.Deployer, "kill", xy, holder, NotGranted},
		{subject.Deployer, "kill", xy, root, Allowed},
		{subject.Registry, "list", subject.Nothing(), root, Allowed},
		{subject.Registry, "list", subject.Nothing(), holder, NotGranted},
		{subject.Kernel, "shutdown", subject.Nothing(), root, Allowed},
		{subject.Kernel, "shutdown", xy, root, NotGranted},
		{subject.Capmgr, "grant", subject.Nothing(), holder, Allowed},
		{subject.Capmgr, "grant", subject.Nothing(), asks, Allowed},
		{subject.Capmgr, "grant", subject.Nothing(), answers, NotGranted},
		{subject.Capmgr, "grant", subject.Nothing(), component, NotGranted},
		{subject.Capmgr, "bind", subject.Nothing(), component, Allowed},
		{subject.Capmgr, "bind", subject.Nothing(), root, NotGranted},
		{subject.Registry, "nothing", xy, root, NotGranted},
	} {
		if d := f.tab.System(subject.System{Component: c.component, Op: c.op, Service: c.s, ID: c.id}); d != c.want {
			t.Errorf("%s.%s on %s by %s: %s, want %s", c.component, c.op, c.s, c.id, d, c.want)
		}
	}
	if d := f.tab.Rule(holder, capability.ServiceObject(xy), "status"); d != Allowed {
		t.Error(d)
	}
	if d := f.tab.Rule(holder, capability.Object{Kind: capability.Audit}, "read"); d != NotGranted {
		t.Error(d)
	}
	if d := f.tab.Rule(uid(7), capability.Object{Kind: capability.Audit}, "read"); d != Unknown {
		t.Error(d)
	}
	if f.tab.Component(component) != subject.Deployer || f.tab.Components()[component] != subject.Deployer || f.tab.Component(holder) != "" {
		t.Error("components")
	}

	// A newer epoch takes over on its own node alone.
	bound(uid(20), serving, 1, "other")
	if died := bound(uid(21), serving, 2, "n"); !slices.Equal(died, []string{answers}) {
		t.Error(died)
	}
	if f.tab.Live(uid(20)) != Allowed || f.tab.Live(uid(21)) != Allowed {
		t.Error("the wrong placement died")
	}
	// Without a lease nothing goes, whoever asks.
	f.tab.SetLease(Boottime() - 1)
	if f.tab.Leased() || f.tab.Call(root, xy, "get") != NoLease || f.tab.System(subject.System{Component: subject.Capmgr, Op: "bind", Service: subject.Nothing(), ID: component}) != NoLease {
		t.Error("acts without a lease")
	}
	if s := NoLease.String() + Unknown.String() + NotGranted.String(); s != "LEASEUNKNOWNNOT_GRANTED" {
		t.Error(s)
	}
}

// TestManyAtOnce is for the race detector, and holds that a check sees a change or does not,
// never half of it: once the child is dead its parent may be alive, the other way never.
func TestManyAtOnce(t *testing.T) {
	f := newFeed(t)
	xy := subject.Service{Namespace: "x", Name: "y"}
	f.grant("root", "", "svc:*/*=*")
	const n = 300
	for i := range n {
		f.grant(fmt.Sprint("p", i), "root", "svc:x/y=*")
		f.grant(fmt.Sprint("c", i), fmt.Sprint("p", i), "svc:x/y=*")
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := w; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				p := f.tab.Call(fmt.Sprint("p", i%n), xy, "get")
				if c := f.tab.Call(fmt.Sprint("c", i%n), xy, "get"); p == Revoked && c == Allowed {
					t.Error("a child outlived its parent")
				}
				f.tab.Children("root", i%n, 3)
				f.tab.Count()
				f.tab.SetLease(Boottime() + int64(time.Hour))
			}
		})
	}
	for i := range n {
		f.apply(revoked(fmt.Sprint("p", i)))
		f.grant(fmt.Sprint("n", i), "root", "svc:x/y=*")
	}
	close(stop)
	wg.Wait()
}

func TestCheckDoesNotAllocate(t *testing.T) {
	tab, ids := crowd(t, 1000)
	xy := subject.Service{Namespace: "x", Name: "y"}
	m := subject.System{Component: subject.Registry, Op: "status", Service: xy}
	i := 0
	if n := testing.AllocsPerRun(1000, func() { i++; tab.Call(ids[i%len(ids)], xy, "get") }); n != 0 {
		t.Errorf("Call allocates %v times", n)
	}
	if n := testing.AllocsPerRun(1000, func() { i++; m.ID = ids[i%len(ids)]; tab.System(m) }); n != 0 {
		t.Errorf("System allocates %v times", n)
	}
}

func crowd(t testing.TB, n int) (*Table, []string) {
	f := newFeed(t)
	f.grant("root", "", "svc:*/*=*")
	ids, parent := make([]string, n), "root"
	for i := range ids {
		ids[i] = uid(i)
		f.apply(granted(&kernelv1.CapRecord{
			Id: ids[i], Parent: parent, Rules: []string{"svc:a/*=status", "svc:x/*=call:get,status"}, ExpiresAt: timestamppb.New(time.Now().Add(time.Hour)),
		}))
		if parent = "root"; i%16 != 0 {
			parent = ids[i]
		}
	}
	return f.tab, ids
}

func BenchmarkCheck(b *testing.B) {
	xy := subject.Service{Namespace: "x", Name: "y"}
	for _, n := range []int{10_000, 100_000} {
		tab, ids := crowd(b, n)
		b.Run(fmt.Sprintf("Call/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if tab.Call(ids[i*7919%n], xy, "get") != Allowed {
					b.Fatal("refused")
				}
			}
		})
		b.Run(fmt.Sprintf("System/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			m := subject.System{Component: subject.Registry, Op: "status", Service: xy}
			for i := 0; b.Loop(); i++ {
				if m.ID = ids[i*7919%n]; tab.System(m) != Allowed {
					b.Fatal("refused")
				}
			}
		})
	}
}
