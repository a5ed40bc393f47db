package supervise

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake is a child that ends when told.
type fake struct {
	name string
	done chan struct{}
	err  error
	w    *watch
}

func (f *fake) Done() <-chan struct{} { return f.done }
func (f *fake) Err() error            { return f.err }
func (f *fake) Stop(context.Context) {
	f.w.log("-" + f.name)
	close(f.done)
}

// watch records starts (+a), stops (-a) and holds the running children.
type watch struct {
	mu     sync.Mutex
	events []string
	now    map[string]*fake
	refuse map[string]int // how many starts fail
}

func (w *watch) log(s string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, s)
}

func (w *watch) running(name string) *fake {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now[name]
}

func (w *watch) spec(name string, r Restart) Spec {
	return Spec{Name: name, Restart: r, Start: func(context.Context) (Child, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.refuse[name] > 0 {
			w.refuse[name]--
			w.events = append(w.events, "!"+name)
			return nil, errors.New("will not start")
		}
		w.events = append(w.events, "+"+name)
		f := &fake{name: name, done: make(chan struct{}), w: w}
		w.now[name] = f
		return f, nil
	}}
}

func (w *watch) end(name string, err error) {
	f := w.running(name)
	f.err = err
	close(f.done)
}

func (w *watch) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.events, " ")
	w.events = nil
	return s
}

func run(t *testing.T, o Options, restart map[string]Restart, story func(w *watch, stop func())) error {
	t.Helper()
	var err error
	synctest.Test(t, func(t *testing.T) {
		w := &watch{now: map[string]*fake{}, refuse: map[string]int{}}
		o.Log = slog.New(slog.DiscardHandler)
		var specs []Spec
		for _, n := range []string{"a", "b", "c"} {
			specs = append(specs, w.spec(n, restart[n]))
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); err = Run(ctx, t.Context(), o, specs...) }()
		synctest.Wait()
		story(w, stop)
		stop()
		<-done
	})
	return err
}

func settle() {
	time.Sleep(time.Minute) // virtual
	synctest.Wait()
}

func TestStrategies(t *testing.T) {
	for _, c := range []struct {
		s    Strategy
		want string
	}{{OneForOne, "+b"}, {RestForOne, "-c +b +c"}, {OneForAll, "-c -a +a +b +c"}} {
		err := run(t, Options{Strategy: c.s}, nil, func(w *watch, stop func()) {
			if got := w.take(); got != "+a +b +c" {
				t.Errorf("start: %s", got)
			}
			w.end("b", errors.New("crash"))
			settle()
			if got := w.take(); got != c.want {
				t.Errorf("strategy %d: %s, want %s", c.s, got, c.want)
			}
			stop()
			settle()
			if got := w.take(); got != "-c -b -a" {
				t.Errorf("stop: %s", got)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestRestartTypes(t *testing.T) {
	types := map[string]Restart{"a": Permanent, "b": Transient, "c": Temporary}
	err := run(t, Options{}, types, func(w *watch, _ func()) {
		w.take()
		w.end("a", nil)
		settle()
		w.end("b", errors.New("crash"))
		settle()
		w.end("b", nil)
		settle()
		w.end("c", errors.New("crash"))
		settle()
		if got := w.take(); got != "+a +b" {
			t.Errorf("%s", got)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestIntensityGivesUp(t *testing.T) {
	err := run(t, Options{Max: 3, Within: 10 * time.Second, BackoffMin: time.Millisecond}, nil, func(w *watch, _ func()) {
		for range 4 {
			w.end("b", errors.New("crash"))
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if got := w.take(); !strings.Contains(got, "-a") {
			t.Errorf("the others were not stopped: %s", got)
		}
	})
	if !errors.Is(err, ErrIntensity) {
		t.Errorf("%v", err)
	}
}

func TestSlowCrashesAreBorne(t *testing.T) {
	err := run(t, Options{Max: 3, Within: 10 * time.Second}, nil, func(w *watch, _ func()) {
		for range 20 {
			w.end("b", errors.New("crash"))
			time.Sleep(5 * time.Second)
			synctest.Wait()
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestBackoffGrowsAndFirstRestartIsAtOnce(t *testing.T) {
	err := run(t, Options{Max: 100, Within: time.Hour, BackoffMin: time.Second, BackoffMax: 8 * time.Second}, nil, func(w *watch, _ func()) {
		var waits []time.Duration
		for range 6 {
			before := w.running("b")
			begin := time.Now()
			w.end("b", errors.New("crash"))
			for w.running("b") == before {
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
			}
			waits = append(waits, time.Since(begin))
		}
		if waits[0] > 20*time.Millisecond {
			t.Errorf("the first restart waits %s", waits[0])
		}
		for i, base := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 8 * time.Second} {
			if d := waits[i+1]; d < base*7/10 || d > base*13/10 {
				t.Errorf("restart %d waits %s, want about %s", i+2, d, base)
			}
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFailedStartIsTriedAgain(t *testing.T) {
	err := run(t, Options{Strategy: RestForOne}, nil, func(w *watch, _ func()) {
		w.take()
		w.mu.Lock()
		w.refuse["b"] = 2
		w.mu.Unlock()
		w.end("b", errors.New("crash"))
		settle()
		if got := w.take(); got != "-c !b !b +b +c" {
			t.Errorf("%s", got)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// A child that ends while a later one is still starting comes back first: the later one may
// be waiting for it.
func TestEndDuringALaterStart(t *testing.T) {
	for _, s := range []Strategy{RestForOne, OneForAll} {
		synctest.Test(t, func(t *testing.T) {
			w := &watch{now: map[string]*fake{}, refuse: map[string]int{}}
			a, b := w.spec("a", Permanent), w.spec("b", Permanent)
			tries, start := 0, b.Start
			b.Start = func(ctx context.Context) (Child, error) {
				if tries++; tries == 1 {
					<-ctx.Done() // never ready without a
					w.log("?b")
					return nil, ctx.Err()
				}
				return start(ctx)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- Run(ctx, t.Context(), Options{Strategy: s, Log: slog.New(slog.DiscardHandler)}, a, b) }()
			synctest.Wait()
			w.end("a", errors.New("crash"))
			settle()
			if got := w.take(); got != "+a ?b +a +b" {
				t.Errorf("strategy %d: %s", s, got)
			}
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
