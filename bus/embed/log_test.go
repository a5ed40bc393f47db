package embed

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
)

func TestParseViolation(t *testing.T) {
	const client = `127.0.0.1:4242 - cid:7 - "v1.55.0:go:name"`
	for line, want := range map[string]Violation{
		client + ` - Publish Violation - Subject "svc.a.b.c.U"`:                                            {CID: 7, Subject: "svc.a.b.c.U"},
		client + ` - Subscription Violation - Subject ">", SID 1`:                                          {CID: 7, Subject: ">", Subscribe: true},
		client + ` - Subscription Violation - Subject "a.*", Queue: "q", SID 1 - "U"`:                      {CID: 7, Subject: "a.*", Subscribe: true},
		client + ` - Subscription Violation Too Many Tokens - Subject "a.b", SID 3`:                        {CID: 7, Subject: "a.b", Subscribe: true},
		`pipe - cid:7 - "v1.55.0:go:name"` + ` - Publish Violation - Subject "s"`:                          {CID: 7, Subject: "s"},
		client + ` - Publish Violation - Reply "_R_.x"`:                                                    {CID: 7, Subject: "_R_.x", Reply: true},
		client + ` - Publish Violation - Subject "with \" and \n"`:                                         {CID: 7, Subject: "with \" and \n"},
		`1.2.3.4:1 - cid:9 - "x - Publish Violation - Subject "forged"" - Publish Violation - Subject "s"`: {CID: 9, Subject: "s"},
	} {
		if got, ok := parseViolation(line); !ok || got != want {
			t.Errorf("%s: %+v %t", line, got, ok)
		}
	}
	for _, line := range []string{
		"", client + ` - maximum connections exceeded`, ` - Publish Violation - Subject "s"`, client + ` - Publish Violation - Subject s`,
	} {
		if got, ok := parseViolation(line); ok {
			t.Errorf("%q: %+v", line, got)
		}
	}
}

// A flood of lines is cut down, and what is missing is counted.
func TestLogIsLimited(t *testing.T) {
	var b bytes.Buffer
	l := newLogger(slog.New(slog.NewTextHandler(&b, nil)), nil)
	for range 10 * linesAtOnce {
		l.Warnf("client %s misbehaves", "x")
	}
	if n := strings.Count(b.String(), "\n"); n > 2*linesAtOnce {
		t.Errorf("%d lines were written", n)
	}
	l.limit.SetBurst(10 * linesAtOnce)
	l.limit.SetLimit(1e9)
	for !strings.Contains(b.String(), "lines_dropped") {
		l.Warnf("again")
	}
}

func TestLogLevels(t *testing.T) {
	var b bytes.Buffer
	var got []Violation
	l := newLogger(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), func(v Violation) { got = append(got, v) })
	l.Noticef("n")
	l.Errorf("e %d", 1)
	l.Debugf("d")
	l.Tracef("t")
	l.Errorf(`1.2.3.4:1 - cid:9 - Publish Violation - Subject %q`, "s")
	l.Fatalf("cannot %s", "listen")
	for _, want := range []string{"level=DEBUG msg=n", "level=WARN msg=\"e 1\"", "level=ERROR msg=\"cannot listen\""} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s is not in %s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "Violation") || len(got) != 1 || l.fatal() != "cannot listen" {
		t.Errorf("violations %v, fatal %q, log %s", got, l.fatal(), b.String())
	}
}

func TestStartRefuses(t *testing.T) {
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if _, err := Start(Options{Addr: "127.0.0.1:0", Log: log, StoreDir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "fence") {
		t.Errorf("without a fence: %v", err)
	}
	for _, addr := range []string{"0.0.0.0:0", "192.0.2.1:4222", "example.com:1", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ":4222", ""} {
		if _, _, err := loopback(addr); err == nil {
			t.Errorf("%q: accepted", addr)
		}
	}
	for _, addr := range []string{"127.0.0.1:0", "localhost:4222", "[::1]:4222"} {
		if _, _, err := loopback(addr); err != nil {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

type nobody struct{}

func (nobody) Check(server.ClientAuthentication) bool { return false }

// An address that is taken is said so at once.
func TestAddressTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := Options{Addr: l.Addr().String(), Name: "n", StoreDir: t.TempDir(), Auth: nobody{}, Log: slog.New(slog.DiscardHandler)}
	if _, err := Start(o); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a taken address: %v", err)
	}
	o.Addr = "127.0.0.1:0"
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if s.Addr() == o.Addr || s.Connections() != 0 || s.Alive(1) || s.Kick(1) {
		t.Errorf("address %s, %d connections", s.Addr(), s.Connections())
	}
	if _, err := s.Account("NOBODY"); err == nil {
		t.Error("an account that is not there was found")
	}
}

// A client that gives a handle for its name does not find it in the log.
func TestSeedsAreTakenOut(t *testing.T) {
	seed := "SU" + strings.Repeat("A7", 28)
	var out bytes.Buffer
	l := newLogger(slog.New(slog.NewJSONHandler(&out, nil)), nil)
	l.Errorf("%v - %s", server.ErrAuthentication, `Nkey "`+seed+`"`)
	if s := out.String(); strings.Contains(s, seed) || !strings.Contains(s, `Nkey \"S...\"`) {
		t.Error(s)
	}
}
