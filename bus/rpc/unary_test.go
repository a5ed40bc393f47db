package rpc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func status(_ context.Context, _ Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
	return &solov1.StatusResponse{Service: &solov1.Service{Name: req.GetService(), Revision: 7}}, nil
}

func wantFault(t *testing.T, err error, code codes.Code, reason string) *fault.Error {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Code != code || f.Reason != reason {
		t.Fatalf("error %v (%T), want %s %s", err, err, code, reason)
	}
	return f
}

func TestCall(t *testing.T) {
	w := newWorld(t)
	seen := make(chan Caller, 1)
	w.serve(Options{}, func(s *Server) {
		Handle(s, "status", func(ctx context.Context, c Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the handler has no deadline")
			}
			seen <- c
			return status(ctx, c, req)
		})
	})
	p := w.holder("svc:acme/*=status")
	req := &solov1.StatusRequest{Service: "acme/billing"}
	var resp solov1.StatusResponse
	if err := p.Call(within(t), subject.Registry, "status", acme, req, &resp); err != nil {
		t.Fatal(err)
	}
	if resp.GetService().GetName() != "acme/billing" || resp.GetService().GetRevision() != 7 {
		t.Errorf("answer %v", &resp)
	}
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	sum := sha256.Sum256(b)
	c := await(t, "the caller", seen)
	if c.ID != p.ID || c.Service != acme || c.Op != "status" || c.Component != "" || c.Digest != hex.EncodeToString(sum[:]) {
		t.Errorf("caller %+v", c)
	}
}

