package caps_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/caps"
	"github.com/solo-os/solo/bus/jstest"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func chainKey(t testing.TB) (nkeys.KeyPair, string) {
	t.Helper()
	kp, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return kp, pub
}

func event(i int) *kernelv1.CapEvent {
	if i%3 == 2 {
		return &kernelv1.CapEvent{Time: timestamppb.Now(), Change: &kernelv1.CapEvent_Revoked{Revoked: &kernelv1.CapRevoked{Id: fmt.Sprint("U", i-1), By: "U0"}}}
	}
	return &kernelv1.CapEvent{Time: timestamppb.Now(), Change: &kernelv1.CapEvent_Granted{Granted: &kernelv1.CapRecord{
		Id: fmt.Sprint("U", i), Parent: "U0", Label: "someone", Rules: []string{"svc:a/b=call:get"}, Depth: 1, Kind: kernelv1.CapKind_CAP_KIND_HOLDER,
	}}}
}

// chain makes n records and the link before each and after the last.
func chain(t testing.TB, kp nkeys.KeyPair, n int) (recs [][]byte, links []caps.Link) {
	t.Helper()
	links = []caps.Link{{}}
	for i := range n {
		rec, next, err := links[i].Seal(kp, event(i))
		if err != nil {
			t.Fatal(err)
		}
		recs, links = append(recs, rec), append(links, next)
	}
	return recs, links
}

// verify walks a chain as Load does.
func verify(pub string, recs [][]byte, head caps.Link) error {
	var l caps.Link
	var err error
	for _, r := range recs {
		if _, l, err = l.Open(pub, r); err != nil {
			return err
		}
	}
	if l != head {
		return fmt.Errorf("%w: it ends at %d", caps.ErrBroken, l.Sequence)
	}
	return nil
}

func TestEveryFlippedBitIsFound(t *testing.T) {
	kp, pub := chainKey(t)
	recs, links := chain(t, kp, 5)
	if err := verify(pub, recs, links[5]); err != nil {
		t.Fatal(err)
	}
	for i, rec := range recs {
		for at := range rec {
			for _, bit := range []byte{1, 0x80} {
				rec[at] ^= bit
				if err := verify(pub, recs, links[5]); !errors.Is(err, caps.ErrBroken) {
					t.Errorf("record %d, byte %d ^ %#x: %v", i+1, at, bit, err)
				}
				rec[at] ^= bit
			}
		}
	}
}

