package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"iter"
	"unicode/utf8"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc"
)

// NewRequestID makes an idempotency key.
func NewRequestID() string { return rand.Text() }

// mutation is a request that carries an idempotency key.
type mutation interface{ GetRequestId() string }

// keyed gives a mutation an id unless it has one.
func keyed(m mutation, set *string) {
	if m.GetRequestId() == "" {
		*set = NewRequestID()
	}
}

// unary makes one call and turns its error into a fault.
func unary[Req, Resp any](ctx context.Context, c *Client, f func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) (Resp, error) {
	var none Resp
	if err := c.dial.ready(ctx); err != nil {
		return none, err
	}
	resp, err := f(ctx, req)
	if err != nil {
		return none, failure(ctx, err)
	}
	return resp, nil
}

// Deploy makes a service run. Code larger than InlineLimit goes through UploadArtifact
// first; see Client.Code.
func (c *Client) Deploy(ctx context.Context, req *solov1.DeployRequest) (*solov1.DeployResponse, error) {
	keyed(req, &req.RequestId)
	return unary(ctx, c, c.rpc.Deploy, req)
}

// Update starts or steers a rollout.
func (c *Client) Update(ctx context.Context, req *solov1.UpdateRequest) (*solov1.UpdateResponse, error) {
	keyed(req, &req.RequestId)
	return unary(ctx, c, c.rpc.Update, req)
}

// Rollback returns a service to a kept revision.
func (c *Client) Rollback(ctx context.Context, req *solov1.RollbackRequest) (*solov1.RollbackResponse, error) {
	keyed(req, &req.RequestId)
	return unary(ctx, c, c.rpc.Rollback, req)
}

// Status returns one service.
func (c *Client) Status(ctx context.Context, service string) (*solov1.Service, error) {
	resp, err := unary(ctx, c, c.rpc.Status, &solov1.StatusRequest{Service: service})
	return resp.GetService(), err
}

// Kill stops a service or ends one instance.
func (c *Client) Kill(ctx context.Context, req *solov1.KillRequest) (*solov1.KillResponse, error) {
	keyed(req, &req.RequestId)
	return unary(ctx, c, c.rpc.Kill, req)
}

// List returns one page of the services that the holder may list.
func (c *Client) List(ctx context.Context, req *solov1.ListRequest) (*solov1.ListResponse, error) {
	return unary(ctx, c, c.rpc.List, req)
}

// Call sends a payload to a service and waits for the reply.
func (c *Client) Call(ctx context.Context, service, op string, payload []byte) (*solov1.CallResponse, error) {
	return unary(ctx, c, c.rpc.Call, &solov1.CallRequest{Service: service, Op: op, Body: &solov1.CallRequest_Payload{Payload: payload}})
}

// CallText is Call with text; the reply's text is empty when it is not valid UTF-8.
func (c *Client) CallText(ctx context.Context, service, op, text string) (string, error) {
	if !utf8.ValidString(text) {
		return "", fault.Invalid("text", "is not valid UTF-8; use Call for bytes")
	}
	resp, err := unary(ctx, c, c.rpc.Call, &solov1.CallRequest{Service: service, Op: op, Body: &solov1.CallRequest_Text{Text: text}})
	return resp.GetText(), err
}

// Revoke kills a capability and everything granted from it.
func (c *Client) Revoke(ctx context.Context, id string) (*solov1.RevokeCapabilityResponse, error) {
	return unary(ctx, c, c.rpc.RevokeCapability, &solov1.RevokeCapabilityRequest{RequestId: NewRequestID(), Id: id})
}

// Describe returns a capability of the holder's subtree; an empty id is the holder's own.
func (c *Client) Describe(ctx context.Context, req *solov1.DescribeCapabilityRequest) (*solov1.DescribeCapabilityResponse, error) {
	return unary(ctx, c, c.rpc.DescribeCapability, req)
}

// Can tells whether the holder would be allowed a rule.
func (c *Client) Can(ctx context.Context, rule string) (*solov1.CanResponse, error) {
	return unary(ctx, c, c.rpc.Can, &solov1.CanRequest{Rule: rule})
}

// Usage reports what services used.
func (c *Client) Usage(ctx context.Context, req *solov1.UsageRequest) (*solov1.UsageResponse, error) {
	return unary(ctx, c, c.rpc.Usage, req)
}

// Nodes lists the nodes.
func (c *Client) Nodes(ctx context.Context) (*solov1.NodesResponse, error) {
	return unary(ctx, c, c.rpc.Nodes, &solov1.NodesRequest{})
}

// Crashes lists the crash records of a service, newest first.
func (c *Client) Crashes(ctx context.Context, req *solov1.CrashesRequest) (*solov1.CrashesResponse, error) {
	return unary(ctx, c, c.rpc.Crashes, req)
}

// SubscribeAudit makes a consumer of the audit trail, to be read with any NATS client.
func (c *Client) SubscribeAudit(ctx context.Context, req *solov1.SubscribeAuditRequest) (*solov1.SubscribeAuditResponse, error) {
	return unary(ctx, c, c.rpc.SubscribeAudit, req)
}

// Shutdown stops all of Solo.
func (c *Client) Shutdown(ctx context.Context, req *solov1.ShutdownRequest) (*solov1.ShutdownResponse, error) {
	keyed(req, &req.RequestId)
	return unary(ctx, c, c.rpc.Shutdown, req)
}

// Watch streams events until ctx ends, the loop is left, or the stream fails: then the last
// pair carries the fault. After UNAVAILABLE, asking again after the last sequence seen loses
// nothing.
func (c *Client) Watch(ctx context.Context, req *solov1.WatchRequest) iter.Seq2[*solov1.WatchResponse, error] {
	return stream(ctx, c, c.rpc.Watch, req)
}

// Logs streams what instances wrote; see Watch.
func (c *Client) Logs(ctx context.Context, req *solov1.LogsRequest) iter.Seq2[*solov1.LogsResponse, error] {
	return stream(ctx, c, c.rpc.Logs, req)
}

// Audit streams the audit trail; see Watch.
func (c *Client) Audit(ctx context.Context, req *solov1.AuditRequest) iter.Seq2[*solov1.AuditResponse, error] {
	return stream(ctx, c, c.rpc.Audit, req)
}

func stream[Req, Resp any](ctx context.Context, c *Client, open func(context.Context, *Req, ...grpc.CallOption) (grpc.ServerStreamingClient[Resp], error), req *Req) iter.Seq2[*Resp, error] {
	return func(yield func(*Resp, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if err := c.dial.ready(ctx); err != nil {
			yield(nil, err)
			return
		}
		s, err := open(ctx, req)
		if err != nil {
			yield(nil, failure(ctx, err))
			return
		}
		for {
			resp, err := s.Recv()
			switch {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				yield(nil, failure(ctx, err))
				return
			case !yield(resp, nil):
				return
			}
		}
	}
}