// raw sends a body as it is and returns the answer.
func raw(t *testing.T, p Peer, subj string, body []byte, header nats.Header) *nats.Msg {
	t.Helper()
	m := nats.NewMsg(subj)
	m.Data = body
	for k, v := range header {
		m.Header[k] = v
	}
	r, err := p.Conn.RequestMsgWithContext(within(t), m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestJSON(t *testing.T) {
	w := newWorld(t)
	w.serve(Options{}, func(s *Server) { Handle(s, "status", status) })
	p := w.holder("svc:acme/*=status")
	subj := subject.Sys(subject.Registry, "status", acme, p.ID)
	h := nats.Header{"Content-Type": {"application/json"}}

	r := raw(t, p, subj, []byte(`{"service":"acme/billing"}`), h)
	var resp solov1.StatusResponse
	if err := protojson.Unmarshal(r.Data, &resp); err != nil || resp.GetService().GetName() != "acme/billing" {
		t.Errorf("answer %s: %v", r.Data, err)
	}
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("the answer's Content-Type is %q", got)
	}

	f := wantFault(t, ReplyError(raw(t, p, subj, []byte(`{"service":"acme/billing","servcie":1}`), h)), codes.InvalidArgument, fault.ReasonInvalidArgument)
	if len(f.Fields) != 1 || f.Fields[0].Path != "servcie" || !strings.Contains(f.Message, "servcie") {
		t.Errorf("the unknown field is not named: %+v", f)
	}
	for _, body := range []string{`{`, `[]`, `{"service":1}`, "\x00"} {
		wantFault(t, ReplyError(raw(t, p, subj, []byte(body), h)), codes.InvalidArgument, fault.ReasonInvalidArgument)
	}
	// The rules of the proto hold for an empty body as well.
	wantFault(t, ReplyError(raw(t, p, subj, nil, h)), codes.InvalidArgument, fault.ReasonInvalidArgument)
	wantFault(t, ReplyError(raw(t, p, subj, []byte("\xff\xff"), nil)), codes.InvalidArgument, fault.ReasonInvalidArgument)
}

func TestValidationNamesFields(t *testing.T) {
	w := newWorld(t)
	w.serve(Options{Component: subject.Deployer}, func(s *Server) {
		Handle(s, "deploy", func(context.Context, Caller, *solov1.DeployRequest) (*solov1.DeployResponse, error) {
			t.Error("an invalid request reached the handler")
			return &solov1.DeployResponse{}, nil
		})
	})
	p := w.holder("svc:acme/*=deploy")
	req := &solov1.DeployRequest{
		Manifest: &solov1.Manifest{Name: "Nope", Operations: []*solov1.Operation{{Name: "ok"}, {Name: "-"}}, Replicas: 5000},
		Code:     &solov1.Code{Kind: &solov1.Code_Archive{Archive: []byte{1}}},
	}
	err := p.Call(within(t), subject.Deployer, "deploy", acme, req, &solov1.DeployResponse{})
	f := wantFault(t, err, codes.InvalidArgument, fault.ReasonInvalidArgument)
	var paths []string
	for _, x := range f.Fields {
		paths = append(paths, x.Path)
	}
	slices.Sort(paths)
	if want := []string{"manifest.name", "manifest.operations[1].name", "manifest.replicas"}; !slices.Equal(paths, want) {
		t.Errorf("fields %q, want %q", paths, want)
	}
	if !strings.Contains(f.Message, paths[0]) {
		t.Errorf("the message names no field: %s", f.Message)
	}
}

func TestGateDecides(t *testing.T) {
	w := newWorld(t)
	w.serve(Options{}, func(s *Server) {
		Handle(s, "status", status)
		Handle(s, "get", status)
	})
	ask := func(p Peer, op string, of subject.Service) error {
		return p.Call(within(t), subject.Registry, op, of, &solov1.StatusRequest{Service: "acme/billing"}, &solov1.StatusResponse{})
	}
	p := w.holder("svc:acme/*=status")
	if err := ask(p, "status", acme); err != nil {
		t.Fatal(err)
	}
	wantFault(t, ask(p, "status", subject.Service{Namespace: "bob", Name: "x"}), codes.PermissionDenied, fault.ReasonNotGranted)
	wantFault(t, ask(p, "get", subject.Nothing()), codes.PermissionDenied, fault.ReasonNotGranted)
	wantFault(t, ask(Peer{p.Conn, newID(t)}, "status", acme), codes.Unauthenticated, fault.ReasonHandleRefused)

	component := Peer{w.conn(), newID(t)}
	w.table.SetComponents(map[string]string{component.ID: subject.Deployer})
	if err := ask(component, "get", subject.Nothing()); err != nil {
		t.Errorf("a component is refused an internal call: %v", err)
	}
	wantFault(t, ask(component, "status", acme), codes.PermissionDenied, fault.ReasonNotGranted)

	w.revoke(p.ID)
	wantFault(t, ask(p, "status", acme), codes.Unauthenticated, fault.ReasonHandleRefused)
	w.table.SetLease(0)
	if f := wantFault(t, ask(p, "status", acme), codes.Unavailable, fault.ReasonLeaseExpired); !f.Retryable {
		t.Error("a lost lease is not retryable")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	want := []gate.Decision{gate.NotGranted, gate.NotGranted, gate.Unknown, gate.NotGranted, gate.Revoked, gate.NoLease}
	if !slices.Equal(w.denied, want) {
		t.Errorf("denials %v, want %v", w.denied, want)
	}
}

func TestRecheck(t *testing.T) {
	w := newWorld(t)
	begun, revoked := make(chan struct{}), make(chan struct{})
	w.serve(Options{}, func(s *Server) {
		Handle(s, "status", func(ctx context.Context, c Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
			close(begun)
			<-revoked
			if err := c.Recheck(); err != nil {
				return nil, err
			}
			return status(ctx, c, req)
		})
	})
	p := w.holder("svc:acme/*=status")
	go func() { <-begun; w.revoke(p.ID); close(revoked) }()
	err := p.Call(within(t), subject.Registry, "status", acme, &solov1.StatusRequest{Service: "a/b"}, &solov1.StatusResponse{})
	wantFault(t, err, codes.Unauthenticated, fault.ReasonHandleRefused)
}

func TestUnknown(t *testing.T) {
	w := newWorld(t)
	w.serve(Options{}, func(s *Server) {})
	p := w.holder("svc:*/*=*")
	err := p.Call(within(t), subject.Registry, "status", acme, &solov1.StatusRequest{}, &solov1.StatusResponse{})
	wantFault(t, err, codes.Unimplemented, fault.ReasonUnimplemented)
	wantFault(t, ReplyError(raw(t, p, "sys.registry.status.acme."+p.ID, nil, nil)), codes.InvalidArgument, fault.ReasonInvalidSubject)
	wantFault(t, ReplyError(raw(t, p, "str.registry.watch.acme."+p.ID, nil, nil)), codes.InvalidArgument, fault.ReasonInvalidSubject)
	err = p.Call(within(t), subject.Capmgr, "grant", subject.Service{}, &solov1.GrantCapabilityRequest{}, &solov1.GrantCapabilityResponse{})
	if f := wantFault(t, err, codes.Unavailable, fault.ReasonUnavailable); !f.Retryable {
		t.Error("nobody there is not retryable")
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	w := newWorld(t)
	begun, release := make(chan struct{}, 2), make(chan struct{})
	w.serve(Options{Concurrency: 2}, func(s *Server) {
		Handle(s, "status", func(ctx context.Context, c Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
			begun <- struct{}{}
			<-release
			return status(ctx, c, req)
		})
	})
	p := w.holder("svc:*/*=status")
	ask := func() error {
		return p.Call(within(t), subject.Registry, "status", acme, &solov1.StatusRequest{Service: "a/b"}, &solov1.StatusResponse{})
	}
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- ask() }()
	}
	await(t, "first", begun)
	await(t, "second", begun)
	if f := wantFault(t, ask(), codes.ResourceExhausted, fault.ReasonRateLimited); f.RetryAfter == 0 {
		t.Error("no retry time")
	}
	close(release)
	for range 2 {
		if err := await(t, "the others", done); err != nil {
			t.Error(err)
		}
	}
	<-w.refill(t, ask)
}

// refill asks until the places are free again: they are given back after the answer.
func (w *world) refill(t *testing.T, ask func() error) <-chan struct{} {
	done := make(chan struct{})
	defer close(done)
	ctx := within(t)
	for ctx.Err() == nil {
		err := ask()
		if err == nil {
			return done
		}
		wantFault(t, err, codes.ResourceExhausted, fault.ReasonRateLimited)
	}
	t.Fatal("the places are never given back")
	return done
}

func TestAnsweredAtTheDeadline(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	var after atomic.Int32
	s := w.serve(Options{}, func(s *Server) {
		Handle(s, "status", func(context.Context, Caller, *solov1.StatusRequest) (*solov1.StatusResponse, error) {
			<-release // it does not look at its context
			after.Add(1)
			return &solov1.StatusResponse{}, nil
		})
		Handle(s, "list", func(ctx context.Context, _ Caller, _ *solov1.ListRequest) (*solov1.ListResponse, error) {
			<-ctx.Done()
			return nil, fmt.Errorf("reading: %w", ctx.Err())
		})
	})
	p := w.holder("svc:*/*=status,list")
	h := nats.Header{HeaderTimeout: {"30"}}
	b, _ := proto.Marshal(&solov1.StatusRequest{Service: "a/b"})
	wantFault(t, ReplyError(raw(t, p, subject.Sys(subject.Registry, "status", acme, p.ID), b, h)), codes.DeadlineExceeded, fault.ReasonDeadlineExceeded)
	wantFault(t, ReplyError(raw(t, p, subject.Sys(subject.Registry, "list", acme, p.ID), nil, h)), codes.DeadlineExceeded, fault.ReasonDeadlineExceeded)
	if after.Load() != 0 {
		t.Error("the handler had finished already")
	}
	close(release)
	s.Close(within(t)) // waits for the handler
	if after.Load() != 1 {
		t.Error("Close did not wait for the handler")
	}
}

func TestTimeout(t *testing.T) {
	for v, want := range map[string]string{"": "30s", "x": "30s", "-5": "30s", "0": "30s", "1500": "1.5s", "999999999": "10m0s"} {
		m := nats.NewMsg("x")
		m.Header.Set(HeaderTimeout, v)
		if got := Timeout(m).String(); got != want {
			t.Errorf("%q: %s, want %s", v, got, want)
		}
	}
}

func TestPanicIsAFault(t *testing.T) {
	w := newWorld(t)
	w.serve(Options{}, func(s *Server) {
		Handle(s, "status", func(_ context.Context, _ Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
			if req.GetService() == "a/b" {
				panic("secret cause")
			}
			return &solov1.StatusResponse{}, nil
		})
	})
	p := w.holder("svc:*/*=status")
	err := p.Call(within(t), subject.Registry, "status", acme, &solov1.StatusRequest{Service: "a/b"}, &solov1.StatusResponse{})
	f := wantFault(t, err, codes.Internal, fault.ReasonInternal)
	if strings.Contains(f.Error(), "secret") {
		t.Errorf("the cause crossed the wire: %v", f)
	}
	if err := p.Call(within(t), subject.Registry, "status", acme, &solov1.StatusRequest{Service: "a/c"}, &solov1.StatusResponse{}); err != nil {
		t.Errorf("the component does not go on: %v", err)
	}
}

func TestAnswerTooLargeIsAFault(t *testing.T) {
	w := newWorld(t)
	w.serve(Options{}, func(s *Server) {
		Handle(s, "status", func(context.Context, Caller, *solov1.StatusRequest) (*solov1.StatusResponse, error) {
			return &solov1.StatusResponse{Service: &solov1.Service{LastError: strings.Repeat("x", 3<<20)}}, nil
		})
	})
	p := w.holder("svc:*/*=status")
	err := p.Call(within(t), subject.Registry, "status", acme, &solov1.StatusRequest{Service: "a/b"}, &solov1.StatusResponse{})
	wantFault(t, err, codes.ResourceExhausted, fault.ReasonTooLarge)
	err = p.Call(within(t), subject.Registry, "status", acme, &solov1.StatusRequest{Service: strings.Repeat("x", 3<<20)}, &solov1.StatusResponse{})
	wantFault(t, err, codes.InvalidArgument, fault.ReasonTooLarge)
}

func TestCallEnds(t *testing.T) {
	w := newWorld(t)
	begun, release := make(chan struct{}, 1), make(chan struct{})
	s := w.serve(Options{}, func(s *Server) {
		Handle(s, "status", func(ctx context.Context, c Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
			begun <- struct{}{}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-release:
			}
			return status(ctx, c, req)
		})
	})
	p := w.holder("svc:*/*=status")
	ask := func(ctx context.Context) error {
		return p.Call(ctx, subject.Registry, "status", acme, &solov1.StatusRequest{Service: "a/b"}, &solov1.StatusResponse{})
	}
	done := make(chan error, 2)

	ctx, cancel := context.WithCancel(within(t))
	go func() { done <- ask(ctx) }()
	await(t, "the call", begun)
	cancel()
	wantFault(t, await(t, "the cancelled call", done), codes.Canceled, fault.ReasonUnavailable)

	// Closing lets calls end while its own time lasts, and cancels them then.
	go func() { done <- ask(within(t)) }()
	await(t, "the call", begun)
	s.Close(canceled())
	if f := wantFault(t, await(t, "the call cut by Close", done), codes.Unavailable, fault.ReasonUnavailable); !f.Retryable {
		t.Error("not retryable")
	}
	wantFault(t, ask(within(t)), codes.Unavailable, fault.ReasonUnavailable)
	p.Conn.Close()
	wantFault(t, ask(within(t)), codes.Unavailable, fault.ReasonUnavailable)
}

