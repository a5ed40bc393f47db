package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/gateway"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// raw asks for the status of acme/echo with the given metadata.
func (w *world) raw(t testing.TB, md ...string) error {
	t.Helper()
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = solov1.NewSoloKernelClient(conn).Status(metadata.AppendToOutgoingContext(t.Context(), md...), &solov1.StatusRequest{Service: "acme/echo"})
	return err
}

// Handles that are unknown, revoked or expired cannot be told apart, and no handle leaves a trace.
func TestRefusedHandlesLookAlike(t *testing.T) {
	w := start(t, gateway.Config{})
	good := w.grant(t, "svc:acme/*=*")
	revoked := w.grant(t, "svc:acme/*=*")
	short := w.GrantFrom(t, w.Root.ID, 500*time.Millisecond, "svc:acme/*=*")
	child := w.GrantFrom(t, revoked.ID, time.Hour, "svc:acme/*=status")
	unknown := bustest.NewHandle(t)
	for _, h := range []bustest.Handle{good, revoked, short, child} {
		if err := w.raw(t, "authorization", "Bearer "+h.Seed); err != nil {
			t.Fatal(err)
		}
	}
	w.Revoke(t, revoked.ID)
	deadline := time.After(10 * time.Second)
	for w.raw(t, "authorization", "Bearer "+short.Seed) == nil {
		select {
		case <-deadline:
			t.Fatal("an expired handle is still taken")
		default:
		}
	}
	var answers []*status.Status
	for _, h := range []bustest.Handle{revoked, short, child, unknown} {
		st := status.Convert(w.raw(t, "authorization", "Bearer "+h.Seed))
		if st.Code() != codes.Unauthenticated || fault.From(st.Err()).Reason != fault.ReasonHandleRefused {
			t.Error(st)
		}
		answers = append(answers, st)
	}
	for _, a := range answers[1:] {
		if !proto.Equal(a.Proto(), answers[0].Proto()) {
			t.Errorf("%v differs from %v", a, answers[0])
		}
	}
	typo := "SUA" + good.Seed[3:]
	if typo == good.Seed {
		typo = "SUB" + good.Seed[3:]
	}
	var said strings.Builder
	for name, md := range map[string][]string{
		"none": nil, "basic": {"authorization", "Basic " + good.Seed}, "bare": {"authorization", good.Seed}, "typo": {"authorization", "Bearer " + typo},
		"id": {"authorization", "Bearer " + good.ID}, "two": {"authorization", "Bearer " + good.Seed, "authorization", "Bearer " + revoked.Seed}, "long": {"authorization", "Bearer SU" + strings.Repeat("A", 8000)},
	} {
		err := w.raw(t, md...)
		if f := fault.From(err); f.Code != codes.Unauthenticated || f.Reason != fault.ReasonUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
		fmt.Fprintln(&said, err, status.Convert(err).Proto())
	}
	if err := w.raw(t, "Authorization", "bearer "+good.Seed); err != nil {
		t.Errorf("the scheme's case matters: %v", err)
	}
	families, err := w.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&said, families, w.logs)
	for _, h := range []bustest.Handle{good, revoked, short, child, unknown} {
		if strings.Contains(said.String(), h.Seed) {
			t.Errorf("the handle of %s has leaked", h.ID)
		}
	}
	if strings.Contains(said.String(), typo) {
		t.Error("a handle with a typing error has leaked")
	}
}

// Handles that are refused cost about the same, whatever is wrong with them.
func TestRefusedHandlesCostAlike(t *testing.T) {
	w := start(t, gateway.Config{RefusalRate: 1e6})
	revoked, expired, unknown := w.grant(t, "svc:acme/*=*"), w.GrantFrom(t, w.Root.ID, 1, "svc:acme/*=*"), bustest.NewHandle(t)
	child := w.GrantFrom(t, revoked.ID, time.Hour, "svc:acme/*=status")
	w.Revoke(t, revoked.ID)
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := solov1.NewSoloKernelClient(conn)
	handles := []bustest.Handle{revoked, child, expired, unknown}
	took := make([][]time.Duration, len(handles))
	const rounds = 200
	for range rounds {
		for i, h := range handles {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+h.Seed)
			begin := time.Now()
			_, err := c.Status(ctx, &solov1.StatusRequest{Service: "acme/echo"})
			took[i] = append(took[i], time.Since(begin))
			if fault.From(err).Reason != fault.ReasonHandleRefused {
				t.Fatal(err)
			}
		}
	}
	medians := make([]time.Duration, len(handles))
	for i := range handles {
		slices.Sort(took[i])
		medians[i] = took[i][rounds/2]
	}
	t.Log(medians)
	if slices.Max(medians) >= 3*slices.Min(medians) {
		t.Errorf("the median costs of revoked, below revoked, expired and unknown are %v", medians)
	}
}

