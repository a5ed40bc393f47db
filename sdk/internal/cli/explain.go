package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/solo-os/solo/sdk/manifest"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
)

// noClient says what to do when there is no handle to use, or none that may be sent.
func (a *app) noClient(err error) error {
	if errors.Is(err, agent.ErrCleartext) {
		return fault.New(codes.FailedPrecondition, fault.ReasonInvalidArgument, "%v", err).
			Next("--tls-ca FILE turns on TLS; --plaintext sends the handle as it is, to whoever listens on the way")
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f := fault.New(codes.Unauthenticated, fault.ReasonUnauthenticated, "there is no handle: %v", err)
	if a.handle != "" {
		return f.Next("name the file of your handle with --handle or SOLO_HANDLE; without them it is %s", a.homeDir().Handle())
	}
	return f.Next("start Solo with `solo up`, which makes %s, or name your handle's file with --handle or SOLO_HANDLE", a.homeDir().Handle())
}

// explain writes an error for a person.
func (a *app) explain(err error) {
	if me, ok := errors.AsType[*manifest.Error](err); ok {
		fmt.Fprintf(a.Stderr, "solo: %s\n%v\n", fault.ReasonManifestInvalid, me)
		return
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		fmt.Fprintf(a.Stderr, "solo: %v\n", err)
		return
	}
	fmt.Fprintf(a.Stderr, "solo: %v\n", f)
	ds := diagnosticsOf(f)
	a.diagnostics(ds)
	for _, x := range f.Fields {
		if len(ds) > 0 {
			break // they say the same
		}
		if !strings.Contains(f.Message, x.Description) {
			fmt.Fprintf(a.Stderr, "  %s: %s\n", x.Path, x.Description)
		}
	}
	for _, m := range []struct{ key, text string }{
		{"smallest_grant", "what is missing"},
		{"grantors", "who could grant it"},
		{"operations", "operations there are"},
		{"holder", "you are"},
	} {
		if v := f.Metadata[m.key]; v != "" {
			fmt.Fprintf(a.Stderr, "  %s: %s\n", m.text, v)
		}
	}
	if h := a.next(f); h != "" {
		fmt.Fprintf(a.Stderr, "next: %s\n", h)
	}
}

// problem is an error for a program.
type problem struct {
	Reason    string  `json:"reason"`
	Message   string  `json:"message"`
	Fields    []field `json:"fields,omitempty"`
	Retryable bool    `json:"retryable"`
	Next      string  `json:"next,omitempty"`
	// What Solo says besides: what is missing, who could grant it, compiler's diagnostics.
	Metadata map[string]string `json:"metadata,omitempty"`
}

type field struct {
	Path        string `json:"path"`
	Description string `json:"description"`
}

// reasonFailed is for what failed on this side: a file, the network's own words.
const reasonFailed = "FAILED"

// explainJSON writes an error as one JSON object.
func (a *app) explainJSON(err error, command string) {
	p := problem{Reason: reasonFailed, Message: err.Error()}
	if _, wrong := errors.AsType[usageError](err); wrong {
		p.Reason, p.Next = fault.ReasonInvalidArgument, "see: "+command+" --help"
	} else if me, ok := errors.AsType[*manifest.Error](err); ok {
		p.Reason = fault.ReasonManifestInvalid
		for _, x := range me.Problems {
			p.Fields = append(p.Fields, field{x.Path, x.Message})
		}
	} else if f, ok := errors.AsType[*fault.Error](err); ok {
		p.Reason, p.Message, p.Retryable, p.Next, p.Metadata = f.Reason, f.Message, f.Retryable, a.next(f), f.Metadata
		for _, x := range f.Fields {
			p.Fields = append(p.Fields, field{x.Path, x.Description})
		}
	}
	b, err := json.Marshal(p)
	if err != nil {
		b = []byte(`{"reason": "` + reasonFailed + `"}`)
	}
	fmt.Fprintf(a.Stderr, "%s\n", b)
}

// next says what to do, where the fault does not.
func (a *app) next(f *fault.Error) string {
	switch {
	case f.Help != "":
		return f.Help
	case f.Metadata["smallest_grant"] != "":
		return fmt.Sprintf("ask one who holds it for: solo grant --rule '%s' --public-key YOUR_ID", f.Metadata["smallest_grant"])
	case f.Reason == fault.ReasonDeadlineExceeded:
		return "give more time with --timeout"
	case f.Code == codes.Unavailable:
		addr, err := a.address()
		if err != nil {
			return ""
		}
		return fmt.Sprintf("is Solo running at %s? `solo up` starts it, `solo doctor` looks closer", addr)
	case f.Code == codes.Unauthenticated:
		return "check --handle and SOLO_HANDLE; whoever granted the handle can grant a new one"
	case f.Code == codes.NotFound && f.Reason == fault.ReasonServiceNotFound:
		return "`solo ps` lists the services that you may list"
	case f.Reason == fault.ReasonServiceExists:
		return "`solo update` replaces what runs, `solo kill` stops it"
	case f.Retryable:
		return "try again"
	}
	return ""
}

// diagnosticsOf reads the compiler's messages out of a fault.
func diagnosticsOf(f *fault.Error) (out []*solov1.Diagnostic) {
	var raw []json.RawMessage
	if json.Unmarshal([]byte(f.Metadata["diagnostics"]), &raw) != nil {
		return nil // there are none, or they are from a newer Solo: the fields tell, too
	}
	for _, r := range raw {
		d := &solov1.Diagnostic{}
		if (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r, d) == nil {
			out = append(out, d)
		}
	}
	return out
}
