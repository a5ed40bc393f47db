package fault

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func sample() *Error {
	return New(codes.ResourceExhausted, ReasonMailboxFull, "mailbox of %s is full", "a/b").
		Retry(250*time.Millisecond).Next("wait").With("object", "svc:a/b").AddField("payload", "too many").
		Because(errors.New("secret cause"))
}

func same(t *testing.T, got, want *Error) {
	t.Helper()
	g, w := *got, *want
	g.cause, w.cause = nil, nil
	if fmt.Sprintf("%+v", g) != fmt.Sprintf("%+v", w) {
		t.Errorf("got  %+v\nwant %+v", g, w)
	}
}

func TestRoundTripJSON(t *testing.T) {
	b, err := sample().MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseJSON(b)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, sample())
}

func TestRoundTripGRPC(t *testing.T) {
	wire := status.ErrorProto(sample().GRPCStatus().Proto())
	same(t, From(wire), sample())
	same(t, From(fmt.Errorf("wrapped: %w", sample())), sample())
}

func TestFromHidesUnknownCauses(t *testing.T) {
	cause := errors.New("dial /secret/path")
	e := From(cause)
	if e.Code != codes.Internal || e.Reason != ReasonInternal || !errors.Is(e, cause) {
		t.Fatalf("%+v", e)
	}
	if b, _ := e.MarshalJSON(); string(b) == "" || strings.Contains(string(b), "secret") {
		t.Errorf("the cause crossed the wire: %s", b)
	}
	if From(nil) != nil {
		t.Error("From(nil) is not nil")
	}
}

// A status that is not Solo's own reads like one that is.
func TestAStatusWithoutDetails(t *testing.T) {
	for _, c := range []struct {
		code   codes.Code
		reason string
		retry  bool
	}{
		{codes.Unavailable, ReasonUnavailable, true},
		{codes.DeadlineExceeded, ReasonDeadlineExceeded, false},
		{codes.Unimplemented, ReasonUnimplemented, false},
		{codes.Canceled, "CANCELLED", false},
		{codes.Code(99), "99", false},
	} {
		if e := From(status.Error(c.code, "text")); e.Reason != c.reason || e.Retryable != c.retry || e.Message != "text" || e.Code != c.code {
			t.Errorf("%v: %+v", c.code, e)
		}
	}
}

func TestInvalidNamesField(t *testing.T) {
	e := Invalid("manifest.name", "want namespace/name, got %q", "x")
	if len(e.Fields) != 1 || e.Fields[0].Path != "manifest.name" || e.Retryable || e.Code != codes.InvalidArgument {
		t.Errorf("%+v", e)
	}
	if !Is(fmt.Errorf("x: %w", e), ReasonInvalidArgument) || Is(errors.New("x"), ReasonInvalidArgument) {
		t.Error("Is")
	}
}

func TestParseJSONRefusesGarbage(t *testing.T) {
	for _, s := range []string{"", "{", `{"code":0}`, `[]`} {
		if _, err := ParseJSON([]byte(s)); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestRetryAndFinal(t *testing.T) {
	if e := Unavailable(time.Second, "x"); !e.Retryable || e.RetryAfter != time.Second {
		t.Errorf("%+v", e)
	}
	if e := New(codes.Aborted, ReasonConflict, "x").Final(); e.Retryable {
		t.Errorf("%+v", e)
	}
}
