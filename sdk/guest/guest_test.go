package guest

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/solo-os/solo/sdk/guest/abi"
)

func TestDispatch(t *testing.T) {
	var restored uint64
	s := service{
		ops: map[string]Handler{
			"up":  func(_ context.Context, p []byte) ([]byte, error) { return append(p, '!'), nil },
			"bad": func(context.Context, []byte) ([]byte, error) { return nil, errors.New("it broke") },
		},
	}
	check := func(kind uint32, op, payload string, status uint32, want string) {
		t.Helper()
		got, out := s.dispatch(t.Context(), kind, op, []byte(payload))
		if got != status || string(out) != want {
			t.Errorf("kind %d %s(%s): %d %q, want %d %q", kind, op, payload, got, out, status, want)
		}
	}
	check(abi.KindCall, "up", "hi", abi.StatusOK, "hi!")
	check(abi.KindCall, "bad", "", abi.StatusError, "it broke")
	check(abi.KindCall, "gone", "", abi.StatusUnknownOp, string(abi.Strings("bad", "up").Encode()))
	check(abi.KindLoad, "", "x", abi.StatusError, "this service takes no source")
	check(abi.KindSave, "", "", abi.StatusOK, "")
	check(abi.KindRestore, "1", "x", abi.StatusOK, "")
	check(9, "", "", abi.StatusError, "kind 9 is unknown to this guest")

	s.save = func(context.Context) ([]byte, error) { return []byte("kept"), nil }
	s.restore = func(_ context.Context, v uint64, _ []byte) error { restored = v; return nil }
	s.load = func(context.Context, []byte) error { return nil }
	check(abi.KindSave, "", "", abi.StatusOK, "kept")
	check(abi.KindRestore, "7", "kept", abi.StatusOK, "")
	check(abi.KindLoad, "", "x", abi.StatusOK, "")
	if restored != 7 {
		t.Errorf("restored version %d", restored)
	}
	if st, _ := s.dispatch(t.Context(), abi.KindRestore, "seven", nil); st != abi.StatusError {
		t.Errorf("a version that is no number passed")
	}
}

func TestHandlePanicsOnMisuse(t *testing.T) {
	ok := func(context.Context, []byte) ([]byte, error) { return nil, nil }
	Handle("twice", ok)
	for name, f := range map[string]func(){
		"bad name":   func() { Handle("Get", ok) },
		"empty name": func() { Handle("", ok) },
		"dot":        func() { Handle("a.b", ok) },
		"nil":        func() { Handle("nil", nil) },
		"twice":      func() { Handle("twice", ok) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

func TestWithoutHostEverythingSaysSo(t *testing.T) {
	ctx := t.Context()
	_, _, err := State().Get(ctx, "k")
	_, listErr := State().List(ctx, "")
	_, casErr := State().CompareAndSet(ctx, "k", nil, nil)
	_, callErr := Call(ctx, "a/b", "op", nil)
	for _, e := range []error{
		err, listErr, casErr, callErr,
		State().Put(ctx, "k", nil), State().Delete(ctx, "k"), State().Batch(ctx, Change{Key: "k"}),
	} {
		if !errors.Is(e, ErrNoHost) {
			t.Errorf("got %v", e)
		}
	}
	if c := Caller(ctx); c != "" {
		t.Errorf("caller %q", c)
	}
	h := Log(ctx).With("a", 1).WithGroup("g").Handler()
	var r slog.Record
	r.Message = "m"
	r.AddAttrs(slog.Int("b", 2))
	if err := h.Handle(ctx, r); !errors.Is(err, ErrNoHost) {
		t.Errorf("got %v", err)
	}
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := State().Get(done, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call went out: %v", err)
	}
}

func TestLevels(t *testing.T) {
	for l, want := range map[slog.Level]uint32{
		slog.LevelDebug: abi.LevelDebug, slog.LevelInfo: abi.LevelInfo,
		slog.LevelWarn: abi.LevelWarn, slog.LevelError: abi.LevelError,
	} {
		if got := level(l); got != want {
			t.Errorf("%v: %d", l, got)
		}
	}
}
