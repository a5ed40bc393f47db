package idem_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/solo-os/solo/bus/idem"
	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

type answer = solov1.GrantCapabilityResponse

func caller(id, digest string) rpc.Caller {
	return rpc.Caller{System: subject.System{Component: subject.Capmgr, Op: "grant", Service: subject.Nothing(), ID: id}, Digest: digest}
}

func open(t *testing.T, s *jstest.Server) *idem.Store {
	t.Helper()
	st, err := idem.Open(t.Context(), s.JS)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// do runs one try that answers with text, and tells how often it ran.
func do(t *testing.T, st *idem.Store, c rpc.Caller, request, text string, ran *int) (string, bool, error) {
	t.Helper()
	a, replayed, err := idem.Do(t.Context(), st, c, request, nil, func() (*answer, error) { *ran++; return &answer{Handle: text}, nil })
	return a.GetHandle(), replayed, err
}

func TestTheFirstAnswerIsGivenAgain(t *testing.T) {
	s := jstest.New(t)
	st, ran := open(t, s), 0
	if a, replayed, err := do(t, st, caller("U1", "d"), "r", "one", &ran); a != "one" || replayed || err != nil {
		t.Fatal(a, replayed, err)
	}
	for range 3 {
		if a, replayed, err := do(t, st, caller("U1", "d"), "r", "two", &ran); a != "one" || !replayed || err != nil || ran != 1 {
			t.Fatal(a, replayed, err, ran)
		}
	}
	// Also after a restart of the component, and of everything.
	s.StopServer()
	s.StartServer()
	if a, replayed, err := do(t, open(t, s), caller("U1", "d"), "r", "two", &ran); a != "one" || !replayed || err != nil || ran != 1 {
		t.Fatal(a, replayed, err, ran)
	}
	// Other arguments, and another operation, are refused.
	if _, _, err := do(t, st, caller("U1", "other"), "r", "x", &ran); !fault.Is(err, fault.ReasonRequestIDReused) {
		t.Error(err)
	}
	op := caller("U1", "d")
	op.Op = "revoke"
	if _, _, err := do(t, st, op, "r", "x", &ran); !fault.Is(err, fault.ReasonRequestIDReused) {
		t.Error(err)
	}
	other := caller("U1", "d")
	other.System.Component = subject.Deployer
	if _, _, err := do(t, st, other, "r", "x", &ran); !fault.Is(err, fault.ReasonRequestIDReused) {
		t.Error(err)
	}
	// Another holder's request is another request.
	if a, replayed, err := do(t, st, caller("U2", "d"), "r", "three", &ran); a != "three" || replayed || err != nil {
		t.Error(a, replayed, err)
	}
	// Without an id nothing is kept.
	before := ran
	for range 2 {
		if _, replayed, err := do(t, st, caller("U1", "d"), "", "x", &ran); replayed || err != nil {
			t.Error(replayed, err)
		}
	}
	if ran != before+2 {
		t.Error(ran)
	}
	// An answer with nothing in it is an answer.
	empty := 0
	for range 2 {
		if a, _, err := do(t, st, caller("U1", "d"), "empty", "", &empty); a != "" || err != nil || empty != 1 {
			t.Error(a, err, empty)
		}
	}
}

func TestSecretsAreNotKept(t *testing.T) {
	s := jstest.New(t)
	st := open(t, s)
	keep := func(a *answer) *answer { return &answer{Capability: a.GetCapability()} }
	secret := strings.Repeat("SU", 20)
	for i := range 2 {
		a, replayed, err := idem.Do(t.Context(), st, caller("U1", "d"), "r", keep, func() (*answer, error) {
			return &answer{Capability: &solov1.Capability{Id: "U9"}, Handle: secret}, nil
		})
		if err != nil || replayed != (i == 1) || (a.GetHandle() != "") == replayed || a.GetCapability().GetId() != "U9" {
			t.Error(a, replayed, err)
		}
	}
	kv, err := s.JS.KeyValue(t.Context(), stream.Requests)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := kv.Keys(t.Context())
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	v, err := kv.Get(t.Context(), keys[0])
	if err != nil || strings.Contains(string(v.Value()), secret) {
		t.Errorf("%s %v", v.Value(), err)
	}
}

func TestAFailureIsTriedAgain(t *testing.T) {
	st := open(t, jstest.New(t))
	no := errors.New("no")
	if _, _, err := idem.Do(t.Context(), st, caller("U1", "d"), "r", nil, func() (*answer, error) { return nil, no }); !errors.Is(err, no) {
		t.Fatal(err)
	}
	ran := 0
	if a, replayed, err := do(t, st, caller("U1", "d"), "r", "yes", &ran); a != "yes" || replayed || err != nil {
		t.Error(a, replayed, err)
	}
}

func TestManyTriesHappenOnce(t *testing.T) {
	st := open(t, jstest.New(t))
	var ran atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			a, _, err := idem.Do(t.Context(), st, caller("U1", "d"), "r", nil, func() (*answer, error) {
				ran.Add(1)
				return &answer{Handle: "one"}, nil
			})
			if err != nil || a.GetHandle() != "one" {
				t.Error(a, err)
			}
		})
	}
	wg.Wait()
	if ran.Load() != 1 {
		t.Errorf("it happened %d times", ran.Load())
	}
}

