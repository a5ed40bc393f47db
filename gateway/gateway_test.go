package gateway_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/gateway"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
)

func TestCall(t *testing.T) {
	w := start(t, gateway.Config{})
	w.serve(t, "acme/echo", echo)
	alice := w.client(t, w.grant(t, "svc:acme/*=call:*"))
	r, err := alice.Call(t.Context(), "acme/echo", "say", []byte("hello"))
	if err != nil || string(r.GetPayload()) != "hello" || r.GetText() != "hello" || r.GetInstance() != "i-1" || r.GetRevision() != 7 {
		t.Fatal(r, err)
	}
	if r, err = alice.Call(t.Context(), "acme/echo", "say", []byte{0xff, 0}); err != nil || r.GetText() != "" || len(r.GetPayload()) != 2 {
		t.Error(r, err)
	}
	if s, err := alice.CallText(t.Context(), "acme/echo", "say", "grüße"); err != nil || s != "grüße" {
		t.Error(s, err)
	}
	if _, err = alice.Call(t.Context(), "acme/echo", "fail", nil); !fault.Is(err, fault.ReasonServiceError) || fault.From(err).Code != codes.Aborted {
		t.Error(err)
	}
	if _, err = alice.Call(t.Context(), "acme/echo", "crash", nil); !strings.Contains(fault.From(err).Help, "solo crash acme/echo") {
		t.Error(err)
	}
	const tp = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for sent, want := range map[string]string{tp: tp, "nonsense": "", strings.Repeat("x", 55): ""} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", sent)
		if s, err := alice.CallText(ctx, "acme/echo", "trace", ""); err != nil || s != want {
			t.Errorf("%q: %q %v", sent, s, err)
		}
	}
	_, err = alice.Call(t.Context(), "acme/echo", "Bad!", nil)
	if f := fault.From(err); f.Code != codes.InvalidArgument || len(f.Fields) != 1 || f.Fields[0].Path != "op" {
		t.Error(err)
	}
	if _, err = alice.Call(t.Context(), "acme", "say", nil); fault.From(err).Code != codes.InvalidArgument {
		t.Error(err)
	}
	if _, err = alice.Call(t.Context(), "acme/echo", "say", make([]byte, 1<<20+1)); fault.From(err).Code != codes.InvalidArgument {
		t.Error(err)
	}
	if r, err = alice.Call(t.Context(), "acme/echo", "say", make([]byte, 1<<20)); err != nil || len(r.GetPayload()) != 1<<20 {
		t.Error(err)
	}
}

