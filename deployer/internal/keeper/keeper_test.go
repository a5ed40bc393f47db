package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/solo-os/solo/deployer/internal/keeper"
	"github.com/solo-os/solo/proto/fault"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

const svc = "acme/counter"

type troubles struct {
	mu   sync.Mutex
	list []string
}

func (t *troubles) add(_, m string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = append(t.list, m)
}

func (t *troubles) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.list, "\n")
}

func start(t testing.TB, dir string, b keeper.Bucket) (*keeper.Keeper, *troubles) {
	t.Helper()
	tr := &troubles{}
	k, err := keeper.New(keeper.Options{Dir: dir, Bucket: b, Log: slog.New(slog.DiscardHandler), Trouble: tr.add})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k, tr
}

func open(t testing.TB, k *keeper.Keeper, epoch uint64) map[string]string {
	t.Helper()
	all, err := k.Open(t.Context(), svc, epoch, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return text(all)
}

func text(all map[string][]byte) map[string]string {
	out := map[string]string{}
	for k, v := range all {
		out[k] = string(v)
	}
	return out
}

func put(key, value string) *nodev1.StateOp {
	return &nodev1.StateOp{Key: key, Value: []byte(value), Mode: solov1.StateMode_STATE_MODE_HYBRID}
}

func del(key string) *nodev1.StateOp { return &nodev1.StateOp{Key: key} }

func write(t testing.TB, k *keeper.Keeper, epoch uint64, ops ...*nodev1.StateOp) {
	t.Helper()
	if err := k.Write(t.Context(), svc, epoch, ops); err != nil {
		t.Fatal(err)
	}
}

func TestStateSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	k, _ := start(t, dir, nil)
	if got := open(t, k, 1); len(got) != 0 {
		t.Fatalf("new state has %v", got)
	}
	write(t, k, 1, put("a", "1"), put("b", "2"))
	write(t, k, 1, del("a"), put("c", ""))
	durable := put("d", "4")
	durable.Mode = solov1.StateMode_STATE_MODE_DURABLE
	write(t, k, 1, durable)
	want := map[string]string{"b": "2", "c": "", "d": "4"}
	if got := open(t, k, 1); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if n := k.Bytes(svc); n != 5 {
		t.Errorf("%d bytes", n)
	}
	again, _ := start(t, dir, nil)
	if got := open(t, again, 1); !maps.Equal(got, want) {
		t.Errorf("after reopening: %v", got)
	}
}

func TestOlderEpochsAreFenced(t *testing.T) {
	dir := t.TempDir()
	k, _ := start(t, dir, nil)
	open(t, k, 5)
	write(t, k, 5, put("a", "1"))
	open(t, k, 6)
	check := func(k *keeper.Keeper) {
		t.Helper()
		if err := k.Write(t.Context(), svc, 5, []*nodev1.StateOp{put("a", "2")}); !fault.Is(err, fault.ReasonEpochFenced) {
			t.Errorf("write: %v", err)
		}
		if _, err := k.Open(t.Context(), svc, 5, nil, 0); !fault.Is(err, fault.ReasonEpochFenced) {
			t.Errorf("open: %v", err)
		}
		if err := k.Drop(t.Context(), svc, 5); !fault.Is(err, fault.ReasonEpochFenced) {
			t.Errorf("drop: %v", err)
		}
	}
	check(k)
	if err := k.Write(t.Context(), svc, 7, []*nodev1.StateOp{put("a", "2")}); !fault.Is(err, fault.ReasonStateUnavailable) {
		t.Errorf("an epoch that did not open wrote: %v", err)
	}
	again, _ := start(t, dir, nil)
	check(again)
}