// What is under way when a handle is revoked fails at once, calls and streams.
func TestRevocationEndsWhatIsUnderWay(t *testing.T) {
	w := start(t, gateway.Config{})
	begun := make(chan struct{}, 2)
	release := make(chan struct{})
	var once sync.Once
	free := func() { once.Do(func() { close(release) }) }
	t.Cleanup(free)
	w.serve(t, "acme/slow", func(_ string, m *nats.Msg) {
		begun <- struct{}{}
		<-release
		_ = m.Respond(nil) // nobody listens any more
	})
	h := w.grant(t, "svc:acme/*=*")
	c := w.client(t, h)
	called, streamed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := c.Call(t.Context(), "acme/slow", "wait", nil)
		called <- err
	}()
	reading := make(chan struct{})
	go func() {
		n := 0
		for _, err := range c.Watch(t.Context(), &solov1.WatchRequest{Service: "acme/open"}) {
			if n++; n == 1000 {
				close(reading)
			}
			if err != nil {
				streamed <- err
			}
		}
	}()
	<-begun
	<-reading
	if got := w.Revoke(t, h.ID); got.ConnectionsCut < 1 {
		t.Errorf("%d connections were cut", got.ConnectionsCut)
	}
	for what, ch := range map[string]chan error{"call": called, "stream": streamed} {
		select {
		case err := <-ch:
			if f := fault.From(err); f.Code != codes.Unauthenticated || f.Reason != fault.ReasonHandleRefused {
				t.Errorf("%s: %v", what, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("the %s goes on after the revocation", what)
		}
	}
	free()
	if _, err := c.Status(t.Context(), "acme/echo"); !fault.Is(err, fault.ReasonHandleRefused) {
		t.Error(err)
	}
}

func TestGuessingIsSlow(t *testing.T) {
	w := start(t, gateway.Config{RefusalRate: 0.01}) // two tries, then one in 100 s
	good := w.client(t, w.grant(t, "svc:acme/*=*"))
	if _, err := good.Status(t.Context(), "acme/echo"); err != nil {
		t.Fatal(err)
	}
	limited := false
	for range 5 {
		err := w.raw(t, "authorization", "Bearer "+bustest.NewHandle(t).Seed)
		switch f := fault.From(err); f.Reason {
		case fault.ReasonHandleRefused:
			if limited {
				t.Error("another try was let through")
			}
		case fault.ReasonRateLimited:
			limited = true
		default:
			t.Fatal(err)
		}
	}
	if !limited {
		t.Error("guessing is not slowed down")
	}
	w.mu.Lock()
	tried, slowed := 0, 0
	for r, n := range w.refusals {
		switch {
		case r.place != "127.0.0.1" || r.slowed != (r.id == ""):
			t.Errorf("told of %+v", r)
		case r.slowed:
			slowed += n
		default:
			tried += n
		}
	}
	w.mu.Unlock()
	if tried == 0 || slowed == 0 || tried+slowed != 5 {
		t.Errorf("of 5 tries the gateway tells of %d refused and %d slowed down", tried, slowed)
	}
	if _, err := good.Status(t.Context(), "acme/echo"); err != nil {
		t.Errorf("who is connected is held up: %v", err)
	}
}

func TestHoldersAreBounded(t *testing.T) {
	w := start(t, gateway.Config{Connections: 2, HolderConcurrency: 2, HolderRate: 20})
	release := make(chan struct{})
	begun := make(chan struct{}, 8)
	w.serve(t, "acme/slow", func(_ string, m *nats.Msg) {
		go func() {
			begun <- struct{}{}
			<-release
			_ = m.Respond([]byte("done")) // the test waits for it
		}()
	})
	a, b, third := w.client(t, w.grant(t, "svc:acme/*=*")), w.client(t, w.grant(t, "svc:acme/*=*")), w.client(t, w.grant(t, "svc:acme/*=*"))
	var wg sync.WaitGroup
	for _, c := range []interface {
		Call(context.Context, string, string, []byte) (*solov1.CallResponse, error)
	}{a, a, b} {
		wg.Go(func() {
			if r, err := c.Call(t.Context(), "acme/slow", "x", nil); err != nil || r.GetText() != "done" {
				t.Error(r, err)
			}
		})
	}
	for range 3 {
		<-begun
	}
	if _, err := a.Call(t.Context(), "acme/slow", "x", nil); !fault.Is(err, fault.ReasonRateLimited) {
		t.Errorf("a third call under way: %v", err)
	}
	if _, err := third.Call(t.Context(), "acme/slow", "x", nil); !fault.Is(err, fault.ReasonRateLimited) || fault.From(err).Code != codes.ResourceExhausted {
		t.Errorf("a third handle in use: %v", err)
	}
	close(release)
	wg.Wait()
	// With nothing under way the least recently used makes room.
	if _, err := third.Status(t.Context(), "acme/echo"); err != nil {
		t.Error(err)
	}
	limited := 0
	for range 60 {
		if _, err := third.Status(t.Context(), "acme/echo"); fault.Is(err, fault.ReasonRateLimited) {
			limited++
		}
	}
	if limited == 0 {
		t.Error("60 calls at once are within 20 a second")
	}
}

func TestIdleConnectionsAreClosedAndComeBack(t *testing.T) {
	w := start(t, gateway.Config{Idle: 20 * time.Millisecond})
	c := w.client(t, w.grant(t, "svc:acme/*=*"))
	if _, err := c.Status(t.Context(), "acme/echo"); err != nil {
		t.Fatal(err)
	}
	for kept := -1.0; kept != 0; {
		families, err := w.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == "solo_gateway_holder_connections" {
				kept = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		if t.Context().Err() != nil {
			t.Fatal("it is kept for ever")
		}
	}
	if _, err := c.Status(t.Context(), "acme/echo"); err != nil {
		t.Fatal(err)
	}
	if n, err := testutil.GatherAndCount(w.reg, "solo_grpc_request_duration_ms"); err != nil || n != 1 {
		t.Error(n, err)
	}
}

// A lost bus is not a refused handle.
func TestLostBus(t *testing.T) {
	w := start(t, gateway.Config{})
	w.stop()
	p := startProxy(t, w.Addr)
	bus := w.Addr
	w.Addr, w.reg = p.addr, prometheus.NewRegistry()
	w.gateway(t, gateway.Config{})
	w.Addr = bus
	begun := make(chan struct{}, 4)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	w.serve(t, "acme/slow", func(string, *nats.Msg) { begun <- struct{}{}; go func() { <-release }() })
	c := w.client(t, w.grant(t, "svc:acme/*=*"))
	for _, cut := range []func(){p.cut, p.down} {
		done := make(chan error, 1)
		go func() {
			_, err := c.Call(t.Context(), "acme/slow", "x", nil)
			done <- err
		}()
		<-begun
		cut()
		if f := fault.From(<-done); f.Code != codes.Unavailable || !strings.Contains(f.Message, "may have been done") {
			t.Error(f)
		}
	}
	if _, err := c.Call(t.Context(), "acme/slow", "x", nil); !fault.Is(err, fault.ReasonUnavailable) {
		t.Error(err)
	}
}

func TestDeadlinesAndCancellation(t *testing.T) {
	w := start(t, gateway.Config{})
	begun := make(chan string, 4)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	w.serve(t, "acme/slow", func(_ string, m *nats.Msg) {
		begun <- m.Header.Get("Solo-Timeout")
		go func() { <-release }()
	})
	c := w.client(t, w.grant(t, "svc:acme/*=*"))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.Call(ctx, "acme/slow", "x", nil)
	if fault.From(err).Code != codes.DeadlineExceeded {
		t.Error(err)
	}
	if ms := <-begun; ms == "" || len(ms) > 3 {
		t.Errorf("the service was told %q ms", ms)
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, err := c.Call(ctx, "acme/slow", "x", nil); fault.From(err).Code != codes.Canceled && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A call is refused by its headers: nothing of its message is waited for, or kept in memory.
func TestNoMessageIsTakenInWithoutALiveHandle(t *testing.T) {
	w := start(t, gateway.Config{})
	revoked := w.grant(t, "svc:acme/*=*")
	w.Revoke(t, revoked.ID)
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, c := range map[string]struct{ value, reason string }{
		"none":    {"", fault.ReasonUnauthenticated},
		"unknown": {"Bearer " + bustest.NewHandle(t).Seed, fault.ReasonHandleRefused},
		"revoked": {"Bearer " + revoked.Seed, fault.ReasonHandleRefused},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if c.value != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", c.value)
		}
		s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, solov1.SoloKernel_Deploy_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		// The message is never sent, so only the headers can be what is answered.
		if err := s.RecvMsg(&solov1.DeployResponse{}); fault.From(err).Reason != c.reason {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

// A handle has one spelling: the two bits of its last character that mean nothing are no second one.
func TestOneSpellingOfAHandle(t *testing.T) {
	w := start(t, gateway.Config{})
	h := w.grant(t, "svc:acme/*=*")
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	took := 0
	for _, c := range alphabet {
		if w.raw(t, "authorization", "Bearer "+h.Seed[:len(h.Seed)-1]+string(c)) == nil {
			took++
		}
	}
	if took != 1 {
		t.Errorf("%d spellings are taken", took)
	}
}
