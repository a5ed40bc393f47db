package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"io"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	for p, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: kder}} {
		if err := os.WriteFile(p, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestTLS(t *testing.T) {
	cert, key := certificate(t)
	for name, c := range map[string]struct {
		cfg  Config
		want string // in the error; "plain" and "tls" are what comes out well
	}{
		"loopback":      {Config{Listen: "127.0.0.1:1"}, "plain"},
		"loopback six":  {Config{Listen: "[::1]:1"}, "plain"},
		"localhost":     {Config{Listen: "localhost:1"}, "plain"},
		"everywhere":    {Config{Listen: "0.0.0.0:1"}, "not encrypted"},
		"no host":       {Config{Listen: ":1"}, "not encrypted"},
		"by name":       {Config{Listen: ":1", PlaintextOffLoopback: true}, "plain"},
		"nonsense":      {Config{Listen: "x"}, "want host:port"},
		"tls":           {Config{Listen: ":1", TLSCert: cert, TLSKey: key}, "tls"},
		"mutual":        {Config{Listen: ":1", TLSCert: cert, TLSKey: key, ClientCA: cert}, "tls"},
		"no key":        {Config{Listen: ":1", TLSCert: cert}, "certificate"},
		"no ca":         {Config{Listen: ":1", TLSCert: cert, TLSKey: key, ClientCA: "/nonexistent"}, "no such file"},
		"torn ca":       {Config{Listen: ":1", TLSCert: cert, TLSKey: key, ClientCA: os.Args[0]}, "no PEM"},
		"ca without us": {Config{Listen: "127.0.0.1:1", ClientCA: cert}, "without a certificate"},
	} {
		got, err := c.cfg.tls()
		switch {
		case c.want == "plain" && (err != nil || got != nil), c.want == "tls" && (err != nil || got == nil):
			t.Errorf("%s: %v %v", name, got, err)
		case c.want != "plain" && c.want != "tls" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFlagsOverrideTheEnvironment(t *testing.T) {
	env := map[string]string{"SOLO_GRPC_PLAINTEXT": "true", "SOLO_GATEWAY_CONNECTIONS": "7", "SOLO_GATEWAY_IDLE": "3s", "SOLO_GATEWAY_HOLDER_RATE": "9.5", "SOLO_GATEWAY_HOLDER_CONCURRENCY": "4"}
	var c Config
	fs := flag.NewFlagSet("x", flag.ContinueOnError)
	c.flags(fs, func(k string) string { return env[k] })
	if err := fs.Parse([]string{"-connections", "8"}); err != nil {
		t.Fatal(err)
	}
	c = c.withDefaults()
	if !c.PlaintextOffLoopback || c.Connections != 8 || c.Idle != 3*time.Second || c.HolderRate != 9.5 || c.HolderConcurrency != 4 || c.Drain == 0 {
		t.Errorf("%+v", c)
	}
}

func TestRunRefusesWhatCannotWork(t *testing.T) {
	o := func() Options {
		return Options{BusAddr: "127.0.0.1:1", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: prometheus.NewRegistry(), Ready: func(context.Context, string) error { return os.ErrClosed }}
	}
	for want, cfg := range map[string]Config{"no gRPC address": {}, "not encrypted": {Listen: ":0"}, "gRPC: ": {Listen: "127.0.0.1:99999"}, "already closed": {Listen: "127.0.0.1:0"}} {
		if err := Run(t.Context(), cfg, o()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
