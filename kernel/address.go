package kernel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// addresses are where Solo listens, as host:port.
func (c *Config) addresses() []setting {
	return []setting{
		{"grpc-addr", "gRPC `address`", "127.0.0.1:50051", &c.GRPC},
		{"nats-addr", "NATS `address`", "127.0.0.1:4222", &c.NATS},
		{"http-addr", "HTTP `address`; nothing is served there yet", "127.0.0.1:8080", &c.HTTP},
		{"metrics-addr", "metrics and health `address`", "127.0.0.1:9090", &c.Metrics},
	}
}

// title is what an address is for: gRPC.
func (s setting) title() string {
	what, _, _ := strings.Cut(s.usage, " ")
	return what
}

// address tells whether the value is host:port.
func (s setting) address() error {
	_, port, err := net.SplitHostPort(*s.value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%s address %q: want host:port, e.g. %s (--%s or %s)", s.title(), *s.value, s.def, s.flag, s.env())
	}
	return nil
}

// available looks before anything starts whether Solo can listen where it is to: a component
// that cannot is started again and again.
func (c *Config) available(ctx context.Context) error {
	for _, s := range c.addresses() {
		if s.value == &c.HTTP || strings.HasSuffix(*s.value, ":0") {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", *s.value)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return fmt.Errorf("%s address %s is in use: choose another with --%s or %s", s.title(), *s.value, s.flag, s.env())
		case err != nil:
			return fmt.Errorf("%s address %s cannot be used: %w: choose another with --%s or %s", s.title(), *s.value, err, s.flag, s.env())
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}
