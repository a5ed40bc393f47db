package agent

import (
	"context"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Granted is a fresh capability with the handle that was made for it here.
type Granted struct {
	Capability *solov1.Capability
	// Handle is the secret. It has not left this process; empty when the request brought a
	// public key of someone else's.
	Handle string
}

// Grant attenuates the holder's capability and delegates the result. The handle is made here
// and only its public key is sent, so a lost answer loses nothing: repeating the same request
// gives the same capability. A request with a PublicKey is sent as it is.
func (c *Client) Grant(ctx context.Context, req *solov1.GrantCapabilityRequest) (*Granted, error) {
	keyed(req, &req.RequestId)
	var handle string
	if req.GetPublicKey() == "" {
		seed, id, err := NewHandle()
		if err != nil {
			return nil, fault.Internal(err, "no handle could be made")
		}
		handle, req.PublicKey = seed, id
	}
	resp, err := unary(ctx, c, c.rpc.GrantCapability, req)
	if err != nil {
		return nil, err
	}
	return &Granted{resp.GetCapability(), handle}, nil
}