// What the bus refuses is explained by capmgr, asked as the holder.
func TestDenialIsExplained(t *testing.T) {
	w := start(t, gateway.Config{})
	w.serve(t, "acme/echo", echo)
	h := w.grant(t, "svc:acme/echo=call:get")
	bob := w.client(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := bob.Call(ctx, "acme/echo", "add", nil)
	f := fault.From(err)
	if f.Code != codes.PermissionDenied || f.Reason != fault.ReasonNotGranted || f.Retryable {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"object": "svc:acme/echo", "verb": "call:add", "grantors": w.Root.ID, "smallest_grant": "svc:acme/echo=call:add", "holder": h.ID} {
		if f.Metadata[k] != v {
			t.Errorf("%s is %q, want %q", k, f.Metadata[k], v)
		}
	}
	if c := w.caller("capmgr.explain"); c.ID != h.ID {
		t.Errorf("%s asked for the explanation, not the holder", c.ID)
	}
	// A subject that capmgr says nothing about is still a denial, with what the gateway knows.
	_, err = bob.Status(ctx, "acme/echo")
	if f := fault.From(err); f.Reason != fault.ReasonNotGranted || f.Metadata["smallest_grant"] != "svc:acme/echo=status" {
		t.Error(err)
	}
	if _, err = bob.Nodes(ctx); fault.From(err).Metadata["smallest_grant"] != "kernel=nodes" {
		t.Error(err)
	}
	for _, err := range bob.Watch(ctx, &solov1.WatchRequest{Service: "acme/*"}) {
		if f := fault.From(err); f == nil || f.Reason != fault.ReasonNotGranted || f.Metadata["smallest_grant"] != "svc:acme/*=watch" {
			t.Error(err)
		}
	}
	if _, err := bob.Call(ctx, "acme/echo", "get", nil); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}

// Who revokes the own handle is cut off before the answer, and hears that it is done.
func TestRevokingOneself(t *testing.T) {
	w := start(t, gateway.Config{})
	h := w.grant(t, "svc:*/*=*")
	w.revoke = func(_, id string) (*solov1.RevokeCapabilityResponse, error) {
		w.Revoke(t, id)
		return &solov1.RevokeCapabilityResponse{RevokedCount: 1}, nil
	}
	if r, err := w.client(t, h).Revoke(t.Context(), h.ID); err != nil || r.GetRevokedCount() != 1 {
		t.Error(r, err)
	}
	if _, err := w.client(t, h).Revoke(t.Context(), h.ID); !fault.Is(err, fault.ReasonHandleRefused) {
		t.Error(err)
	}
}

// A component's own refusal says more than the gateway could.
func TestAComponentsRefusalIsPassedOn(t *testing.T) {
	w := start(t, gateway.Config{})
	own := fault.New(codes.PermissionDenied, fault.ReasonNotGranted, "it was not granted from you").With("object", "UX").Next("ask a holder further up")
	w.revoke = func(string, string) (*solov1.RevokeCapabilityResponse, error) { return nil, own }
	_, err := w.client(t, w.grant(t, "svc:*/*=*")).Revoke(t.Context(), w.Root.ID)
	if f := fault.From(err); f.Message != own.Message || f.Help != own.Help || f.Metadata["object"] != "UX" {
		t.Errorf("%+v", f)
	}
	if c := w.caller("capmgr.explain"); c.ID != "" {
		t.Error("an explanation was asked for")
	}
}

func TestSilenceIsExplained(t *testing.T) {
	w := start(t, gateway.Config{})
	alice := w.client(t, w.grant(t, "svc:*/*=*"))
	_, err := alice.Call(t.Context(), "acme/nobody", "get", nil)
	if f := fault.From(err); f.Code != codes.NotFound || f.Reason != fault.ReasonServiceNotFound {
		t.Error(err)
	}
	w.mu.Lock()
	w.services["acme/stopped"] = &solov1.Service{Name: "acme/stopped", State: solov1.ServiceState_SERVICE_STATE_STOPPED}
	w.services["acme/failed"] = &solov1.Service{Name: "acme/failed", State: solov1.ServiceState_SERVICE_STATE_FAILED, LastError: "it crashed"}
	w.services["acme/late"] = &solov1.Service{Name: "acme/late", State: solov1.ServiceState_SERVICE_STATE_STARTING}
	w.mu.Unlock()
	_, err = alice.Call(t.Context(), "acme/stopped", "get", nil)
	if f := fault.From(err); f.Code != codes.FailedPrecondition || f.Reason != fault.ReasonServiceNotRunning || f.Retryable {
		t.Error(err)
	}
	if _, err = alice.Call(t.Context(), "acme/failed", "get", nil); !strings.Contains(fault.From(err).Message, "it crashed") {
		t.Error(err)
	}
	// A call to a service that should run waits for it: nothing was delivered yet.
	for len(w.begun) > 0 {
		<-w.begun
	}
	done := make(chan error, 1)
	go func() {
		_, err := alice.Call(t.Context(), "acme/late", "get", nil)
		done <- err
	}()
	if op := <-w.begun; op != "resolve" {
		t.Fatal(op)
	}
	w.serve(t, "acme/late", echo)
	if err := <-done; err != nil {
		t.Error(err)
	}
	// But no longer than its own deadline.
	w.mu.Lock()
	w.services["acme/never"] = &solov1.Service{Name: "acme/never", State: solov1.ServiceState_SERVICE_STATE_RUNNING}
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = alice.Call(ctx, "acme/never", "get", nil)
	if c := fault.From(err).Code; c != codes.Unavailable && c != codes.DeadlineExceeded {
		t.Error(err)
	}
	// The kernel's part is not there in this world.
	_, err = alice.Shutdown(t.Context(), &solov1.ShutdownRequest{})
	if err == nil {
		t.Error("shut down without a kernel")
	}
	root := w.client(t, w.Root)
	if _, err = root.Shutdown(t.Context(), &solov1.ShutdownRequest{}); fault.From(err).Code != codes.Unavailable || !fault.From(err).Retryable {
		t.Error(err)
	}
}

// Every RPC becomes the right system call, on the right object, as the holder.
func TestEveryCallIsMadeAsTheHolder(t *testing.T) {
	w := start(t, gateway.Config{})
	h := w.grant(t, "svc:acme/*=*", "kernel=*", "audit=read")
	c := w.client(t, h)
	ctx := t.Context()
	acme := subject.Service{Namespace: "acme", Name: "echo"}
	m := &solov1.Manifest{Name: "acme/echo", Format: solov1.Format_FORMAT_WASM}
	code := &solov1.Code{Kind: &solov1.Code_Archive{Archive: []byte("x")}}
	for _, x := range []struct {
		op string
		of subject.Service
		do func() error
	}{
		{"registry.status", acme, func() error { _, err := c.Status(ctx, "acme/echo"); return err }},
		{"registry.nodes", subject.Nothing(), func() error { _, err := c.Nodes(ctx); return err }},
		{"deployer.deploy", acme, func() error { _, err := c.Deploy(ctx, &solov1.DeployRequest{Manifest: m, Code: code}); return err }},
		{"deployer.update", acme, func() error { _, err := c.Update(ctx, &solov1.UpdateRequest{Manifest: m}); return err }},
		{"deployer.kill", acme, func() error { _, err := c.Kill(ctx, &solov1.KillRequest{Service: "acme/echo"}); return err }},
		{"deployer.crashes", acme, func() error { _, err := c.Crashes(ctx, &solov1.CrashesRequest{Service: "acme/echo"}); return err }},
		{"resmon.usage", subject.Nothing(), func() error { _, err := c.Usage(ctx, &solov1.UsageRequest{}); return err }},
		{"resmon.usage", subject.Service{Namespace: "acme", Name: subject.None}, func() error { _, err := c.Usage(ctx, &solov1.UsageRequest{Service: "acme/*"}); return err }},
		{"capmgr.describe", subject.Nothing(), func() error { _, err := c.Describe(ctx, &solov1.DescribeCapabilityRequest{}); return err }},
		{"capmgr.grant", subject.Nothing(), func() error {
			_, err := c.Grant(ctx, &solov1.GrantCapabilityRequest{Rules: []string{"audit=read"}})
			return err
		}},
		{"capmgr.auditor", subject.Nothing(), func() error { _, err := c.SubscribeAudit(ctx, &solov1.SubscribeAuditRequest{}); return err }},
		{"capmgr.revoke", subject.Nothing(), func() error { _, err := c.Revoke(ctx, h.ID); return err }},
		{"deployer.logs", acme, func() error {
			for m, err := range c.Logs(ctx, &solov1.LogsRequest{Service: "acme/echo"}) {
				if err != nil || m.GetRecord().GetLine() != "a line" {
					return err
				}
			}
			return nil
		}},
		{"audit.read", subject.Nothing(), func() error {
			for m, err := range c.Audit(ctx, &solov1.AuditRequest{AfterSequence: 4}) {
				if err != nil || m.GetSequence() != 5 {
					return err
				}
			}
			return nil
		}},
	} {
		if err := x.do(); err != nil {
			t.Errorf("%s: %v", x.op, err)
		}
		if got := w.caller(x.op); got.ID != h.ID || got.Service != x.of {
			t.Errorf("%s was asked by %q about %v", x.op, got.ID, got.Service)
		}
	}
	if r, err := c.Can(ctx, "audit=read"); err != nil || !r.GetAllowed() {
		t.Error(r, err)
	}
	// The component answers for what is not built.
	if _, err := c.Rollback(ctx, &solov1.RollbackRequest{Service: "acme/echo"}); fault.From(err).Code != codes.Unimplemented {
		t.Error(err)
	}
}

func TestBadRequestsStopAtTheGateway(t *testing.T) {
	w := start(t, gateway.Config{})
	c := w.client(t, w.grant(t, "svc:*/*=*"))
	ctx := t.Context()
	for name, do := range map[string]func() error{
		"service":            func() error { _, err := c.Status(ctx, "nope"); return err },
		"id":                 func() error { _, err := c.Revoke(ctx, "nope"); return err },
		"describe id":        func() error { _, err := c.Describe(ctx, &solov1.DescribeCapabilityRequest{Id: "nope"}); return err },
		"namespace":          func() error { _, err := c.List(ctx, &solov1.ListRequest{Namespace: "A"}); return err },
		"usage":              func() error { _, err := c.Usage(ctx, &solov1.UsageRequest{Service: "a"}); return err },
		"kill":               func() error { _, err := c.Kill(ctx, &solov1.KillRequest{Service: "a"}); return err },
		"rollback":           func() error { _, err := c.Rollback(ctx, &solov1.RollbackRequest{Service: "a"}); return err },
		"crashes":            func() error { _, err := c.Crashes(ctx, &solov1.CrashesRequest{Service: "a"}); return err },
		"deploy no manifest": func() error { _, err := c.Deploy(ctx, &solov1.DeployRequest{}); return err },
		"update name": func() error {
			_, err := c.Update(ctx, &solov1.UpdateRequest{Manifest: &solov1.Manifest{Name: "A"}})
			return err
		},
		"watch": func() error {
			for _, err := range c.Watch(ctx, &solov1.WatchRequest{Service: "A/b"}) {
				return err
			}
			return nil
		},
		"logs": func() error {
			for _, err := range c.Logs(ctx, &solov1.LogsRequest{Service: "A/b"}) {
				return err
			}
			return nil
		},
		"public key": func() error {
			_, err := c.Grant(ctx, &solov1.GrantCapabilityRequest{Rules: []string{"audit=read"}, PublicKey: "nope"})
			return err
		},
	} {
		f := fault.From(do())
		if f == nil || f.Code != codes.InvalidArgument || len(f.Fields) == 0 {
			t.Errorf("%s: %v", name, f)
		}
	}
}

func TestLargeCodeGoesAhead(t *testing.T) {
	w := start(t, gateway.Config{})
	h := w.grant(t, "svc:acme/*=deploy,update")
	c := w.client(t, h)
	big := bytes.Repeat([]byte("wasm"), 700<<10/4*3) // 2.1 MB: three chunks
	sum := sha256.Sum256(big)
	m := &solov1.Manifest{Name: "acme/big", Format: solov1.Format_FORMAT_WASM}
	deploy := func(code *solov1.Code) *solov1.DeployRequest {
		t.Helper()
		w.mu.Lock()
		w.chunks = nil
		w.mu.Unlock()
		if _, err := c.Deploy(t.Context(), &solov1.DeployRequest{Manifest: m, Code: code}); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.deployed
	}
	got := deploy(&solov1.Code{Kind: &solov1.Code_Archive{Archive: big}})
	if got.GetCode().GetSha256() != hex.EncodeToString(sum[:]) {
		t.Error(got.GetCode())
	}
	var all []byte
	for i, x := range w.chunks {
		if x.GetOffset() != uint64(len(all)) || x.GetLast() != (i == len(w.chunks)-1) || x.GetUpload() != w.chunks[0].GetUpload() {
			t.Errorf("chunk %d: offset %d, last %v", i, x.GetOffset(), x.GetLast())
		}
		all = append(all, x.GetData()...)
	}
	if !bytes.Equal(all, big) || w.caller("deployer.upload").ID != h.ID {
		t.Error("what arrived is not what was sent")
	}
	// What is there already is not sent again.
	deploy(&solov1.Code{Kind: &solov1.Code_Archive{Archive: big}})
	if len(w.chunks) != 1 || len(w.chunks[0].GetData()) != 0 {
		t.Errorf("%d chunks the second time", len(w.chunks))
	}
	// Large source becomes one archive, the same each time; small source stays as it is.
	files := map[string][]byte{"main.go": bytes.Repeat([]byte("a"), 600<<10), "b.go": []byte("b")}
	first := deploy(&solov1.Code{Kind: &solov1.Code_Files{Files: &solov1.Files{Files: files}}}).GetCode().GetSha256()
	again := deploy(&solov1.Code{Kind: &solov1.Code_Files{Files: &solov1.Files{Files: files}}}).GetCode().GetSha256()
	if first == "" || first != again {
		t.Error(first, again)
	}
	small := deploy(&solov1.Code{Kind: &solov1.Code_Files{Files: &solov1.Files{Files: map[string][]byte{"main.go": []byte("x")}}}})
	if len(small.GetCode().GetFiles().GetFiles()) != 1 {
		t.Error(small.GetCode())
	}
	files["main.go"] = make([]byte, 4<<20+1)
	if _, err := c.Deploy(t.Context(), &solov1.DeployRequest{Manifest: m, Code: &solov1.Code{Kind: &solov1.Code_Files{Files: &solov1.Files{Files: files}}}}); !fault.Is(err, fault.ReasonTooLarge) {
		t.Error(err)
	}
}

func TestUploadArtifact(t *testing.T) {
	w := start(t, gateway.Config{})
	h := w.grant(t, "svc:acme/*=deploy")
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	k := solov1.NewSoloKernelClient(conn)
	upload := func(reqs ...*solov1.UploadArtifactRequest) (*solov1.UploadArtifactResponse, error) {
		s, err := k.UploadArtifact(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+h.Seed))
		if err != nil {
			return nil, err
		}
		for _, r := range reqs {
			if s.Send(r) != nil {
				break // the answer is there
			}
		}
		return s.CloseAndRecv()
	}
	code := bytes.Repeat([]byte("x"), 3000)
	sum := sha256.Sum256(code)
	digest := hex.EncodeToString(sum[:])
	half := func(d string) []*solov1.UploadArtifactRequest {
		return []*solov1.UploadArtifactRequest{{Sha256: d, Chunk: code[:1000]}, {Chunk: code[1000:2000]}, {}, {Chunk: code[2000:]}}
	}
	if r, err := upload(half("")...); err != nil || r.GetSha256() != digest || r.GetSize() != 3000 || r.GetExisted() {
		t.Error(r, err)
	}
	if r, err := upload(half(digest)...); err != nil || !r.GetExisted() || r.GetSize() != 42 {
		t.Error(r, err)
	}
	if _, err := upload(half(strings.Repeat("a", 64))...); fault.From(err).Code != codes.InvalidArgument {
		t.Error(err)
	}
	if _, err := upload(); fault.From(err).Code != codes.InvalidArgument {
		t.Error(err)
	}
	if _, err := upload(&solov1.UploadArtifactRequest{}); fault.From(err).Code != codes.InvalidArgument {
		t.Error(err)
	}
	if _, err := upload(&solov1.UploadArtifactRequest{Sha256: "x"}); fault.From(err).Code != codes.InvalidArgument {
		t.Error(err)
	}
	if _, err := upload(&solov1.UploadArtifactRequest{Chunk: code}, &solov1.UploadArtifactRequest{Sha256: digest}); fault.From(err).Code != codes.InvalidArgument {
		t.Error(err)
	}
}

