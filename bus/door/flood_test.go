//go:build !race

// What a flood does is measured, and the race detector makes everything ten times slower but the
// attacker: these run without it, on their own (see test/run.sh).

package door_test

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/solo-os/solo/bus/bustest"
	"github.com/solo-os/solo/bus/door"
	"github.com/solo-os/solo/proto/subject"
)

// flood is what an attacker does with a valid handle, or without one, until stop is closed.
// ready is told once it is at full strength.
type flood struct {
	name string
	// off takes the limit away that meets it.
	off func(l *door.Limits)
	run func(w *world, h bustest.Handle, stop <-chan struct{}, ready func())
	// reliably is true where the effect without the limit can be shown in every run.
	reliably bool
}

// victim measures a holder's calls.
type victim struct {
	nc *nats.Conn
	h  bustest.Handle
	t  testing.TB
}

// p99 of n calls, in microseconds: of those that were answered, with those that were not as
// the longest time there is.
func (v victim) p99(n int) time.Duration {
	v.t.Helper()
	ds, lost := make([]time.Duration, n), 0
	for i := range ds {
		begin := time.Now()
		if _, err := v.nc.Request(subject.Call(ledger(), "get", v.h.ID), []byte("x"), failed); err != nil {
			if lost++; lost > n/100 {
				return failed
			}
			ds[i] = failed
			continue
		}
		ds[i] = time.Since(begin)
	}
	slices.Sort(ds)
	return ds[n*99/100]
}

