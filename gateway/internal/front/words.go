package front

import (
	"errors"
	"fmt"

	"buf.build/go/protovalidate"
	"github.com/solo-os/solo/proto/fault"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// valid tells whether a request keeps the rules of the contract; the fault says each field that
// does not, in words where the rule is a pattern.
func valid(v protovalidate.Validator, req proto.Message) error {
	err := v.Validate(req)
	if err == nil {
		return nil
	}
	ve, ok := errors.AsType[*protovalidate.ValidationError](err)
	if !ok {
		return fault.Internal(err, "the request cannot be checked")
	}
	f := fault.New(codes.InvalidArgument, fault.ReasonInvalidArgument, "the request is not valid")
	for i, x := range ve.Violations {
		path, text := protovalidate.FieldPathString(x.Proto.GetField()), words(x)
		if i == 0 {
			f.Message = fmt.Sprintf("%s: %s", path, text)
		}
		f.AddField(path, "%s", text)
	}
	return f
}

// words is what a violation says to people.
func words(x *protovalidate.Violation) string {
	text := x.Proto.GetMessage()
	if text == "" {
		text = "breaks rule " + x.Proto.GetRuleId()
	}
	if x.Proto.GetRuleId() != "string.pattern" {
		return text
	}
	want := pattern(x.RuleValue.String())
	if want == "" {
		return text
	}
	if got := x.FieldValue.String(); got != "" {
		return fmt.Sprintf("%q: want %s", shorten(got), want)
	}
	return "is missing: want " + want
}

// pattern says in words what a pattern of the contract wants, empty for one that is not known.
func pattern(p string) string {
	switch p {
	case `^[a-z][a-z0-9_-]{0,62}$`:
		return "an operation: 1-63 characters a-z, 0-9, _ and -, a letter first"
	case `^[a-z]([a-z0-9-]{0,38}[a-z0-9])?/[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`:
		return "namespace/name, each 1-40 characters a-z, 0-9 and inner dashes, a letter first"
	case `^[A-Za-z_][A-Za-z0-9_]{0,127}$`:
		return "a variable: 1-128 letters, digits and _, no digit first"
	case `^[0-9a-f]{64}$`, `^([0-9a-f]{64})?$`:
		return "a SHA-256: 64 hex digits in lower case"
	}
	return ""
}

// shorten keeps an answer from carrying back all that was sent.
func shorten(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
