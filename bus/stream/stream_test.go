package stream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/subject"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// start runs a server on a store and returns its streams.
func start(t *testing.T, dir string) (js jetstream.JetStream, stop func()) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true, JetStream: true, StoreDir: dir, SyncAlways: true})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	end := func() { s.Shutdown(); s.WaitForShutdown() }
	t.Cleanup(end)
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return js, func() { nc.Close(); end() }
}

func configs(t *testing.T, js jetstream.JetStream) map[string]string {
	t.Helper()
	out := map[string]string{}
	l := js.ListStreams(within(t))
	for i := range l.Info() {
		out[i.Config.Name] = fmt.Sprintf("%+v", i.Config)
	}
	if l.Err() != nil {
		t.Fatal(l.Err())
	}
	return out
}

func TestEnsureIsIdempotent(t *testing.T) {
	dir := t.TempDir()
	js, stop := start(t, dir)
	if err := stream.Ensure(within(t), js); err != nil {
		t.Fatal(err)
	}
	first := configs(t, js)
	for _, name := range []string{
		stream.Caps, stream.Audit, stream.Events, stream.Logs, stream.KVStream(stream.Registry), stream.KVStream(stream.Nodes),
		stream.KVStream(stream.State), stream.KVStream(stream.Requests), stream.KVStream(stream.Crashes), stream.ObjStream(stream.Artifacts),
	} {
		if first[name] == "" {
			t.Errorf("there is no stream %s", name)
		}
	}
	kv, err := js.KeyValue(within(t), stream.Registry)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(within(t), "svc.a.b", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if err := stream.Ensure(within(t), js); err != nil {
		t.Fatal(err)
	}
	stop()
	js, _ = start(t, dir)
	if err := stream.Ensure(within(t), js); err != nil {
		t.Fatal(err)
	}
	second := configs(t, js)
	for name, c := range first {
		if second[name] != c {
			t.Errorf("%s changed:\n%s\n%s", name, c, second[name])
		}
	}
	if kv, err = js.KeyValue(within(t), stream.Registry); err != nil {
		t.Fatal(err)
	}
	if e, err := kv.Get(within(t), "svc.a.b"); err != nil || string(e.Value()) != "kept" {
		t.Errorf("what was stored: %v %v", e, err)
	}
}

func TestWhatIsKeptHow(t *testing.T) {
	js, _ := start(t, t.TempDir())
	if err := stream.Ensure(within(t), js); err != nil {
		t.Fatal(err)
	}
	config := func(name string) jetstream.StreamConfig {
		s, err := js.Stream(within(t), name)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().Config
	}
	for _, name := range []string{stream.Caps, stream.Audit} {
		if c := config(name); !c.DenyDelete || !c.DenyPurge || c.AllowRollup || c.PersistMode == jetstream.AsyncPersistMode {
			t.Errorf("%s can lose records: %+v", name, c)
		}
	}
	for _, b := range []string{stream.Registry, stream.Nodes} {
		if config(stream.KVStream(b)).AllowDirect {
			t.Errorf("bucket %s answers from any replica", b)
		}
	}
	for _, name := range []string{stream.Events, stream.Logs} {
		if c := config(name); c.MaxBytes <= 0 || c.Discard != jetstream.DiscardOld {
			t.Errorf("%s is not bounded: %+v", name, c)
		}
	}
	if _, err := js.Publish(within(t), subject.Caps, make([]byte, 300<<10)); err == nil {
		t.Error("a record of any size is taken")
	}
	nodes, err := js.KeyValue(within(t), stream.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	st, err := nodes.Status(within(t))
	if err != nil || st.TTL() != 10*time.Second || st.History() != 1 {
		t.Errorf("bucket nodes: %v %v", st, err)
	}
}

func TestLost(t *testing.T) {
	js, _ := start(t, t.TempDir())
	if err := stream.Ensure(within(t), js); err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(within(t), stream.State)
	if err != nil {
		t.Fatal(err)
	}
	rev, err := kv.Create(within(t), "k", nil)
	if err != nil || stream.Lost(err) {
		t.Fatal(err)
	}
	if _, err := kv.Create(within(t), "k", nil); !stream.Lost(err) {
		t.Errorf("creating what exists: %v", err)
	}
	if _, err := kv.Update(within(t), "k", nil, rev+7); !stream.Lost(err) {
		t.Errorf("a lost race: %v", err)
	}
	if _, err := kv.Get(within(t), "none"); stream.Lost(err) {
		t.Errorf("a missing key: %v", err)
	}
	if stream.Lost(&jetstream.APIError{ErrorCode: 10164}) {
		t.Error("a write in flight is taken for a lost race")
	}
}

func TestRetryInFlight(t *testing.T) {
	inFlight := fmt.Errorf("nats: %w: %w", &jetstream.APIError{ErrorCode: 10164, Description: "wrong last sequence"}, jetstream.ErrKeyExists)
	n := 0
	v, err := stream.RetryInFlight(within(t), func() (int, error) {
		if n++; n < 4 {
			return 0, inFlight
		}
		return n, nil
	})
	if v != 4 || err != nil {
		t.Errorf("%d %v", v, err)
	}
	other := errors.New("other")
	if _, err := stream.RetryInFlight(within(t), func() (int, error) { n++; return 0, other }); !errors.Is(err, other) || n != 5 {
		t.Errorf("another error is repeated: %d %v", n, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err = stream.RetryInFlight(ctx, func() (int, error) { cancel(); return 0, inFlight })
	if !errors.Is(err, jetstream.ErrKeyExists) {
		t.Errorf("after its time: %v", err)
	}
	text := errors.New("publish: err_code=10164")
	if _, err := stream.RetryInFlight(ctx, func() (int, error) { return 0, text }); !errors.Is(err, text) {
		t.Error(err)
	}
}