func stopped(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// blast opens n connections of a holder and writes the same bytes to each for as long as it can,
// reading all that comes.
func blast(w *world, h bustest.Handle, n int, stop <-chan struct{}, ready func(), greeting, bytes string) {
	var wg sync.WaitGroup
	for range n {
		c := w.socket()
		c.say(c.connect(h) + greeting)
		wg.Go(func() { _, _ = io.Copy(io.Discard, c.r) })
		wg.Go(func() {
			for !stopped(stop) {
				_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
				if n, _ := io.WriteString(c, bytes); n != len(bytes) {
					// What is cut in the middle is no stream any more.
					break
				}
			}
			<-stop
			_ = c.Close()
		})
	}
	ready()
	wg.Wait()
}

func floods() []flood {
	many := func(s string, n int) string {
		var b []byte
		for range n {
			b = append(b, s...)
		}
		return string(b)
	}
	return []flood{
		{
			name: "calls at full speed",
			off:  func(l *door.Limits) { l.Messages, l.Calls, l.Bytes = door.Rate{}, 0, door.Rate{} },
			run: func(w *world, h bustest.Handle, stop <-chan struct{}, ready func()) {
				inbox := subject.InboxPrefix(h.ID) + ".f"
				blast(w, h, 16, stop, ready, "SUB "+inbox+" 1\r\n", many("PUB "+call(h)+" "+inbox+" 1\r\nx\r\n", 400))
			},
			reliably: true,
		},
		{
			name: "subscriptions made and ended",
			off:  func(l *door.Limits) { l.Interest, l.Bytes = door.Rate{}, door.Rate{} },
			run: func(w *world, h bustest.Handle, stop <-chan struct{}, ready func()) {
				inbox := subject.InboxPrefix(h.ID) + ".f"
				blast(w, h, 16, stop, ready, "", many("SUB "+inbox+" 1\r\nUNSUB 1\r\n", 300))
			},
			reliably: true,
		},
		{
			name: "violations of permissions",
			off:  func(l *door.Limits) { l.Violations, l.Messages, l.Bytes = door.Rate{}, door.Rate{}, door.Rate{} },
			run: func(w *world, h bustest.Handle, stop <-chan struct{}, ready func()) {
				blast(w, h, 4, stop, ready, "", many("PUB not.mine 1\r\nx\r\n", 500))
			},
			reliably: true,
		},
		{
			name: "large answers that nobody reads",
			off:  func(l *door.Limits) { l.WriteTime = time.Hour },
			run: func(w *world, h bustest.Handle, stop <-chan struct{}, ready func()) {
				inbox := subject.InboxPrefix(h.ID) + ".f"
				var open []*raw
				want := w.big.Load()
				for i := range 8 {
					own := fmt.Sprintf("%s%d", inbox, i)
					c := w.socket()
					c.say(c.connect(h) + "SUB " + own + " 1\r\n")
					c.say(many("PUB "+subject.Call(counter(), "big", h.ID)+" "+own+" 1\r\nx\r\n", 12))
					open, want = append(open, c), want+12
				}
				w.until("all is answered", func() bool { return w.big.Load() == want })
				ready()
				<-stop
				for _, c := range open {
					_ = c.Close()
				}
			},
		},
		{
			name: "sockets that never authenticate",
			off:  func(l *door.Limits) { l.TCP.Strangers, l.TCP.StrangersPerAddress, l.AuthTime = 0, 0, time.Hour },
			run: func(w *world, _ bustest.Handle, stop <-chan struct{}, ready func()) {
				var open []*raw
				for range 2000 {
					open = append(open, w.socket())
				}
				ready()
				<-stop
				for _, c := range open {
					_ = c.Close()
				}
			},
		},
	}
}

// Under every flood the calls of another holder take at most three times as long as alone, and
// components come and go as before. The same flood with its limit off shows what the limit is for.
func TestFloods(t *testing.T) {
	for _, f := range floods() {
		t.Run(f.name, func(t *testing.T) {
			alone, under := measure(t, f, door.DefaultLimits(), 5, 500)
			t.Logf("limit on:  p99 alone %v, under attack %v, ratio %.2f", alone, under, ratio(alone, under))
			if under > 3*max(alone, time.Millisecond) {
				t.Errorf("the victim's p99 is %v, alone %v", under, alone)
			}
			l := door.DefaultLimits()
			f.off(&l)
			alone2, open := measure(t, f, l, 1, 200)
			t.Logf("limit off: p99 alone %v, under attack %v, ratio %.2f", alone2, open, ratio(alone2, open))
			if f.reliably && open <= under {
				t.Errorf("without the limit the victim's p99 is %v, with it %v: the attack shows nothing", open, under)
			}
		})
	}
}

func ratio(a, b time.Duration) float64 { return float64(b) / float64(a) }

// failed is how long a call may take; one without an answer counts as that long.
const failed = 2 * time.Second

// measure takes the victim's p99 alone and under attack, in turns. Each is the best of its
// rounds: what else the machine does at the time can only make a round worse.
func measure(t *testing.T, f flood, l door.Limits, rounds, samples int) (alone, under time.Duration) {
	t.Helper()
	w := newWorld(t, door.Options{Limits: l})
	big := make([]byte, 1<<20)
	w.serve(func(m *nats.Msg) {
		if s, err := subject.ParseCall(m.Subject); err == nil && s.Op == "big" {
			_ = m.Respond(big)
			w.big.Add(1)
			return
		}
		_ = m.Respond(m.Data)
	})
	w.serveAs(ledger(), echo)
	good, bad := w.Grant(t, "svc:acme/*=*"), w.Grant(t, "svc:acme/*=*")
	v := victim{w.Dial(t, good), good, t}
	v.p99(samples) // warm
	var as, us []time.Duration
	for range rounds {
		as = append(as, v.p99(samples))
		stop := make(chan struct{})
		began := make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			f.run(w, bad, stop, func() { close(began) })
		}()
		<-began
		us = append(us, v.p99(samples))
		if l == door.DefaultLimits() { // a component comes up beside it
			h := bustest.NewHandle(t)
			w.identify(h)
			w.DialOwn(t, h).Close()
		}
		close(stop)
		<-done
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Logf("refused: %v", w.refused)
	return slices.Min(as), slices.Min(us)
}
