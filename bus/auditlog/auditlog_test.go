package auditlog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
)

func recorder(t *testing.T, js jetstream.JetStream) *auditlog.Recorder {
	t.Helper()
	tab := gate.NewTable()
	var events []*kernelv1.CapEvent
	for i, id := range []string{"root", "a", "b"} {
		r := &kernelv1.CapRecord{Id: id, Kind: kernelv1.CapKind_CAP_KIND_HOLDER}
		if i > 0 {
			r.Parent = []string{"root", "a", "b"}[i-1]
		}
		events = append(events, &kernelv1.CapEvent{Sequence: uint64(i + 1), Change: &kernelv1.CapEvent_Granted{Granted: r}})
	}
	if _, err := tab.Apply(events); err != nil {
		t.Fatal(err)
	}
	return auditlog.New(js, subject.Deployer, tab, slog.New(slog.DiscardHandler))
}

// records reads the whole trail.
func records(t *testing.T, js jetstream.JetStream) (out []*solov1.AuditRecord) {
	t.Helper()
	s, err := js.Stream(t.Context(), stream.Audit)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		r, err := auditlog.Parse(m.Data)
		if err != nil {
			t.Fatalf("%s: %v", m.Data, err)
		}
		again, err := auditlog.Canonical(r)
		if err != nil || string(again) != string(m.Data) {
			t.Errorf("not canonical: %s, %s, %v", m.Data, again, err)
		}
		if want := subject.AuditEvent(r.GetComponent(), r.GetEvent()); m.Subject != want {
			t.Errorf("%s on %s", want, m.Subject)
		}
		out = append(out, r)
	}
	return out
}

func TestIntentAndOutcome(t *testing.T) {
	s := jstest.New(t)
	r := recorder(t, s.JS)
	e := auditlog.Entry{
		Holder: "b", Event: "deploy", Object: "svc:x/y", RequestID: "r1", ArgumentDigest: "aa", TraceID: "tt", Attributes: map[string]string{"k": "v"},
	}
	op, err := r.Intent(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	if got := records(t, s.JS); len(got) != 1 || got[0].GetPhase() != "intent" { // on disk before it returned
		t.Fatal(got)
	}
	op.Code("cc")
	ended, cancel := context.WithCancel(t.Context())
	cancel() // the caller is gone; the effect is not
	if err := op.Outcome(ended, nil, map[string]string{"n": "1"}); err != nil {
		t.Fatal(err)
	}
	e.RequestID = ""
	if op, err = r.Intent(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if err := op.Outcome(t.Context(), fault.New(codes.NotFound, fault.ReasonServiceNotFound, "no such"), nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Fact(t.Context(), auditlog.Entry{Event: "crash", Object: "svc:x/y"}); err != nil {
		t.Fatal(err)
	}
	got := records(t, s.JS)
	if len(got) != 5 {
		t.Fatal(got)
	}
	for i, want := range []string{
		"intent allowed r1 aa  map[k:v]", "outcome done r1 aa cc map[n:1]", "intent allowed", "outcome failed", "fact done   ",
	} {
		x := got[i]
		if text := fmt.Sprint(x.GetPhase(), " ", x.GetDecision(), " ", x.GetRequestId(), " ", x.GetArgumentDigest(), " ", x.GetCodeDigest(), " ", x.GetAttributes()); !strings.HasPrefix(text, want) {
			t.Errorf("%d: %q, want %q", i, text, want)
		}
		if x.GetComponent() != subject.Deployer || x.GetObject() != "svc:x/y" || x.GetTime() == nil || x.GetMonotonicNs() == 0 {
			t.Errorf("%v", x)
		}
		if i < 4 && (x.GetHolder() != "b" || strings.Join(x.GetChain(), " ") != "a root" || x.GetTraceId() != "tt") {
			t.Errorf("%v", x)
		}
	}
	if got[2].GetRequestId() == "" || got[2].GetRequestId() != got[3].GetRequestId() || got[3].GetAttributes()["reason"] != fault.ReasonServiceNotFound || got[3].GetAttributes()["message"] != "no such" {
		t.Errorf("%v %v", got[2], got[3])
	}
}

func TestWithoutTheStreamNothingHappens(t *testing.T) {
	s := jstest.New(t)
	r := recorder(t, s.JS)
	op, err := r.Intent(t.Context(), auditlog.Entry{Event: "kill"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.JS.DeleteStream(t.Context(), stream.Audit); err != nil {
		t.Fatal(err)
	}
	_, err = r.Intent(t.Context(), auditlog.Entry{Event: "kill"})
	if !fault.Is(err, fault.ReasonAuditUnavailable) || !fault.From(err).Retryable {
		t.Error(err)
	}
	if err := op.Outcome(t.Context(), errors.New("x"), nil); err == nil {
		t.Error("an outcome that is nowhere is taken for recorded")
	}
}

func TestDenialsAreCounted(t *testing.T) {
	s := jstest.New(t)
	r := recorder(t, s.JS)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	m := subject.System{Component: subject.Deployer, Op: "kill", Service: subject.Service{Namespace: "x", Name: "y"}, ID: "b"}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				r.Denied(m, gate.NotGranted)
				r.Count("a", "call.get", "svc:x/y", "REVOKED")
			}
			r.Denied(subject.System{Component: subject.Deployer, Op: "upload", Service: subject.Nothing(), ID: "a"}, gate.Expired)
		})
	}
	wg.Wait()
	cancel()
	<-done // what is left is recorded at the end
	sum := map[string]uint32{}
	for _, x := range records(t, s.JS) {
		if x.GetEvent() != "denied" || x.GetPhase() != "fact" || x.GetDecision() != "denied" {
			t.Errorf("%v", x)
		}
		sum[x.GetHolder()+" "+x.GetAttributes()["op"]+" "+x.GetObject()+" "+x.GetAttributes()["reason"]] += x.GetCount()
	}
	for what, n := range map[string]uint32{"b deployer.kill svc:x/y NOT_GRANTED": 200, "a call.get svc:x/y REVOKED": 200, "a deployer.upload - EXPIRED": 4} {
		if sum[what] != n {
			t.Errorf("%s: %d, want %d; %v", what, sum[what], n, sum)
		}
	}
}

func TestDenialsAreBounded(t *testing.T) {
	s := jstest.New(t)
	r := recorder(t, s.JS)
	for i := range 1500 {
		r.Count(fmt.Sprint("holder", i), "x.y", "-", "UNKNOWN")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Run(ctx)
	got := records(t, s.JS)
	if len(got) != 1001 {
		t.Fatalf("%d records", len(got))
	}
	for _, x := range got {
		if x.GetHolder() == "" && (x.GetCount() != 500 || x.GetAttributes()["reason"] != "MANY") {
			t.Errorf("%v", x)
		}
	}
}

func TestOneHolderDoesNotHideTheDenialsOfOthers(t *testing.T) {
	s := jstest.New(t)
	r := recorder(t, s.JS)
	for i := range 2000 {
		r.Count("loud", "publish", fmt.Sprint("svc.x.y.", i), "SERVER")
	}
	r.Count("quiet", "call.get", "svc:x/y", "REVOKED")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Run(ctx)
	var loud uint32
	quiet := false
	got := records(t, s.JS)
	for _, x := range got {
		if x.GetHolder() == "loud" {
			loud += x.GetCount()
		}
		quiet = quiet || x.GetHolder() == "quiet" && x.GetObject() == "svc:x/y"
	}
	if loud != 2000 || !quiet || len(got) > 70 {
		t.Errorf("%d of the loud one, the quiet one %t, %d records", loud, quiet, len(got))
	}
}
