package capmgr_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/capmgr"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// holder is somebody with a handle and a connection.
type holder struct {
	bustest.Handle
	conn *nats.Conn
}

func start(t testing.TB) (*bustest.World, holder) {
	t.Helper()
	w := bustest.Start(t)
	w.Run(t, capmgr.Command(), nil)
	return w, dial(t, w, w.Root)
}

func dial(t testing.TB, w *bustest.World, h bustest.Handle) holder {
	t.Helper()
	return holder{h, w.Dial(t, h)}
}

func (h holder) call(t testing.TB, op string, req, resp proto.Message) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return rpc.Peer{Conn: h.conn, ID: h.ID}.Call(ctx, subject.Capmgr, op, subject.Nothing(), req, resp)
}

func (h holder) try(t testing.TB, req *solov1.GrantCapabilityRequest) (*solov1.GrantCapabilityResponse, error) {
	t.Helper()
	resp := &solov1.GrantCapabilityResponse{}
	return resp, h.call(t, "grant", req, resp)
}

// grant makes a child with a key of its own and connects as it.
func (h holder) grant(t testing.TB, w *bustest.World, depth uint32, rules ...string) holder {
	t.Helper()
	key := bustest.NewHandle(t)
	if _, err := h.try(t, &solov1.GrantCapabilityRequest{Rules: rules, Depth: depth, PublicKey: key.ID}); err != nil {
		t.Fatal(err)
	}
	return dial(t, w, key)
}

func (h holder) revoke(t testing.TB, id string) (*solov1.RevokeCapabilityResponse, error) {
	t.Helper()
	resp := &solov1.RevokeCapabilityResponse{}
	return resp, h.call(t, "revoke", &solov1.RevokeCapabilityRequest{Id: id}, resp)
}

func (h holder) describe(t testing.TB, req *solov1.DescribeCapabilityRequest) *solov1.DescribeCapabilityResponse {
	t.Helper()
	resp := &solov1.DescribeCapabilityResponse{}
	if err := h.call(t, "describe", req, resp); err != nil {
		t.Fatal(err)
	}
	return resp
}

// refused checks that an error is a fault with a reason and returns it.
func refused(t testing.TB, err error, reason string) *fault.Error {
	t.Helper()
	if !fault.Is(err, reason) {
		t.Fatalf("got %v, want %s", err, reason)
	}
	return fault.From(err)
}

func hours(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Hour) }
