package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/test/world"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Bad input is a typed error that names field and fix; nothing is half deployed and nobody
// else is disturbed.
func TestBadInput(t *testing.T) {
	w := start(t)
	solo(t, w, "", "deploy", "alice/counter", filepath.Join(examples(t), "counter"), "--format", "go")
	seed, err := world.Handle(filepath.Join(w.Home(), "root.nk"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := w.Client(seed)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wasm := filepath.Join(t.TempDir(), "wordcount.wasm")
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", wasm, ".")
	cmd.Dir = filepath.Join(examples(t), "wordcount")
	cmd.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	module, err := os.ReadFile(wasm)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(module)
	flipped[len(flipped)/2] ^= 0xff
	flipped[9] ^= 0xff
	noExport := []byte{0, 'a', 's', 'm', 1, 0, 0, 0}
	archive := func(b []byte) *solov1.Code { return &solov1.Code{Kind: &solov1.Code_Archive{Archive: b}} }
	files := func(src string) *solov1.Code {
		return &solov1.Code{Kind: &solov1.Code_Files{Files: &solov1.Files{Files: map[string][]byte{"main.go": []byte(src)}}}}
	}
	man := func(f solov1.Format) *solov1.Manifest { return &solov1.Manifest{Name: "alice/bad", Format: f} }
	const (
		src = solov1.Format_FORMAT_GO_SOURCE
		mod = solov1.Format_FORMAT_WASM
		nat = solov1.Format_FORMAT_BINARY
	)

	deploys := map[string]struct {
		req    *solov1.DeployRequest
		code   codes.Code
		reason string
		text   string // must stand in the message, a field or a diagnostic
	}{
		"no manifest":        {&solov1.DeployRequest{Code: archive(module)}, codes.InvalidArgument, fault.ReasonInvalidArgument, "manifest"},
		"no code":            {&solov1.DeployRequest{Manifest: man(mod)}, codes.InvalidArgument, fault.ReasonInvalidArgument, "code"},
		"bad name":           {&solov1.DeployRequest{Manifest: &solov1.Manifest{Name: "Alice", Format: mod}, Code: archive(module)}, codes.InvalidArgument, fault.ReasonInvalidArgument, "manifest.name"},
		"truncated module":   {&solov1.DeployRequest{Manifest: man(mod), Code: archive(module[:len(module)/2])}, codes.InvalidArgument, fault.ReasonModuleInvalid, ""},
		"flipped module":     {&solov1.DeployRequest{Manifest: man(mod), Code: archive(flipped)}, codes.InvalidArgument, fault.ReasonModuleInvalid, ""},
		"no export":          {&solov1.DeployRequest{Manifest: man(mod), Code: archive(noExport)}, codes.InvalidArgument, fault.ReasonModuleExportMissing, "solo_handle"},
		"text as binary":     {&solov1.DeployRequest{Manifest: man(nat), Code: archive([]byte("#!/bin/sh\necho hi\n"))}, codes.InvalidArgument, fault.ReasonBinaryInvalid, "ELF"},
		"broken source":      {&solov1.DeployRequest{Manifest: man(src), Code: files("package main\n\nfunc main() {\n\tx := 1\n}\n")}, codes.InvalidArgument, fault.ReasonBuildFailed, "main.go:4:2"},
		"path escape":        {&solov1.DeployRequest{Manifest: man(src), Code: &solov1.Code{Kind: &solov1.Code_Files{Files: &solov1.Files{Files: map[string][]byte{"../evil.go": []byte("package main")}}}}}, codes.InvalidArgument, fault.ReasonInvalidArgument, "../evil.go"},
		"protocol with wasm": {&solov1.DeployRequest{Manifest: &solov1.Manifest{Name: "alice/bad", Format: mod, Protocol: solov1.Protocol_PROTOCOL_HTTP}, Code: archive(module)}, codes.InvalidArgument, fault.ReasonManifestInvalid, "protocol"},
		"bad grant":          {&solov1.DeployRequest{Manifest: &solov1.Manifest{Name: "alice/bad", Format: mod, Grants: []string{"svc:x"}}, Code: archive(module)}, codes.InvalidArgument, fault.ReasonManifestInvalid, "grants[0]"},
		"unknown artifact":   {&solov1.DeployRequest{Manifest: man(mod), Code: &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: strings.Repeat("a", 64)}}}, codes.NotFound, fault.ReasonArtifactNotFound, ""},
	}
	for name, d := range deploys {
		t.Run("deploy "+name, func(t *testing.T) {
			_, err := c.Deploy(t.Context(), d.req)
			check(t, err, d.code, d.reason, d.text)
			_, err = c.Status(t.Context(), &solov1.StatusRequest{Service: "alice/bad"})
			check(t, err, codes.NotFound, fault.ReasonServiceNotFound, "")
		})
	}

	others := map[string]struct {
		do     func() error
		code   codes.Code
		reason string
		text   string
	}{
		"unknown service": {func() error {
			_, err := c.Call(t.Context(), &solov1.CallRequest{Service: "alice/nobody", Op: "get"})
			return err
		}, codes.NotFound, fault.ReasonServiceNotFound, "alice/nobody"},
		"unknown operation": {func() error {
			_, err := c.Call(t.Context(), &solov1.CallRequest{Service: "alice/counter", Op: "fly"})
			return err
		}, codes.NotFound, fault.ReasonOperationUnknown, "fly"},
		"bad operation": {func() error {
			_, err := c.Call(t.Context(), &solov1.CallRequest{Service: "alice/counter", Op: "Get!"})
			return err
		}, codes.InvalidArgument, fault.ReasonInvalidArgument, "op"},
		"oversize payload": {func() error {
			_, err := c.Call(t.Context(), &solov1.CallRequest{Service: "alice/counter", Op: "get", Body: &solov1.CallRequest_Payload{Payload: make([]byte, 1<<20+1)}})
			return err
		}, codes.InvalidArgument, fault.ReasonInvalidArgument, "payload"},
		"bad rule": {func() error {
			_, err := c.GrantCapability(t.Context(), &solov1.GrantCapabilityRequest{Rules: []string{"svc:a/b=fly"}})
			return err
		}, codes.InvalidArgument, fault.ReasonInvalidArgument, "rules"},
		"unknown capability": {func() error {
			_, err := c.RevokeCapability(t.Context(), &solov1.RevokeCapabilityRequest{Id: "U" + strings.Repeat("A", 55)})
			return err
		}, codes.NotFound, fault.ReasonCapabilityNotFound, ""},
		"kill unknown": {func() error {
			_, err := c.Kill(t.Context(), &solov1.KillRequest{Service: "alice/nobody"})
			return err
		}, codes.NotFound, fault.ReasonServiceNotFound, ""},
		"deploy over running": {func() error {
			_, err := c.Deploy(t.Context(), &solov1.DeployRequest{Manifest: &solov1.Manifest{Name: "alice/counter", Format: mod}, Code: archive(module)})
			return err
		}, codes.AlreadyExists, fault.ReasonServiceExists, "alice/counter"},
	}
	for name, o := range others {
		t.Run(name, func(t *testing.T) { check(t, o.do(), o.code, o.reason, o.text) })
	}

	t.Run("manifest files", func(t *testing.T) {
		for text, want := range map[string]string{
			"name: alice/bad\nformat: go\nsource: .\nreplicsa: 3\n":                    "replicsa",
			"name: alice/bad\nformat: go\nsource: .\nprotocol: http\n":                 "protocol",
			"name: alice/bad\nformat: cobol\nsource: .\n":                              "format",
			"name: alice/bad\nformat: go\nsource: .\nlimits: {memory: lots}\n":         "memory",
			"name: alice/bad\nformat: go\n":                                            "source",
			"name: [\n":                                                                "line",
			"name: alice/bad\nformat: go\nsource: .\nlimits: {memory: 64Mi, ram: 1}\n": "ram",
		} {
			dir := t.TempDir()
			file := filepath.Join(dir, "manifest.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\nfunc main() {}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			r := w.Solo(t.Context(), "", "deploy", "-f", file)
			if r.Code == 0 || !strings.Contains(r.Err, want) {
				t.Errorf("%q: exit %d, want %q in: %s", text, r.Code, want, r.Err)
			}
		}
	})
	if got := solo(t, w, "", "call", "alice/counter", "get"); got != "0" {
		t.Errorf("the neighbour was disturbed: it answers %q", got)
	}
}

func check(t *testing.T, err error, code codes.Code, reason, text string) {
	t.Helper()
	if err == nil {
		t.Fatal("accepted")
	}
	f := fault.From(err)
	if status.Code(err) != code || f.Reason != reason {
		t.Errorf("%v %s (%s), want %v %s", status.Code(err), f.Reason, f.Message, code, reason)
	}
	all := f.Message + f.Help
	for _, x := range f.Fields {
		all += " " + x.Path + " " + x.Description
	}
	for k, v := range f.Metadata {
		all += " " + k + "=" + v
	}
	if !strings.Contains(all, text) {
		t.Errorf("%q does not stand in %q", text, all)
	}
}
