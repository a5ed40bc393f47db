package kernel

import (
	"bytes"
	"context"
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
	} {
		if _, err := Parse(args, func(string) string { return "" }, &bytes.Buffer{}); err == nil {
			t.Errorf("%s: accepted", name)
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
		{[]string{"--home", t.TempDir(), "--nats-addr", "192.0.2.1:4222"}, 1, "only loopback"},
		{[]string{"--home", t.TempDir(), "--nats-addr", "nowhere"}, 1, "want host:port"},
	} {
		var out bytes.Buffer
		if code := Main(context.Background(), c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.out) {
			t.Errorf("%v: code %d, output %q", c.args, code, out.String())
		}
	}
}
