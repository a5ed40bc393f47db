package logs

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

func record(service, line string) *solov1.LogRecord {
	return &solov1.LogRecord{Service: service, Instance: "i", Stream: "stdout", Line: line}
}

// drain takes all that waits.
func drain(q *queue) (taken []*solov1.LogRecord) {
	for {
		turn := q.take(batch)
		if len(turn) == 0 {
			return taken
		}
		taken = append(taken, turn...)
	}
}

// However it writes, a namespace brings no more into the stream than its rate, and the others lose
// nothing by it.
func TestAttackOneNamespaceWipesEveryonesLogs(t *testing.T) {
	for name, line := range map[string]string{"long": strings.Repeat("x", 16<<10), "empty": "", "control": strings.Repeat("\x01", 1000)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue()
				var taken []*solov1.LogRecord
				flood := spaceBurst * 2 / cost(record("evil/s0", line)) / 60
				const seconds = 60
				for s := range seconds {
					for i := range flood * 10 {
						q.add(record(fmt.Sprintf("evil/s%d", i%8), line))
						if i%500 == 0 {
							taken = append(taken, drain(q)...)
						}
					}
					q.add(record("acme/a", fmt.Sprint(s)))
					time.Sleep(time.Second)
					q.tell(time.Now())
					taken = append(taken, drain(q)...)
				}
				evil, gaps, acme := 0, 0, 0
				for _, r := range taken {
					switch {
					case r.GetService() == "acme/a":
						acme++
					case strings.Contains(r.GetLine(), "missing here"):
						gaps++
					default:
						evil += cost(r)
					}
				}
				if most := spaceBurst + seconds*spaceRate; evil > most || evil < most/2 {
					t.Errorf("%d bytes in %d s; at most %d", evil, seconds, most)
				}
				if acme != seconds {
					t.Errorf("another namespace has %d lines of %d", acme, seconds)
				}
				if gaps == 0 || gaps > 8*seconds+8*seconds {
					t.Errorf("missing lines were told %d times", gaps)
				}
				time.Sleep(time.Minute)
				q.tell(time.Now())
				drain(q)
				if len(q.spaces) != 0 || len(q.services) != 0 {
					t.Errorf("%d budgets, %d services are kept", len(q.spaces), len(q.services))
				}
			})
		})
	}
}

func TestAHoleIsToldWhereItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.add(record("acme/a", "before"))
		big := strings.Repeat("x", spaceBurst-4*lineBytes)
		q.add(record("acme/b", big))
		for range 10 {
			q.add(record("acme/a", strings.Repeat("y", 2*lineBytes)))
		}
		time.Sleep(time.Second)
		q.add(record("acme/a", "after"))
		var got []string
		for _, r := range drain(q) {
			if r.GetService() == "acme/a" {
				got = append(got, r.GetLine())
			}
		}
		if len(got) < 3 || got[0] != "before" || got[len(got)-2] != gapLine(uint64(12-len(got)+1)) || got[len(got)-1] != "after" {
			t.Errorf("%q", got)
		}
	})
}
