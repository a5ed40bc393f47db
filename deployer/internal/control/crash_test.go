package control

import (
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/bus/stream"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

func crash(service string, n int, text string) *solov1.Crash {
	return &solov1.Crash{
		Service: service, Instance: "i", Kind: "trap", Time: timestamppb.New(time.Unix(int64(n), 0)), Message: strconv.Itoa(n) + text, Trace: text,
		Logs: []string{text, text, "last"},
	}
}

// A record is bounded as it is stored, whatever its text is made of.
func TestAttackARecordGrowsInItsEncoding(t *testing.T) {
	for name, text := range map[string]string{
		"control": strings.Repeat("\x01", 1<<20), "quotes": strings.Repeat(`"\`, 1<<19), "no UTF-8": strings.Repeat("\xff", 1<<20),
		"lines": strings.Repeat("\n", 1<<20), "wide": strings.Repeat("\U0001F600", 1<<18), "nothing": "",
	} {
		x := crash("acme/a", 1, text)
		for range 1000 {
			x.Logs = append(x.Logs, "")
		}
		id, b, err := encodeCrash(x)
		if err != nil || len(b) > maxCrash {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
			continue
		}
		var back solov1.Crash
		if err := protojson.Unmarshal(b, &back); err != nil || back.GetId() != id || back.GetService() != "acme/a" || !strings.HasPrefix(back.GetMessage(), "1") {
			t.Errorf("%s: %v %v", name, &back, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		x := crash("acme/a", 1, "")
		x.Logs = rapid.SliceOfN(rapid.StringN(0, 2000, -1), 0, 200).Draw(t, "logs")
		x.Message, x.Trace = rapid.String().Draw(t, "message"), rapid.StringN(0, 40_000, -1).Draw(t, "trace")
		if _, b, err := encodeCrash(x); err != nil || len(b) > maxCrash {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	})
}

func TestCrashRecordsAreBoundedAndForgotten(t *testing.T) {
	s := jstest.New(t)
	c, err := openCrashes(t.Context(), s.JS, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	put := func(service string, n int, text string) {
		t.Helper()
		if err := c.store(t.Context(), crash(service, n, text)); err != nil {
			t.Fatal(err)
		}
	}
	keys := func(match string) []string {
		t.Helper()
		k, err := c.keys(t.Context(), match)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for n := range keptCrashes + 5 {
		put("acme/a", n, "")
	}
	got := keys("acme.a.*")
	if len(got) != keptCrashes || !strings.Contains(got[0], strconv.Itoa(keptCrashes+4)+"000000000-") {
		t.Errorf("%d records, the newest %s", len(got), got[0])
	}
	for n := range keptSpace {
		put("acme/s"+strconv.Itoa(n), 1000+n, "")
	}
	if got := keys("acme.*.*"); len(got) != keptSpace {
		t.Errorf("%d records of a namespace", len(got))
	}
	c.add(crash("acme/s59", 2000, ""))
	if err := c.forget(t.Context(), subject.Service{Namespace: "acme", Name: "s59"}); err != nil || len(keys("acme.s59.*")) != 0 || c.next() != nil {
		t.Errorf("a purged service has records: %v", err)
	}

	// One that fills the bucket makes way for the others.
	st, err := s.JS.Stream(t.Context(), stream.KVStream(stream.Crashes))
	if err != nil {
		t.Fatal(err)
	}
	config := st.CachedInfo().Config
	config.MaxBytes = 1 << 20
	if _, err := s.JS.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	for n := range 40 {
		put("evil/s"+strconv.Itoa(n), 3000+n, strings.Repeat(`"`, 60_000))
	}
	put("zeta/one", 4000, strings.Repeat(`"`, 60_000))
	if len(keys("zeta.one.*")) != 1 {
		t.Error("there was no room for another")
	}
}
