package kernel

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-os/solo/bus/daemon"
)

func TestParsePrecedence(t *testing.T) {
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "solo.yaml"), []byte("grpc_addr: 127.0.0.1:3\nnats_addr: 127.0.0.1:3\nmetrics_addr: 127.0.0.1:3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"SOLO_HOME": home, "SOLO_NATS_ADDR": "127.0.0.1:2", "SOLO_GRPC_ADDR": "127.0.0.1:2"}
	c, err := Parse([]string{"--grpc-addr", "127.0.0.1:1"}, func(k string) string { return env[k] }, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	if c.GRPC != "127.0.0.1:1" || c.NATS != "127.0.0.1:2" || c.Metrics != "127.0.0.1:3" || c.HTTP != "127.0.0.1:8080" || c.LogLevel != "info" || c.Home != home {
		t.Errorf("%+v", c)
	}
}

func TestParseRefuses(t *testing.T) {
	bad := t.TempDir()
	if err := os.WriteFile(filepath.Join(bad, "solo.yaml"), []byte("grpc_adr: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"an unknown flag":     {"--speed"},
		"an argument":         {"up"},
		"an unknown field":    {"--home", bad},
		"an unknown level":    {"--log-level", "loud"},
		"a flag with no word": {"--home"},
		"no host and port":    {"--grpc-addr", "foo"},
		"no number":           {"--metrics-addr", "127.0.0.1:http"},
		"too large a port":    {"--nats-addr", "127.0.0.1:65536"},
	} {
		if _, err := Parse(args, func(string) string { return "" }, &bytes.Buffer{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	_, err := Parse([]string{"--home", bad}, func(string) string { return "" }, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), `unknown setting "grpc_adr": want grpc_addr, nats_addr`) {
		t.Error(err)
	}
}

// A port that is taken ends the kernel before it starts anything, and says which and how.
func TestATakenPortIsRefusedAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct{ flag, want string }{
		{"grpc-addr", "gRPC address %s is in use: choose another with --grpc-addr or SOLO_GRPC_ADDR"},
		{"nats-addr", "NATS address %s is in use: choose another with --nats-addr or SOLO_NATS_ADDR"},
		{"metrics-addr", "metrics address %s is in use: choose another with --metrics-addr or SOLO_METRICS_ADDR"},
	} {
		args := []string{"--home", t.TempDir(), "--bin", t.TempDir()}
		for _, f := range []string{"grpc-addr", "nats-addr", "metrics-addr"} {
			args = append(args, "--"+f, "127.0.0.1:0")
		}
		var out bytes.Buffer
		code := Main(t.Context(), append(args, "--"+c.flag, l.Addr().String()), &out, &out)
		if want := fmt.Sprintf(c.want, l.Addr()); code != 1 || !strings.Contains(out.String(), want) || strings.Contains(out.String(), `"level"`) {
			t.Errorf("code %d, output %q, want %q", code, out.String(), want)
		}
	}
}

func TestMainCodes(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		out  string
	}{
		{[]string{"--version"}, 0, "solo-kernel " + daemon.Version},
		{[]string{"--help"}, 0, "Usage: solo-kernel"},
		{[]string{"--speed"}, 2, "see --help"},
		{[]string{"--home", t.TempDir(), "--grpc-addr", "127.0.0.1:0", "--nats-addr", "192.0.2.1:0", "--metrics-addr", "127.0.0.1:0"}, 1, "only loopback"},
		{[]string{"--home", t.TempDir(), "--nats-addr", "nowhere"}, 2, "want host:port"},
	} {
		var out bytes.Buffer
		if code := Main(context.Background(), c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.out) {
			t.Errorf("%v: code %d, output %q", c.args, code, out.String())
		}
	}
}
