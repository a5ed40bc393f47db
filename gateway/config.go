package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// Config of a gateway. The zero value of a bound is its default.
type Config struct {
	// Listen is the gRPC address, host:port.
	Listen string
	// TLSCert and TLSKey are PEM files; with them gRPC is encrypted.
	TLSCert, TLSKey string
	// ClientCA is a PEM file; with it only clients with a certificate of that authority connect.
	ClientCA string
	// PlaintextOffLoopback allows an unencrypted listener that other machines can reach.
	PlaintextOffLoopback bool
	// Connections bounds the bus connections kept for holders; default 2000.
	Connections int
	// Idle is how long one is kept without a call; default 5 min.
	Idle time.Duration
	// HolderRate is how many calls a second one holder may make; default 50000.
	HolderRate float64
	// HolderConcurrency is how many calls and streams of one holder may be under way; default 1024.
	HolderConcurrency int
	// RefusalRate is how many refused handles a second one peer address may present; default 20.
	RefusalRate float64
	// Drain is how long calls may go on once the gateway is told to end; default 5 s.
	Drain time.Duration
}

func (c Config) withDefaults() Config {
	if c.Connections == 0 {
		c.Connections = 2000
	}
	if c.Idle == 0 {
		c.Idle = 5 * time.Minute
	}
	if c.HolderRate == 0 {
		c.HolderRate = 50_000
	}
	if c.HolderConcurrency == 0 {
		c.HolderConcurrency = 1024
	}
	if c.RefusalRate == 0 {
		c.RefusalRate = 20
	}
	if c.Drain == 0 {
		c.Drain = 5 * time.Second
	}
	return c
}

// flags lets the command line set what the boot message does not.
func (c *Config) flags(fs *flag.FlagSet, getenv func(string) string) {
	fs.StringVar(&c.TLSCert, "tls-cert", getenv("SOLO_GRPC_TLS_CERT"), "PEM `file` with the gRPC certificate (SOLO_GRPC_TLS_CERT)")
	fs.StringVar(&c.TLSKey, "tls-key", getenv("SOLO_GRPC_TLS_KEY"), "PEM `file` with its key (SOLO_GRPC_TLS_KEY)")
	fs.StringVar(&c.ClientCA, "tls-client-ca", getenv("SOLO_GRPC_TLS_CLIENT_CA"), "PEM `file`: demand client certificates of this authority (SOLO_GRPC_TLS_CLIENT_CA)")
	yes, _ := strconv.ParseBool(getenv("SOLO_GRPC_PLAINTEXT")) // anything else is no
	fs.BoolVar(&c.PlaintextOffLoopback, "plaintext-off-loopback", yes, "listen unencrypted where other machines can connect (SOLO_GRPC_PLAINTEXT)")
	n, _ := strconv.Atoi(getenv("SOLO_GATEWAY_CONNECTIONS")) // 0 is the default
	fs.IntVar(&c.Connections, "connections", n, "bus connections kept for holders, 0 is 2000 (SOLO_GATEWAY_CONNECTIONS)")
	idle, _ := time.ParseDuration(getenv("SOLO_GATEWAY_IDLE")) // 0 is the default
	fs.DurationVar(&c.Idle, "idle", idle, "how long one is kept without a call, 0 is 5m (SOLO_GATEWAY_IDLE)")
	rate, _ := strconv.ParseFloat(getenv("SOLO_GATEWAY_HOLDER_RATE"), 64) // 0 is the default
	fs.Float64Var(&c.HolderRate, "holder-rate", rate, "calls a second of one holder, 0 is 50000 (SOLO_GATEWAY_HOLDER_RATE)")
	many, _ := strconv.Atoi(getenv("SOLO_GATEWAY_HOLDER_CONCURRENCY")) // 0 is the default
	fs.IntVar(&c.HolderConcurrency, "holder-concurrency", many, "calls and streams of one holder under way, 0 is 1024 (SOLO_GATEWAY_HOLDER_CONCURRENCY)")
}

// tls is the listener's configuration, nil for plaintext.
func (c Config) tls() (*tls.Config, error) {
	if c.TLSCert == "" && c.TLSKey == "" {
		if c.ClientCA != "" {
			return nil, errors.New("a client authority without a certificate of the gateway's own: set tls-cert and tls-key, too")
		}
		host, _, err := net.SplitHostPort(c.Listen)
		if err != nil {
			return nil, fmt.Errorf("gRPC address %q: want host:port", c.Listen)
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && !c.PlaintextOffLoopback {
			return nil, fmt.Errorf("gRPC on %s can be reached by other machines and is not encrypted, so handles would cross the network in the clear: set tls-cert and tls-key, or allow it with plaintext-off-loopback", c.Listen)
		}
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("gRPC certificate: %w", err)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}}
	if c.ClientCA != "" {
		pem, err := os.ReadFile(c.ClientCA)
		if err != nil {
			return nil, err
		}
		t.ClientCAs, t.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !t.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", c.ClientCA)
		}
	}
	return t, nil
}