func TestEveryRearrangementIsFound(t *testing.T) {
	kp, pub := chainKey(t)
	recs, links := chain(t, kp, 5)
	other, _ := chainKey(t)
	foreign, _, err := links[2].Seal(other, event(2))
	if err != nil {
		t.Fatal(err)
	}
	another, _, err := links[2].Seal(kp, event(7)) // well signed, in its place, but not what followed
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string][][]byte{
		"dropped":          {recs[0], recs[1], recs[3], recs[4]},
		"first dropped":    recs[1:],
		"last dropped":     recs[:4],
		"swapped":          {recs[0], recs[2], recs[1], recs[3], recs[4]},
		"twice":            {recs[0], recs[1], recs[1], recs[2], recs[3], recs[4]},
		"by another key":   {recs[0], recs[1], foreign, recs[3], recs[4]},
		"replaced":         {recs[0], recs[1], another, recs[3], recs[4]},
		"rewritten to end": {recs[0], recs[1], another},
		"none":             {},
	} {
		if err := verify(pub, x, links[5]); !errors.Is(err, caps.ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := links[0].Open("no key", recs[0]); err == nil {
		t.Error("opened without a key")
	}
}

func TestHead(t *testing.T) {
	kp, pub := chainKey(t)
	_, links := chain(t, kp, 3)
	path := filepath.Join(t.TempDir(), "caps.head")
	if l, found, err := caps.LoadHead(path, pub); found || err != nil || l != (caps.Link{}) {
		t.Fatal(l, found, err)
	}
	for _, l := range links {
		if err := caps.SaveHead(path, kp, l); err != nil {
			t.Fatal(err)
		}
		if got, found, err := caps.LoadHead(path, pub); !found || err != nil || got != l {
			t.Fatal(got, found, err)
		}
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(good) - 1 { // all but the last line break
		if err := os.WriteFile(path, good[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, found, err := caps.LoadHead(path, pub); !found || !errors.Is(err, caps.ErrBroken) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for at := range good[:len(good)-1] {
		b := bytes.Clone(good)
		b[at] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, _, err := caps.LoadHead(path, pub); err == nil && l != links[3] || err != nil && !errors.Is(err, caps.ErrBroken) {
			t.Errorf("byte %d: %v %v", at, l, err)
		}
	}
	_, otherPub := chainKey(t)
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := caps.LoadHead(path, otherPub); !errors.Is(err, caps.ErrBroken) {
		t.Error(err)
	}
	if _, _, err := caps.LoadHead(t.TempDir(), pub); err == nil {
		t.Error("a folder is a head")
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".head-*"))
	if err != nil || len(left) > 0 {
		t.Error(left, err)
	}
	if err := caps.SaveHead(filepath.Join(t.TempDir(), "none", "caps.head"), kp, links[3]); err == nil {
		t.Error("saved nowhere")
	}
}

func TestLoad(t *testing.T) {
	s := jstest.New(t)
	kp, pub := chainKey(t)
	const n = 200
	recs, links := chain(t, kp, n)
	for _, r := range recs {
		if _, err := s.JS.Publish(t.Context(), subject.Caps, r, jetstream.WithExpectStream("CAPS")); err != nil {
			t.Fatal(err)
		}
	}
	load := func(pub string, head caps.Link) (seen uint64, err error) {
		l, err := caps.Load(t.Context(), s.JS, pub, head, func(ev *kernelv1.CapEvent) error {
			if seen++; ev.GetSequence() != seen {
				t.Errorf("%d comes as %d", ev.GetSequence(), seen)
			}
			return nil
		})
		if err == nil && l != links[n] {
			t.Errorf("%+v", l)
		}
		return seen, err
	}
	for _, head := range []caps.Link{{}, links[1], links[n-1], links[n]} {
		if seen, err := load(pub, head); err != nil || seen != n {
			t.Error(seen, err)
		}
	}
	_, otherPub := chainKey(t)
	for name, f := range map[string]func() (uint64, error){
		"an older store":     func() (uint64, error) { return load(pub, caps.Link{Sequence: n + 1, Hash: links[n].Hash}) },
		"a store rewritten":  func() (uint64, error) { return load(pub, caps.Link{Sequence: n - 1, Hash: links[n].Hash}) },
		"of another machine": func() (uint64, error) { return load(otherPub, links[n]) },
	} {
		if _, err := f(); !errors.Is(err, caps.ErrBroken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	stop := errors.New("stop")
	if _, err := caps.Load(t.Context(), s.JS, pub, links[n], func(*kernelv1.CapEvent) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	if _, err := caps.Load(ended, s.JS, pub, links[n], func(*kernelv1.CapEvent) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// One bad record behind good ones.
	bad := bytes.Clone(recs[0])
	if _, err := s.JS.Publish(t.Context(), subject.Caps, bad); err != nil {
		t.Fatal(err)
	}
	if seen, err := load(pub, links[n]); !errors.Is(err, caps.ErrBroken) || seen != n {
		t.Error(seen, err)
	}
}

func FuzzOpen(f *testing.F) {
	kp, pub := chainKey(f)
	recs, links := chain(f, kp, 2)
	f.Add(recs[0])
	f.Add(recs[1])
	f.Fuzz(func(t *testing.T, rec []byte) {
		ev, l, err := links[1].Open(pub, rec)
		if err == nil && (!bytes.Equal(rec, recs[1]) || l != links[2] || ev.GetSequence() != 2) {
			t.Errorf("opened %x as %v", rec, ev)
		}
		if err != nil && (!errors.Is(err, caps.ErrBroken) || l != links[1] || ev != nil) {
			t.Errorf("%v %v %v", ev, l, err)
		}
	})
}