// Requests that lie in the component's queue when it closes are answered, not dropped.
func TestCloseAnswersWhatWasDelivered(t *testing.T) {
	const n = 200
	w := newWorld(t)
	begun := make(chan struct{}, n)
	s := w.serve(Options{Concurrency: 3 * n}, func(s *Server) {
		Handle(s, "status", func(ctx context.Context, c Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
			begun <- struct{}{}
			return status(ctx, c, req)
		})
	})
	p := w.holder("svc:*/*=status")
	done := make(chan error, n)
	for range n {
		go func() {
			done <- p.Call(within(t), subject.Registry, "status", acme, &solov1.StatusRequest{Service: "a/b"}, &solov1.StatusResponse{})
		}()
	}
	await(t, "the first", begun)
	s.Close(within(t))
	for range n {
		if err := await(t, "an answer", done); err != nil {
			wantFault(t, err, codes.Unavailable, fault.ReasonUnavailable)
		}
	}
}

func TestErrorReplyWithoutBody(t *testing.T) {
	m := nats.NewMsg("x")
	m.Header.Set(headerError, "text")
	m.Header.Set(headerErrorCode, "5")
	if f := wantFault(t, ReplyError(m), codes.NotFound, "NotFound"); f.Message != "text" {
		t.Error(f.Message)
	}
	m.Header.Set(headerErrorCode, "900")
	wantFault(t, ReplyError(m), codes.Unknown, "Unknown")
	if ReplyError(nats.NewMsg("x")) != nil {
		t.Error("no error became one")
	}
	plain := &nats.Msg{}
	ErrorReply(plain, errors.New("line one\r\nInjected: yes"))
	if f := wantFault(t, ReplyError(plain), codes.Internal, fault.ReasonInternal); strings.Contains(f.Error(), "Injected") {
		t.Error(f)
	}
}

