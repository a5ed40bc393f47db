package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/conn"
	"github.com/solo-os/solo/test/world"
)

// tool is a program that others made, built at the version that the Makefile pins.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs("../../.build/bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		cmd := exec.Command("make", "--no-print-directory", path)
		cmd.Dir = "../.."
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", path, err, b)
		}
	}
	return path
}

// use runs a program with a handle in its environment or a file, never in its arguments.
func use(t *testing.T, env []string, program string, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), append(env, "HOME="+t.TempDir())...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatalf("%s: %v", program, err)
	}
	return b.String(), cmd.ProcessState.ExitCode()
}

// The doors that are not Solo's own clients: grpcurl by reflection, and the nats command with
// nothing but a handle.
func TestDoorsForOtherPrograms(t *testing.T) {
	grpcurl, natscli := tool(t, "grpcurl"), tool(t, "nats")
	w := start(t)
	solo(t, w, "", "deploy", "alice/counter", filepath.Join(examples(t), "counter"), "--format", "go")
	bob := grant(t, w, "bob", "svc:alice/counter=call:get")
	seed, err := world.Handle(bob)
	if err != nil {
		t.Fatal(err)
	}
	id, err := conn.ID(seed)
	if err != nil {
		t.Fatal(err)
	}

	rpc := func(args ...string) (string, int) {
		return use(t, []string{"SOLO_SEED=" + seed}, grpcurl, append([]string{"-plaintext", "-expand-headers", "-H", "authorization: Bearer ${SOLO_SEED}"}, args...)...)
	}
	if out, code := rpc(w.Addr["grpc"], "describe", "solo.v1.SoloKernel"); code != 0 || !strings.Contains(out, "rpc Deploy") {
		t.Errorf("describe: exit %d\n%s", code, out)
	}
	out, code := rpc("-d", `{"service":"alice/counter","op":"get"}`, w.Addr["grpc"], "solo.v1.SoloKernel/Call")
	var answer struct{ Text string }
	if code != 0 || json.Unmarshal([]byte(out), &answer) != nil || answer.Text != "0" {
		t.Errorf("call: exit %d\n%s", code, out)
	}
	if out, code := rpc("-d", `{"service":"alice/counter","op":"add"}`, w.Addr["grpc"], "solo.v1.SoloKernel/Call"); code == 0 || !strings.Contains(out, "NOT_GRANTED") {
		t.Errorf("call add: exit %d\n%s", code, out)
	}

	bus := func(args ...string) (string, int) {
		line := []string{"--server", "nats://" + w.Addr["nats"], "--nkey", bob, "--inbox-prefix", "_INBOX." + id}
		return use(t, nil, natscli, append(line, args...)...)
	}
	if out, code := bus("request", "svc.alice.counter.get."+id, ""); code != 0 || !strings.Contains(out, "\n0") {
		t.Errorf("request get: exit %d\n%s", code, out)
	}
	for _, args := range [][]string{
		{"request", "svc.alice.counter.add." + id, "", "--timeout", "1s"},
		{"request", "sys.deployer.kill.alice.counter." + id, "", "--timeout", "1s"},
		{"pub", "evt.alice.counter.lies", "x"},
		{"sub", "svc.>", "--count", "1"},
		{"stream", "ls"},
		{"kv", "get", "registry", "svc.alice.counter"},
	} {
		if out, _ := bus(args...); !strings.Contains(strings.ToLower(out), "permissions violation") {
			t.Errorf("nats %v was not refused:\n%s", args, out)
		}
	}
}

// The nats command reads the audit trail with the lines that `solo audit subscribe` prints, and
// nothing else of JetStream.
func TestTheTrailForOtherPrograms(t *testing.T) {
	natscli := tool(t, "nats")
	w := start(t)
	handle := grant(t, w, "auditor", "audit=read")
	lines := func() (next, info []string) {
		l := strings.Split(solo(t, w, handle, "audit", "subscribe"), "\n")
		if len(l) != 2 {
			t.Fatalf("%q", l)
		}
		return strings.Fields(l[0])[1:], strings.Fields(l[1])[1:]
	}
	next, info := lines()
	next[len(next)-1] = "2" // intent and outcome of the grant
	out, code := use(t, nil, natscli, next...)
	if code != 0 || !strings.Contains(out, `"event":"grant"`) || !strings.Contains(out, "Acknowledged message") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if out, code := use(t, nil, natscli, info...); code != 0 || !strings.Contains(out, "Outstanding Acks: 0 out of maximum 1,024") {
		t.Errorf("info: exit %d\n%s", code, out)
	}
	line := slices.Clone(next[:len(next)-6])
	if line[len(line)-1] != "audit" {
		t.Fatal(line)
	}
	line = append(line, "--timeout", "1s")
	for _, args := range [][]string{
		{"stream", "ls"},
		{"stream", "get", "AUDIT", "1"},
		{"stream", "purge", "AUDIT", "-f"},
		{"consumer", "rm", "AUDIT", next[len(next)-3], "-f"},
		{"consumer", "ls", "AUDIT"},
		{"consumer", "add", "AUDIT", "spy", "--pull", "--defaults"},
		{"consumer", "info", "AUDIT", "spy"},
	} {
		if out, _ := use(t, nil, natscli, slices.Concat(line, args)...); !strings.Contains(strings.ToLower(out), "permissions violation") {
			t.Errorf("nats %v was not refused:\n%s", args, out)
		}
	}
	solo(t, w, "", "revoke", handle)
	if out, code := use(t, nil, natscli, next...); code == 0 || !strings.Contains(out, "Authorization Violation") {
		t.Errorf("after the revocation: exit %d\n%s", code, out)
	}
}
