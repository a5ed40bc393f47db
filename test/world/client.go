package world

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/conn"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// Handle reads the handle in a file.
func Handle(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

// Client is a gRPC client that presents a handle.
type Client struct {
	solov1.SoloKernelClient
	conn *grpc.ClientConn
}

// Close ends the client's connection.
func (c *Client) Close() error { return c.conn.Close() }

// Client dials the gateway with a handle (a seed).
func (w *World) Client(seed string) (*Client, error) {
	auth := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+seed)
	}
	c, err := grpc.NewClient(w.Addr["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, m string, req, resp any, cc *grpc.ClientConn, next grpc.UnaryInvoker, o ...grpc.CallOption) error {
			return next(auth(ctx), m, req, resp, cc, o...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, cc *grpc.ClientConn, m string, next grpc.Streamer, o ...grpc.CallOption) (grpc.ClientStream, error) {
			return next(auth(ctx), d, cc, m, o...)
		}))
	if err != nil {
		return nil, err
	}
	return &Client{solov1.NewSoloKernelClient(c), c}, nil
}

// Raw is a plain NATS connection with a handle, as any NATS client would make it.
type Raw struct {
	*nats.Conn
	ID string
	// Refused hears the server's own refusals; Closed closes when the connection is gone.
	Refused chan string
	Closed  chan struct{}
}

// Raw connects to the bus.
func (w *World) Raw(ctx context.Context, seed string) (*Raw, error) {
	r := &Raw{Refused: make(chan string, 64), Closed: make(chan struct{})}
	nc, id, err := conn.Dial(ctx, conn.Options{
		Addr: w.Addr["nats"], Seed: seed, Name: "raw",
		Closed: func(*nats.Conn) { close(r.Closed) },
		Error: func(_ *nats.Conn, _ *nats.Subscription, err error) {
			select {
			case r.Refused <- err.Error():
			default:
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("raw connection: %w", err)
	}
	r.Conn, r.ID = nc, id
	return r, nil
}
