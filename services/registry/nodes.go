package registry

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/rpc"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/proto"
)

// listNodes tells of every node that has reported lately.
func (r *Registry) listNodes(ctx context.Context, _ rpc.Caller, _ *solov1.NodesRequest) (*solov1.NodesResponse, error) {
	resp := &solov1.NodesResponse{}
	keys, err := r.nodes.Keys(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
		return nil, storeUnavailable("the nodes", err)
	}
	for _, k := range keys {
		if k == r.o.Node {
			continue
		}
		e, err := r.nodes.Get(ctx, k)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue // its time ran out meanwhile
		}
		if err != nil {
			return nil, storeUnavailable("the nodes", err)
		}
		n := &solov1.Node{}
		if err := proto.Unmarshal(e.Value(), n); err != nil {
			r.o.Log.Warn("the entry of a node is unreadable", "node", k, "error", err)
			continue
		}
		resp.Nodes = append(resp.Nodes, n)
	}
	resp.Nodes = append(resp.Nodes, r.self())
	return resp, nil
}

// self is this node as it was last reported.
func (r *Registry) self() *solov1.Node {
	n, _ := r.live.Node(r.o.Node)
	return &solov1.Node{
		Name: r.o.Node, Ready: n.Fresh, Cpus: n.CPUs, MemoryBytes: n.MemoryBytes, Instances: n.Instances, LastHeartbeat: stamp(n.At), Version: n.Version,
	}
}

// heartbeat writes this node's entry while its deployer reports.
func (r *Registry) heartbeat(ctx context.Context) {
	t := time.NewTicker(heartbeatEvery)
	defer t.Stop()
	for {
		if n := r.self(); n.GetReady() {
			if err := r.beat(ctx, n); err != nil && ctx.Err() == nil {
				r.o.Log.Warn("the heartbeat of this node could not be written", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (r *Registry) beat(ctx context.Context, n *solov1.Node) error {
	b, err := proto.Marshal(n)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, heartbeatEvery)
	defer cancel()
	_, err = r.nodes.Put(ctx, n.GetName(), b)
	return err
}

// validNode tells whether a name can stand for a node in keys and subjects.
func validNode(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
