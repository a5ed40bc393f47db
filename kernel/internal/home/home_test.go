package home

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/solo-os/solo/bus/conn"
)

func dir(t *testing.T) string {
	t.Helper()
	d, err := os.MkdirTemp("", "solo-home-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(d); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestIdentitiesLast(t *testing.T) {
	d := dir(t)
	first, err := Open(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(d); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by another solo-kernel (pid %d)", os.Getpid())) {
		t.Errorf("a second kernel opens the same home: %v", err)
	}
	if err := os.WriteFile(first.Addresses(), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	pub := func(h *Home) string {
		p, err := h.Chain.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if !first.FirstBoot || again.FirstBoot || again.Node != first.Node || again.RootID != first.RootID || pub(again) != pub(first) || again.Epoch != first.Epoch+1 {
		t.Errorf("first %+v, again %+v", first, again)
	}
	if _, err := os.Stat(again.Addresses()); err == nil {
		t.Error("stale addresses are still there")
	}
	seed, err := os.ReadFile(again.RootHandle())
	if err != nil {
		t.Fatal(err)
	}
	if id, err := conn.ID(strings.TrimSpace(string(seed))); err != nil || id != again.RootID {
		t.Errorf("root.nk is of %s (%v), want %s", id, err, again.RootID)
	}
	for p, mode := range map[string]os.FileMode{d: 0o700, again.RootHandle(): 0o600, filepath.Join(d, "keys", "chain.nk"): 0o600} {
		if i, err := os.Stat(p); err != nil || i.Mode().Perm() != mode {
			t.Errorf("%s: %v %v", p, i.Mode(), err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, content := range map[string]string{"damaged": "{", "nameless": "{}", "clustered": `{"name":"n","store":"clustered"}`} {
		d := dir(t)
		if err := os.WriteFile(filepath.Join(d, "node.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if h, err := Open(d); err == nil {
			t.Errorf("%s: opened %+v", name, h)
		}
	}
	if _, err := Open(filepath.Join(dir(t), strings.Repeat("long", 20))); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("%v", err)
	}
}