func TestAbout(t *testing.T) {
	on := func(ns, name string) Caller {
		return Caller{System: subject.System{Service: subject.Service{Namespace: ns, Name: name}}}
	}
	for _, c := range []struct {
		ns, name, value string
		ok              bool
	}{
		{"-", "-", "", true},
		{"-", "-", "*/*", true},
		{"-", "-", "a/*", true},
		{"-", "-", "a/b", true},
		{"a", "-", "a/*", true},
		{"a", "-", "a/b", true},
		{"a", "-", "b/*", false},
		{"a", "-", "*/*", false},
		{"a", "-", "", false},
		{"a", "b", "a/b", true},
		{"a", "b", "a/*", false},
		{"a", "b", "a/c", false},
		{"-", "b", "*/b", true},
		{"-", "b", "a/b", true},
		{"-", "b", "*/*", false},
		{"-", "-", "a", false},
		{"-", "-", "A/b", false},
		{"-", "-", "a/b/c", false},
		{"-", "-", "a/>", false},
		{"-", "-", "-/-", false},
	} {
		s, err := on(c.ns, c.name).About("service", c.value)
		if (err == nil) != c.ok {
			t.Errorf("%s/%s about %q: %v %v", c.ns, c.name, c.value, s, err)
		}
		if err != nil {
			if f := wantFault(t, err, codes.InvalidArgument, fault.ReasonInvalidArgument); f.Fields[0].Path != "service" {
				t.Errorf("%+v", f)
			}
		}
		_, err = on(c.ns, c.name).AboutOne("service", c.value)
		if one := c.ok && !strings.Contains(c.value, "*") && c.value != ""; (err == nil) != one {
			t.Errorf("%s/%s about one %q: %v", c.ns, c.name, c.value, err)
		}
	}
}