func TestListAsksForWhatTheHolderMay(t *testing.T) {
	w := start(t, gateway.Config{})
	w.mu.Lock()
	for _, n := range []string{"acme/a", "acme/b", "acme/c", "acme/d", "bob/a", "bob/b", "eve/a"} {
		w.services[n] = &solov1.Service{Name: n}
	}
	w.mu.Unlock()
	names := func(rules []string, req *solov1.ListRequest) string {
		t.Helper()
		c := w.client(t, w.grant(t, rules...))
		var out []string
		for range 20 {
			r, err := c.List(t.Context(), req)
			if err != nil {
				return fault.From(err).Reason
			}
			for _, s := range r.GetServices() {
				out = append(out, s.GetName())
			}
			if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		return strings.Join(out, " ")
	}
	const all = "acme/a acme/b acme/c acme/d bob/a bob/b eve/a"
	for _, x := range []struct {
		rules []string
		req   *solov1.ListRequest
		want  string
	}{
		{[]string{"svc:*/*=*"}, &solov1.ListRequest{PageSize: 1000}, all},
		{[]string{"svc:*/*=list"}, &solov1.ListRequest{Namespace: "bob", PageSize: 100}, "bob/a bob/b"},
		{[]string{"svc:acme/*=*", "svc:bob/a=list", "svc:acme/b=list", "kernel=nodes"}, &solov1.ListRequest{}, "acme/a acme/b acme/c acme/d bob/a"},
		{[]string{"svc:acme/b=list", "svc:acme/*=*", "svc:bob/a=list"}, &solov1.ListRequest{PageSize: 2}, "acme/a acme/b acme/c acme/d bob/a"},
		{[]string{"svc:*/a=list", "svc:acme/*=call:*"}, &solov1.ListRequest{PageSize: 10}, "acme/a bob/a eve/a"},
		{[]string{"svc:*/a=list", "svc:acme/b=list"}, &solov1.ListRequest{Namespace: "acme"}, "acme/a acme/b"},
		{[]string{"svc:acme/*=call:*"}, &solov1.ListRequest{}, fault.ReasonNotGranted},
		{[]string{"svc:acme/*=list"}, &solov1.ListRequest{Namespace: "bob"}, fault.ReasonNotGranted},
		{[]string{"svc:acme/a=list", "svc:bob/a=list"}, &solov1.ListRequest{PageToken: "!!"}, fault.ReasonInvalidArgument},
	} {
		if got := names(x.rules, x.req); got != x.want {
			t.Errorf("%v: %q, want %q", x.rules, got, x.want)
		}
	}
}

func TestStreams(t *testing.T) {
	w := start(t, gateway.Config{})
	c := w.client(t, w.grant(t, "svc:acme/*=watch"))
	read := func(service string) (n int, last error) {
		want := uint64(11)
		for m, err := range c.Watch(t.Context(), &solov1.WatchRequest{Service: service, AfterSequence: 10}) {
			if err != nil {
				return n, err
			}
			if m.GetEvent().GetSequence() != want {
				t.Fatalf("event %d, want %d", m.GetEvent().GetSequence(), want)
			}
			want++
			n++
		}
		return n, nil
	}
	if n, err := read("acme/ends"); n != 1000 || err != nil {
		t.Error(n, err)
	}
	if n, err := read("acme/fails"); n != 1000 || !fault.Is(err, fault.ReasonDataLoss) {
		t.Error(n, err)
	}
	// A reader who leaves costs nobody anything; one who stays is told when the gateway ends.
	for range c.Watch(t.Context(), &solov1.WatchRequest{Service: "acme/open"}) {
		break
	}
	n := 0
	var last error
	for _, err := range c.Watch(t.Context(), &solov1.WatchRequest{Service: "acme/open"}) {
		if n++; n == 1000 {
			go w.stop()
		}
		last = err
	}
	if n != 1001 || !fault.Is(last, fault.ReasonShuttingDown) {
		t.Error(n, last)
	}
}

func TestHealthAndReflectionNeedNoHandle(t *testing.T) {
	w := start(t, gateway.Config{})
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, s := range []string{"", "solo.v1.SoloKernel"} {
		r, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: s})
		if err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Error(r, err)
		}
	}
	rs, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := rs.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := rs.Recv()
	if err != nil || !strings.Contains(r.String(), "solo.v1.SoloKernel") {
		t.Error(r, err)
	}
	if err := rs.CloseSend(); err != nil {
		t.Error(err)
	}
}

// As a component among others: its identity, readiness and address.
func TestRunsAsAComponent(t *testing.T) {
	w := bustest.Start(t)
	r := w.Run(t, gateway.Command(), nil)
	if r.Addresses["grpc"] == "" {
		t.Fatal(r.Addresses)
	}
	r.Stop(t)
}
