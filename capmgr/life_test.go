package capmgr_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/capmgr"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

func TestRestart(t *testing.T) {
	w := bustest.Start(t)
	c := w.Run(t, capmgr.Command(), nil)
	root := dial(t, w, w.Root)
	a, b := root.grant(t, w, 2, "svc:x/*=*"), root.grant(t, w, 2, "svc:x/*=*")
	if _, err := root.revoke(t, a.ID); err != nil {
		t.Fatal(err)
	}
	c.Stop(t)
	w.Run(t, capmgr.Command(), nil)
	if live := root.describe(t, &solov1.DescribeCapabilityRequest{Id: a.ID}).GetCapability().GetLive(); live {
		t.Error("a revoked capability came back")
	}
	b.grant(t, w, 1, "svc:x/y=status")
	live(t, w, b.ID, gate.Allowed)
}

func TestBrokenChainIsRefused(t *testing.T) {
	w := bustest.Start(t)
	c := w.Run(t, capmgr.Command(), nil)
	root := dial(t, w, w.Root)
	root.grant(t, w, 2, "svc:x/*=*")
	c.Stop(t)
	head := filepath.Join(w.Home, capmgr.HeadFile)
	good, err := os.ReadFile(head)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"cut short":  good[:len(good)/2],
		"other hash": bytes.Replace(good, []byte(`"hash":"`), []byte(`"hash":"00`), 1),
	} {
		if err := os.WriteFile(head, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err := capmgr.Run(t.Context(), w.Process(t, subject.Capmgr))
		if err == nil || !strings.Contains(err.Error(), "solo doctor") || !strings.Contains(err.Error(), head) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(head, good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.Run(t, capmgr.Command(), nil)
}

func TestProgram(t *testing.T) {
	for args, want := range map[string]int{"--help": 0, "--version": 0, "--nonsense": 2, "": 2} {
		var out, err bytes.Buffer
		if code := daemon.Main(context.Background(), capmgr.Command(), strings.Fields(args), strings.NewReader(""), &out, &err); code != want {
			t.Errorf("%q: %d, %s %s", args, code, &out, &err)
		}
	}
}
