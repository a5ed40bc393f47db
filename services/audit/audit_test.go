package audit_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/auditlog"
	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/services/audit"
)

// write records facts numbered from one to another.
func write(t *testing.T, p *daemon.Process, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if err := p.Audit.Fact(t.Context(), auditlog.Entry{Event: "thing", Object: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// objects reads what the files hold.
func objects(t *testing.T, home string) (out []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(home, audit.Dir, "audit-*.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			var l struct {
				Record struct{ Object, Event string }
			}
			if err := json.Unmarshal(sc.Bytes(), &l); err == nil && l.Record.Event == "thing" { // the last line may be under way
				out = append(out, l.Record.Object)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func reaches(t *testing.T, home string, n int) {
	t.Helper()
	end, tick := time.After(20*time.Second), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for {
		got := objects(t, home)
		if len(got) == n {
			for i, o := range got {
				if o != fmt.Sprint(i+1) {
					t.Fatalf("line %d is %s", i+1, o)
				}
			}
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%d lines, want %d", len(got), n)
		}
	}
}

func TestTheTrail(t *testing.T) {
	w := bustest.Start(t)
	p := w.Process(t, subject.Registry)
	write(t, p, 1, 20)
	a := w.Run(t, audit.Command(), nil)
	reaches(t, w.Home, 20)
	write(t, p, 21, 30)
	reaches(t, w.Home, 30)
	a.Stop(t)
	write(t, p, 31, 40)
	w.Run(t, audit.Command(), nil)
	reaches(t, w.Home, 40)

	// A holder of audit=read reads it all, from where it likes.
	h := w.Grant(t, "audit=read")
	peer := rpc.Peer{Conn: w.Dial(t, h), ID: h.ID}
	r, err := peer.Open(t.Context(), subject.Audit, "read", subject.Nothing(), &solov1.AuditRequest{AfterSequence: 15})
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(16); ; seq++ {
		var m solov1.AuditResponse
		err := r.Next(t.Context(), &m)
		if errors.Is(err, rpc.ErrEnd) {
			if seq != 41 {
				t.Errorf("it ends before %d", seq)
			}
			break
		}
		if err != nil || m.GetSequence() != seq || m.GetRecord().GetObject() != fmt.Sprint(seq) {
			t.Fatal(&m, err)
		}
	}
	// Following ends when the capability does.
	r, err = peer.Open(t.Context(), subject.Audit, "read", subject.Nothing(), &solov1.AuditRequest{AfterSequence: 40, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	write(t, p, 41, 41)
	var m solov1.AuditResponse
	if err := r.Next(t.Context(), &m); err != nil || m.GetRecord().GetObject() != "41" {
		t.Fatal(&m, err)
	}
	w.Revoke(t, h.ID)
	write(t, p, 42, 42)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := r.Next(ctx, &m); err == nil {
		t.Errorf("a revoked reader reads on: %v", &m)
	}

	// Someone else may not.
	other := w.Grant(t, "svc:*/*=*")
	conn := w.Dial(t, other)
	short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	r, err = rpc.Peer{Conn: conn, ID: other.ID}.Open(short, subject.Audit, "read", subject.Nothing(), &solov1.AuditRequest{})
	if err == nil {
		err = r.Next(short, &m)
	}
	if err == nil {
		t.Errorf("read without the right: %v", &m)
	}
	if fault.From(err) == nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	w := bustest.Start(t)
	p := w.Process(t, subject.Registry)
	write(t, p, 1, 7)
	a := w.Process(t, subject.Audit)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- audit.Command().Run(ctx, a) }()
	w.WaitReady(t, subject.Audit)
	reaches(t, w.Home, 7)
	families, err := a.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]float64{}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "solo_audit_") {
			seen[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	if seen["solo_audit_records_total"] > 7 || len(seen) != 2 {
		t.Error(seen)
	}
	// A second one does not write beside it.
	if err := audit.Command().Run(t.Context(), w.Process(t, subject.Audit)); err == nil {
		t.Error("two write the same files")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestProgram(t *testing.T) {
	for args, want := range map[string]int{"--help": 0, "--version": 0, "--file-bytes 10 --file-age 1h": 2, "--file-age x": 2} {
		var out, err bytes.Buffer
		if code := daemon.Main(context.Background(), audit.Command(), strings.Fields(args), strings.NewReader(""), &out, &err); code != want {
			t.Errorf("%q: %d, %s %s", args, code, &out, &err)
		}
	}
}