func TestRefusals(t *testing.T) {
	k, _ := start(t, t.TempDir(), nil)
	if err := k.Write(t.Context(), svc, 1, nil); !fault.Is(err, fault.ReasonStateUnavailable) {
		t.Errorf("unopened: %v", err)
	}
	if _, err := k.Open(t.Context(), "nonsense", 1, nil, 0); !fault.Is(err, fault.ReasonInvalidArgument) {
		t.Errorf("bad name: %v", err)
	}
	if _, err := k.Open(t.Context(), svc, 1, nil, 100); err != nil {
		t.Fatal(err)
	}
	none := put("x", "")
	none.Mode = solov1.StateMode_STATE_MODE_NONE
	for name, c := range map[string]struct {
		op     *nodev1.StateOp
		reason string
	}{
		"empty key":  {put("", "x"), fault.ReasonInvalidArgument},
		"long key":   {put(strings.Repeat("k", 513), ""), fault.ReasonInvalidArgument},
		"long value": {put("k", strings.Repeat("v", 1<<20+1)), fault.ReasonTooLarge},
		"mode":       {none, fault.ReasonInvalidArgument},
		"quota":      {put("k", strings.Repeat("v", 100)), fault.ReasonStateQuota},
	} {
		if err := k.Write(t.Context(), svc, 1, []*nodev1.StateOp{put("ok", "1"), c.op}); !fault.Is(err, c.reason) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := open(t, k, 1); len(got) != 0 {
		t.Errorf("a refused batch left %v", got)
	}
}

func TestQuotaCountsBatchesOnce(t *testing.T) {
	k, _ := start(t, t.TempDir(), nil)
	if _, err := k.Open(t.Context(), svc, 1, nil, 100); err != nil {
		t.Fatal(err)
	}
	write(t, k, 1, put("k", strings.Repeat("v", 90)))
	write(t, k, 1, put("k", strings.Repeat("w", 95)))
	write(t, k, 1, del("k"), put("k", strings.Repeat("x", 99)))
	if err := k.Write(t.Context(), svc, 1, []*nodev1.StateOp{put("l", "12")}); !fault.Is(err, fault.ReasonStateQuota) {
		t.Errorf("got %v", err)
	}
	if _, err := k.Open(t.Context(), svc, 1, nil, 10); err != nil {
		t.Fatal(err)
	}
	write(t, k, 1, put("k", "smaller, though still above the new quota"))
	write(t, k, 1, del("k"))
}

// TestCompaction writes far more history than state.
func TestCompaction(t *testing.T) {
	dir := t.TempDir()
	k, _ := start(t, dir, nil)
	open(t, k, 1)
	value := strings.Repeat("x", 10_000)
	for i := range 1000 {
		write(t, k, 1, put(fmt.Sprint(i%7), value+fmt.Sprint(i)), put("gone", "x"))
	}
	write(t, k, 1, del("gone"))
	info, err := os.Stat(filepath.Join(dir, "acme.counter.journal"))
	if err != nil || info.Size() > 2<<20 {
		t.Errorf("the journal has %d bytes, %v", info.Size(), err)
	}
	again, _ := start(t, dir, nil)
	got := open(t, again, 1)
	if len(got) != 7 || got["5"] != value+"999" {
		t.Errorf("%d keys, 5 ends in %q", len(got), got["5"][10_000:])
	}
}

func TestTornTailIsReported(t *testing.T) {
	dir := t.TempDir()
	k, _ := start(t, dir, nil)
	open(t, k, 1)
	write(t, k, 1, put("a", "1"))
	write(t, k, 1, put("b", "2"))
	path := filepath.Join(dir, "acme.counter.journal")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-1); err != nil {
		t.Fatal(err)
	}
	again, tr := start(t, dir, nil)
	if got := open(t, again, 1); !maps.Equal(got, map[string]string{"a": "1"}) {
		t.Errorf("got %v", got)
	}
	if !strings.Contains(tr.text(), "cut off") {
		t.Errorf("nobody was told: %q", tr.text())
	}
}

func TestForeignFilesAndBrokenRecords(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"README.journal", "a.b.c.journal", "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("hi"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, dir, nil)
	if _, err := keeper.New(keeper.Options{Dir: filepath.Join(dir, "x"), Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a file passed as a directory")
	}
}

// memory is a bucket that can be made to fail: JetStream itself is under test in TestBucket.
type memory struct {
	mu   sync.Mutex
	keys map[string]string
	fail error
}

func (m *memory) Load(context.Context, service) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]byte{}
	for k, v := range m.keys {
		out[k] = []byte(v)
	}
	return out, m.fail
}

func (m *memory) Put(_ context.Context, _ service, key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.keys[key] = string(value)
	}
	return m.fail
}

func (m *memory) Delete(_ context.Context, _ service, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		delete(m.keys, key)
	}
	return m.fail
}