func TestARetryWaitsForTheFirstTryAndTakesOverFromTheDead(t *testing.T) {
	s := jstest.New(t)
	first, begun, finish := open(t, s), make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, _, err := idem.Do(t.Context(), first, caller("U1", "d"), "r", nil, func() (*answer, error) {
			close(begun)
			<-finish
			return &answer{Handle: "first"}, nil
		})
		ended <- err
	}()
	<-begun
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, _, err := idem.Do(short, first, caller("U1", "d"), "r", nil, func() (*answer, error) { t.Error("it ran twice"); return nil, nil }); !fault.Is(err, fault.ReasonConflict) {
		t.Error(err)
	}
	// Another process: the first one must be dead, and the retry carries on in its place.
	ran := 0
	if a, replayed, err := do(t, open(t, s), caller("U1", "d"), "r", "second", &ran); a != "second" || replayed || err != nil {
		t.Error(a, replayed, err)
	}
	// If it was not dead after all, its answer is not kept in place of the other's, and it says so.
	close(finish)
	if err := <-ended; !fault.Is(err, fault.ReasonUnavailable) {
		t.Error(err)
	}
	if a, replayed, err := do(t, first, caller("U1", "d"), "r", "x", &ran); a != "second" || !replayed || err != nil {
		t.Error(a, replayed, err)
	}
}

func TestWithoutTheBucket(t *testing.T) {
	s := jstest.New(t)
	st := open(t, s)
	if err := s.JS.DeleteKeyValue(t.Context(), stream.Requests); err != nil {
		t.Fatal(err)
	}
	ran := 0
	if _, _, err := do(t, st, caller("U1", "d"), "r", "x", &ran); !fault.Is(err, fault.ReasonUnavailable) || ran != 0 {
		t.Error(err, ran)
	}
	if _, err := idem.Open(t.Context(), s.JS); err == nil {
		t.Error("opened without its bucket")
	}
}

func TestDamagedEntries(t *testing.T) {
	s := jstest.New(t)
	st, ran := open(t, s), 0
	if _, _, err := do(t, st, caller("U1", "d"), "r", "one", &ran); err != nil {
		t.Fatal(err)
	}
	kv, err := s.JS.KeyValue(t.Context(), stream.Requests)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := kv.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good, err := kv.Get(t.Context(), keys[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"rubbish", strings.Replace(string(good.Value()), `"answer":"`, `"answer":"/w`, 1)} {
		if _, err := kv.PutString(t.Context(), keys[0], bad); err != nil {
			t.Fatal(err)
		}
		if _, _, err := do(t, st, caller("U1", "d"), "r", "x", &ran); !fault.Is(err, fault.ReasonInternal) || ran != 1 {
			t.Errorf("%q: %v, ran %d times", bad, err, ran)
		}
	}
}
