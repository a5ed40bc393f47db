package gate

import (
	"testing"
	"time"

	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A wall clock that was set back since gives nobody more time: neither a process that starts anew and
// reads the events, nor one that is told how late it has been.
func TestAClockSetBackGivesNobodyMoreTime(t *testing.T) {
	const back = 2 * time.Hour
	now := time.Now()
	for name, learn := range map[string]func(f *feed){
		"from a later event": func(f *feed) {
			ev := f.event(granted(&kernelv1.CapRecord{Id: "later", Parent: "root"}))
			ev.Time = timestamppb.New(now.Add(back))
			if _, err := f.tab.Apply([]*kernelv1.CapEvent{ev}); err != nil {
				t.Fatal(err)
			}
		},
		"from a note": func(f *feed) { f.tab.Advance(now.Add(back).UnixNano() - Boottime()) },
		"from another table": func(f *feed) {
			other := NewTable()
			other.Advance(now.Add(back).UnixNano() - Boottime())
			f.tab.Advance(other.Lead())
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(t)
			f.grant("root", "")
			for id, left := range map[string]time.Duration{"over": back - time.Minute, "live": back + time.Hour} {
				f.apply(granted(&kernelv1.CapRecord{Id: id, Parent: "root", ExpiresAt: timestamppb.New(now.Add(left))}))
			}
			f.apply(granted(&kernelv1.CapRecord{Id: "below", Parent: "over"}))
			if f.tab.Live("over") != Allowed {
				t.Fatal("it is over before anybody knows")
			}
			learn(f)
			for id, want := range map[string]Decision{"over": Expired, "below": Expired, "live": Allowed, "root": Allowed} {
				if d := f.tab.Live(id); d != want {
					t.Errorf("%s: %s, want %s", id, d, want)
				}
			}
			f.tab.Advance(0)
			if f.tab.Now().Before(now.Add(back)) || f.tab.Live("over") != Expired {
				t.Error("the clock was set back")
			}
			// What is granted by that clock has its whole time.
			f.apply(granted(&kernelv1.CapRecord{Id: "new", Parent: "root", ExpiresAt: timestamppb.New(f.tab.Now().Add(time.Minute))}))
			if d := f.tab.Live("new"); d != Allowed {
				t.Errorf("a new one: %s", d)
			}
		})
	}
}