func (m *memory) set(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

func TestFlushBehind(t *testing.T) {
	dir, b := t.TempDir(), &memory{keys: map[string]string{"from": "before"}}
	k, tr := start(t, dir, b)
	policy := &solov1.StatePolicy{FlushInterval: durationpb.New(time.Hour)}
	all, err := k.Open(t.Context(), svc, 1, policy, 0)
	if err != nil || string(all["from"]) != "before" {
		t.Fatalf("a node without a journal starts with %q, %v", all, err)
	}
	write(t, k, 1, put("a", "1"), put("b", "2"), del("from"))
	b.set(errors.New("away"))
	if _, err := k.Flush(t.Context(), ""); !fault.Is(err, fault.ReasonStateUnavailable) {
		t.Errorf("got %v", err)
	}
	b.set(nil)
	if n, err := k.Flush(t.Context(), svc); err != nil || n != 3 {
		t.Errorf("flushed %d, %v", n, err)
	}
	if n, err := k.Flush(t.Context(), svc); err != nil || n != 0 {
		t.Errorf("flushed %d again, %v", n, err)
	}
	if !maps.Equal(b.keys, map[string]string{"a": "1", "b": "2"}) {
		t.Errorf("bucket has %v", b.keys)
	}
	write(t, k, 1, put("c", "3"))
	again, _ := start(t, dir, b)
	open(t, again, 1)
	if n, err := again.Flush(t.Context(), svc); err != nil || n != 1 {
		t.Errorf("after reopening %d keys were thought changed, %v", n, err)
	}
	if err := again.Drop(t.Context(), svc, 1); err != nil {
		t.Fatal(err)
	}
	if len(b.keys) != 0 {
		t.Errorf("after Drop the bucket has %v", b.keys)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 0 {
		t.Errorf("after Drop there is %q", files)
	}
	if tr.text() != "" {
		t.Errorf("trouble: %s", tr.text())
	}
}

// TestFlushLoop waits for the interval to do its work, and for trouble to be told once.
func TestFlushLoop(t *testing.T) {
	b := &memory{keys: map[string]string{}}
	k, tr := start(t, t.TempDir(), b)
	policy := &solov1.StatePolicy{FlushInterval: durationpb.New(time.Millisecond)}
	if _, err := k.Open(t.Context(), svc, 1, policy, 0); err != nil {
		t.Fatal(err)
	}
	b.set(errors.New("away"))
	write(t, k, 1, put("a", "1"))
	eventually(t, func() bool { return strings.Contains(tr.text(), "not reaching") })
	b.set(nil)
	eventually(t, func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.keys["a"] == "1" })
}

func TestWriteThrough(t *testing.T) {
	b := &memory{keys: map[string]string{}}
	k, _ := start(t, t.TempDir(), b)
	if _, err := k.Open(t.Context(), svc, 1, &solov1.StatePolicy{FlushThrough: true}, 0); err != nil {
		t.Fatal(err)
	}
	write(t, k, 1, put("a", "1"))
	if b.keys["a"] != "1" {
		t.Errorf("bucket has %v", b.keys)
	}
	b.set(errors.New("away"))
	if err := k.Write(t.Context(), svc, 1, []*nodev1.StateOp{put("a", "2")}); !fault.Is(err, fault.ReasonStateUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := k.Open(t.Context(), "acme/other", 1, nil, 0); !fault.Is(err, fault.ReasonStateUnavailable) {
		t.Errorf("state was made up without the bucket: %v", err)
	}
}

// TestConcurrentWritesAndFlushes ends with bucket, memory and journal equal.
func TestConcurrentWritesAndFlushes(t *testing.T) {
	dir, b := t.TempDir(), &memory{keys: map[string]string{}}
	k, _ := start(t, dir, b)
	open(t, k, 1)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				key := fmt.Sprint(w, i%5)
				op := put(key, fmt.Sprint(i))
				if i%3 == 2 {
					op = del(key)
				}
				if err := k.Write(t.Context(), svc, 1, []*nodev1.StateOp{op}); err != nil {
					t.Error(err)
				}
				if i%20 == 0 {
					if _, err := k.Flush(t.Context(), svc); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if _, err := k.Flush(t.Context(), svc); err != nil {
		t.Fatal(err)
	}
	got := open(t, k, 1)
	if !maps.Equal(got, b.keys) {
		t.Errorf("memory %v, bucket %v", got, b.keys)
	}
	again, _ := start(t, dir, nil)
	if j := open(t, again, 1); !maps.Equal(j, got) {
		t.Errorf("memory %v, journal %v", got, j)
	}
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it never happened")
		}
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
