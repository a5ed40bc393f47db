package agent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/solo-os/solo/sdk/internal/standin"
	"google.golang.org/grpc/codes"
)

func handle(t *testing.T) string {
	t.Helper()
	h, _, err := agent.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func dial(t *testing.T) (*agent.Client, *standin.Server) {
	t.Helper()
	s := standin.Start(t)
	c, err := agent.Dial(t.Context(), agent.Options{Addr: s.Addr, Handle: handle(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, s
}

func TestDialKeepsHandlesAtHome(t *testing.T) {
	h := handle(t)
	for _, addr := range []string{"203.0.113.5:50051", "solo.example.com:50051", "[2001:db8::1]:1", "0.0.0.0:1"} {
		_, err := agent.Dial(t.Context(), agent.Options{Addr: addr, Handle: h})
		if err == nil || !strings.Contains(err.Error(), "not sent in the clear") || strings.Contains(err.Error(), h) {
			t.Errorf("%s: %v", addr, err)
		}
		c, err := agent.Dial(t.Context(), agent.Options{Addr: addr, Handle: h, PlaintextOffLoopback: true})
		if err != nil {
			t.Errorf("%s allowed by name: %v", addr, err)
			continue
		}
		_ = c.Close()
	}
	for _, addr := range []string{"", "localhost:1", "[::1]:1", "127.0.0.9:1"} {
		c, err := agent.Dial(t.Context(), agent.Options{Addr: addr, Handle: h})
		if err != nil {
			t.Errorf("%q: %v", addr, err)
			continue
		}
		_ = c.Close()
	}
	if _, err := agent.Dial(t.Context(), agent.Options{Addr: "nonsense", Handle: h}); err == nil {
		t.Error("an address without a port was taken")
	}
	if _, err := agent.Dial(t.Context(), agent.Options{}); err == nil {
		t.Error("no handle at all was taken")
	}
}

func TestHandles(t *testing.T) {
	h, id, err := agent.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := agent.ID(h); err != nil || got != id || !strings.HasPrefix(id, "U") {
		t.Errorf("%s %v", got, err)
	}
	typo := h[:20] + strings.Map(func(r rune) rune {
		if r == 'A' {
			return 'B'
		}
		return 'A'
	}, h[20:21]) + h[21:]
	for _, s := range []string{"", "SU", id, "SOAAAA", typo} {
		if _, err := agent.ID(s); err == nil || s != "" && strings.Contains(err.Error(), s) && len(s) > 10 {
			t.Errorf("%q: %v", s, err)
		}
	}
	file := func(text string, mode os.FileMode) string {
		p := filepath.Join(t.TempDir(), "h.nk")
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, text := range []string{h, h + "\n", "# mine\n-----BEGIN-----\n\n" + h + "\n-----END-----\n"} {
		if got, err := agent.ReadHandle(file(text, 0o600)); err != nil || got != h {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, p := range []string{"", "/nonexistent", file(h, 0o644), file("", 0o600), file("# nothing\n", 0o600), file("nonsense\n", 0o600)} {
		if _, err := agent.ReadHandle(p); err == nil || strings.Contains(err.Error(), h) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestMutationsCarryARequestIDAndAreRepeated(t *testing.T) {
	c, s := dial(t)
	s.Stumble(2)
	req := &solov1.DeployRequest{Manifest: &solov1.Manifest{Name: "acme/echo"}}
	if _, err := c.Deploy(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if req.GetRequestId() == "" || s.Last("Deploy").(*solov1.DeployRequest).GetRequestId() != req.GetRequestId() {
		t.Error("no request id was made")
	}
	if _, err := c.Kill(t.Context(), &solov1.KillRequest{RequestId: "mine", Service: "acme/echo"}); err != nil || s.Last("Kill").(*solov1.KillRequest).GetRequestId() != "mine" {
		t.Error(err, "the caller's own request id was replaced")
	}
	s.Stumble(1)
	if _, err := c.Call(t.Context(), "acme/echo", "echo", []byte("x")); !fault.Is(err, fault.ReasonUnavailable) {
		t.Errorf("a call was repeated, or: %v", err)
	}
	s.Stumble(100)
	if _, err := c.Status(t.Context(), "acme/echo"); !fault.Is(err, fault.ReasonUnavailable) {
		t.Error(err)
	}
}

func TestEveryMethod(t *testing.T) {
	c, s := dial(t)
	ctx := t.Context()
	if _, err := c.Deploy(ctx, &solov1.DeployRequest{Manifest: &solov1.Manifest{Name: "acme/echo"}}); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Status(ctx, "acme/echo"); err != nil || v.GetName() != "acme/echo" {
		t.Error(v, err)
	}
	if r, err := c.List(ctx, &solov1.ListRequest{}); err != nil || len(r.GetServices()) != 1 {
		t.Error(r, err)
	}
	if r, err := c.Update(ctx, &solov1.UpdateRequest{Manifest: &solov1.Manifest{Name: "acme/echo"}}); err != nil || r.GetRollout().GetToRevision() != 2 {
		t.Error(r, err)
	}
	if _, err := c.Rollback(ctx, &solov1.RollbackRequest{Service: "acme/echo"}); fault.From(err).Code != codes.Unimplemented {
		t.Error(err)
	}
	if r, err := c.Call(ctx, "acme/echo", "bytes", nil); err != nil || !bytes.Equal(r.GetPayload(), []byte{0xff, 0}) {
		t.Error(r, err)
	}
	if r, err := c.CallText(ctx, "acme/echo", "echo", "grüße"); err != nil || r != "grüße" {
		t.Error(r, err)
	}
	if _, err := c.CallText(ctx, "acme/echo", "echo", "\xff"); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Error(err)
	}
	_, err := c.Call(ctx, "acme/echo", "secret", nil)
	if f := fault.From(err); f.Reason != fault.ReasonNotGranted || f.Metadata["smallest_grant"] != "svc:acme/echo=call:secret" {
		t.Error(err)
	}
	if r, err := c.Can(ctx, "svc:x/y=call:z"); err != nil || r.GetAllowed() {
		t.Error(r, err)
	}
	if r, err := c.Describe(ctx, &solov1.DescribeCapabilityRequest{}); err != nil || r.GetCapability().GetLabel() != "operator" {
		t.Error(r, err)
	}
	if r, err := c.Usage(ctx, &solov1.UsageRequest{}); err != nil || len(r.GetRows()) != 1 {
		t.Error(r, err)
	}
	if r, err := c.Nodes(ctx); err != nil || len(r.GetNodes()) != 2 {
		t.Error(r, err)
	}
	if r, err := c.SubscribeAudit(ctx, &solov1.SubscribeAuditRequest{}); err != nil || r.GetDomain() != "audit" {
		t.Error(r, err)
	}
	if r, err := c.Crashes(ctx, &solov1.CrashesRequest{Service: "acme/echo"}); err != nil || len(r.GetCrashes()) != 1 {
		t.Error(r, err)
	}
	if r, err := c.Shutdown(ctx, &solov1.ShutdownRequest{}); err != nil || r.GetDeadline() == nil {
		t.Error(r, err)
	}
	if _, err := c.Revoke(ctx, "UNKNOWN"); !fault.Is(err, fault.ReasonCapabilityNotFound) {
		t.Error(err)
	}
	if s.Last("RevokeCapability").(*solov1.RevokeCapabilityRequest).GetRequestId() == "" {
		t.Error("a revocation without a request id")
	}
	if c.ID() == "" {
		t.Error("no id")
	}
}

func TestStreams(t *testing.T) {
	c, _ := dial(t)
	var got []uint64
	for m, err := range c.Watch(t.Context(), &solov1.WatchRequest{Service: "*/*", AfterSequence: 4}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.GetEvent().GetSequence())
	}
	if fmt.Sprint(got) != "[5 6]" {
		t.Error(got)
	}
	var last error
	for _, err := range c.Watch(t.Context(), &solov1.WatchRequest{Service: "acme/lost"}) {
		last = err
	}
	if !fault.Is(last, fault.ReasonUnavailable) {
		t.Error(last)
	}
	n := 0
	for range c.Logs(t.Context(), &solov1.LogsRequest{Service: "acme/echo", Follow: true}) {
		if n++; n == 2 {
			break // leaving the loop ends the stream
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, err := range c.Logs(ctx, &solov1.LogsRequest{Service: "acme/echo", Follow: true}) {
		cancel()
		last = err
	}
	if last == nil || fault.From(last).Code != codes.Canceled {
		t.Error(last)
	}
	n = 0
	for _, err := range c.Audit(t.Context(), &solov1.AuditRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 2 {
		t.Error(n)
	}
}

func TestGrantMakesTheHandleHere(t *testing.T) {
	c, s := dial(t)
	req := &solov1.GrantCapabilityRequest{Rules: []string{"svc:acme/echo=call:get"}}
	g, err := c.Grant(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := agent.ID(g.Handle); err != nil || id != g.Capability.GetId() || id != s.Last("GrantCapability").(*solov1.GrantCapabilityRequest).GetPublicKey() {
		t.Error(id, err)
	}
	again, err := c.Grant(t.Context(), req)
	if err != nil || again.Capability.GetId() != g.Capability.GetId() || again.Handle != "" {
		t.Error(again, err)
	}
	_, id, err := agent.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	if g, err := c.Grant(t.Context(), &solov1.GrantCapabilityRequest{PublicKey: id}); err != nil || g.Handle != "" || g.Capability.GetId() != id {
		t.Error(g, err)
	}
	if _, err := c.Grant(t.Context(), &solov1.GrantCapabilityRequest{Depth: 9}); !fault.Is(err, fault.ReasonGrantDepth) {
		t.Error(err)
	}
}

func TestUploadAsksFirst(t *testing.T) {
	c, s := dial(t)
	code := bytes.Repeat([]byte("solo"), (5<<20)/4+7)
	sum := sha256.Sum256(code)
	var told []int64
	u := agent.Upload{Source: bytes.NewReader(code), Progress: func(sent, total int64) {
		if total != int64(len(code)) {
			t.Error(total)
		}
		told = append(told, sent)
	}}
	got, err := c.Code(t.Context(), u)
	if err != nil || got.GetSha256() != hex.EncodeToString(sum[:]) {
		t.Fatal(got, err)
	}
	if s.Chunks() != 6 || len(told) != 6 || told[5] != int64(len(code)) {
		t.Error(s.Chunks(), told)
	}
	resp, err := c.UploadArtifact(t.Context(), agent.Upload{Source: bytes.NewReader(code)})
	if err != nil || !resp.GetExisted() || s.Chunks() != 6 {
		t.Error(resp, err, s.Chunks())
	}
	small, err := c.Code(t.Context(), agent.Upload{Source: strings.NewReader("small")})
	if err != nil || string(small.GetArchive()) != "small" {
		t.Error(small, err)
	}
	for _, src := range []*shrinking{{}, {seekFails: true}, {readFails: true}} {
		src.Reader = bytes.NewReader(code)
		if _, err := c.UploadArtifact(t.Context(), agent.Upload{Source: src}); err == nil {
			t.Errorf("%+v was uploaded", src)
		}
	}
	if _, err := c.Code(t.Context(), agent.Upload{Source: &shrinking{Reader: bytes.NewReader(code), readFails: true}}); err == nil {
		t.Error("unreadable code was sent")
	}
}

// shrinking is a file that changes while it is read.
type shrinking struct {
	*bytes.Reader
	seekFails, readFails, sought bool
}

func (s *shrinking) Read(p []byte) (int, error) {
	if s.readFails {
		return 0, errors.New("no reading")
	}
	if s.sought {
		return 0, errors.New("it is shorter now")
	}
	return s.Reader.Read(p)
}

func (s *shrinking) WriteTo(w interface{ Write([]byte) (int, error) }) (int64, error) {
	if s.readFails {
		return 0, errors.New("no reading")
	}
	return s.Reader.WriteTo(w)
}

func (s *shrinking) Seek(off int64, whence int) (int64, error) {
	if s.seekFails {
		return 0, errors.New("no seeking")
	}
	s.sought = true
	return s.Reader.Seek(off, whence)
}
