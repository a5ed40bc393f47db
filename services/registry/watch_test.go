package registry_test

import (
	"fmt"
	"testing"

	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/services/registry"
	"google.golang.org/grpc/codes"
)

func watch(t *testing.T, p rpc.Peer, of subject.Service, service string, after uint64) *rpc.Reader {
	t.Helper()
	r, err := p.Open(within(t), subject.Registry, "watch", of, &solov1.WatchRequest{Service: service, AfterSequence: after})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func nextEvent(t *testing.T, r *rpc.Reader) *solov1.Event {
	t.Helper()
	var v solov1.WatchResponse
	if err := r.Next(within(t), &v); err != nil {
		t.Fatal(err)
	}
	return v.GetEvent()
}

func TestEventsInOrder(t *testing.T) {
	n := start(t)
	a := subject.Service{Namespace: "a", Name: "-"}
	var rev uint64
	r := registration("a/one", solov1.ServiceState_SERVICE_STATE_PENDING)
	rev = n.put(t, r, 0, &solov1.Event{Type: "deployed", Revision: 1, Attributes: map[string]string{"k": "v"}}, &solov1.Event{Type: "starting"})
	r.State = solov1.ServiceState_SERVICE_STATE_RUNNING
	rev = n.put(t, r, rev) // a change of state that its writer does not tell of is told all the same
	n.put(t, r, rev)       // and nothing where nothing has changed
	n.put(t, registration("b/one", solov1.ServiceState_SERVICE_STATE_PENDING), 0)
	if err := n.ask(t, "report", &kernelv1.ReportRequest{Node: "test", Events: []*solov1.Event{{Service: "a/one", Type: "restarted", Instance: "i0"}}}, &kernelv1.ReportResponse{}); err != nil {
		t.Fatal(err)
	}
	if err := n.ask(t, "delete", &kernelv1.DeleteRegistrationRequest{Service: "a/one"}, &kernelv1.DeleteRegistrationResponse{}); err != nil {
		t.Fatal(err)
	}
	p := n.peer(t, "svc:a/*=watch")
	// The first event has sequence 1; what comes after it is read twice, alike.
	for range 2 {
		w := watch(t, p, a, "a/*", 1)
		var types []string
		last := uint64(1)
		for len(types) < 4 {
			e := nextEvent(t, w)
			if e.GetSequence() <= last || e.GetTime() == nil || e.GetService() != "a/one" {
				t.Errorf("after %d: %v", last, e)
			}
			last = e.GetSequence()
			types = append(types, e.GetType())
		}
		if got := fmt.Sprint(types); got != "[starting running restarted removed]" {
			t.Errorf("events %s", got)
		}
	}
	everywhere := watch(t, n.peer(t, "svc:*/*=watch"), subject.Nothing(), "*/*", 3)
	if e := nextEvent(t, everywhere); e.GetService() != "b/one" || e.GetType() != "pending" {
		t.Errorf("%v", e)
	}
	// Nobody watches more than the subject says.
	for _, service := range []string{"b/*", "*/*", "b/one", "x"} {
		err := watch(t, p, a, service, 1).Next(within(t), &solov1.WatchResponse{})
		if f := wantFault(t, err, codes.InvalidArgument, fault.ReasonInvalidArgument); f.Fields[0].Path != "service" {
			t.Errorf("%+v", f)
		}
	}
}

func TestWatchFollows(t *testing.T) {
	n := start(t)
	const events = 600 // more than a reader's window
	p := n.peer(t, "svc:a/one=watch")
	rev := n.put(t, registration("a/one", solov1.ServiceState_SERVICE_STATE_PENDING), 0, &solov1.Event{Type: "first"})
	w := watch(t, p, subject.Service{Namespace: "a", Name: "one"}, "a/one", 1)
	r := registration("a/one", solov1.ServiceState_SERVICE_STATE_RUNNING)
	for i := range 3 {
		batch := make([]*solov1.Event, events/3)
		for j := range batch {
			batch[j] = &solov1.Event{Type: "step", Message: fmt.Sprint(i*len(batch) + j)}
		}
		rev = n.put(t, r, rev, batch...)
	}
	for i := range events {
		if e := nextEvent(t, w); e.GetMessage() != fmt.Sprint(i) {
			t.Fatalf("event %d: %v", i, e)
		}
	}
	// When the registry goes the watcher learns where to go on, and goes on with the next one.
	n.registry.Stop(t)
	err := w.Next(within(t), &solov1.WatchResponse{})
	if f := wantFault(t, err, codes.Unavailable, fault.ReasonUnavailable); !f.Retryable {
		t.Error("not retryable")
	}
	n.registry = n.Run(t, registry.Command(), nil)
	n.put(t, registration("a/one", solov1.ServiceState_SERVICE_STATE_STOPPED), rev)
	w = watch(t, p, subject.Service{Namespace: "a", Name: "one"}, "a/one", events+1)
	if e := nextEvent(t, w); e.GetType() != "stopped" {
		t.Errorf("%v", e)
	}
}
