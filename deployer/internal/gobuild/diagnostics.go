package gobuild

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk"
)

// Bounds of what a failed build says.
const (
	maxDiagnostics = 50
	maxMessage     = 2000
)

// parse reads the go command's output: `file:line:column: message`, indented lines that continue a
// message, and what has no position. What is about a file that is not of the source is left out: a
// //line comment can name any, and nothing of this machine's files is the sender's to read.
func parse(output string, s *Source) []*solov1.Diagnostic {
	var out []*solov1.Diagnostic
	foreign := false // the last message was about another file
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "# "), strings.HasPrefix(line, "go: finding "), strings.HasPrefix(line, "go: downloading "), strings.HasPrefix(line, "warning: "):
			continue
		case (line[0] == '\t' || line[0] == ' ') && (foreign || len(out) > 0):
			if foreign || s.foreign(strings.TrimSpace(line)) {
				continue
			}
			last := out[len(out)-1]
			if len(last.Message) < maxMessage {
				last.Message += "\n" + line
			}
			continue
		}
		if foreign = s.foreign(line); foreign {
			continue
		}
		if len(out) == maxDiagnostics {
			break
		}
		out = append(out, diagnostic(line))
	}
	return out
}

// foreign tells whether a line begins with a position in a file that is not of the source.
func (s *Source) foreign(line string) bool {
	file, _, _, ok := cutPosition(line)
	if !ok || file == "go.mod" {
		return false
	}
	_, own := s.files[file]
	return !own
}

func diagnostic(line string) *solov1.Diagnostic {
	d := &solov1.Diagnostic{Severity: "error", Message: strings.TrimPrefix(line, "go: ")}
	if file, n, rest, ok := cutPosition(line); ok {
		d.File, d.Line, d.Message = file, n, rest
		if n, rest, ok := number(rest); ok {
			d.Column, d.Message = n, rest
		}
	}
	d.Message = strings.TrimSpace(d.Message)
	if name, ok := strings.CutPrefix(d.Message, "cannot find module providing package "); ok {
		name, _, _ = strings.Cut(name, ":")
		d.Message = fmt.Sprintf("package %s cannot be imported: services are built without a network, from the standard library and %s alone; copy what you need into the package folder", name, sdk.Module)
	}
	if len(d.Message) > maxMessage {
		d.Message = d.Message[:maxMessage]
	}
	return d
}

// cutPosition reads `file:12:rest`.
func cutPosition(s string) (file string, line uint32, rest string, ok bool) {
	file, rest, ok = strings.Cut(s, ":")
	if !ok || file == "" || strings.ContainsAny(file, " \t") {
		return "", 0, "", false
	}
	line, rest, ok = number(rest)
	return path.Clean(file), line, rest, ok
}

// number reads `12:rest`.
func number(s string) (n uint32, rest string, ok bool) {
	a, rest, ok := strings.Cut(s, ":")
	v, err := strconv.ParseUint(a, 10, 32)
	return uint32(v), rest, ok && err == nil
}

// failed is the fault for source that does not compile: each diagnostic is a field, and all of
// them stand as JSON in metadata `diagnostics`.
func failed(ds []*solov1.Diagnostic) *fault.Error {
	first := "the go command said nothing"
	if len(ds) > 0 {
		first = position(ds[0]) + ": " + ds[0].GetMessage()
		if len(ds) > 1 {
			first += fmt.Sprintf(" (and %d more)", len(ds)-1)
		}
	}
	e := fault.New(codes.InvalidArgument, fault.ReasonBuildFailed, "the source does not compile: %s", first).Next("correct the source at the named places and send it again")
	list := make([]json.RawMessage, 0, len(ds))
	for _, d := range ds {
		e.AddField("code.files["+position(d)+"]", "%s", d.GetMessage())
		if b, err := protojson.Marshal(d); err == nil {
			list = append(list, b)
		}
	}
	if b, err := json.Marshal(list); err == nil {
		e.With("diagnostics", string(b))
	}
	return e
}

func position(d *solov1.Diagnostic) string {
	switch {
	case d.GetFile() == "":
		return "go"
	case d.GetLine() == 0:
		return d.GetFile()
	case d.GetColumn() == 0:
		return fmt.Sprintf("%s:%d", d.GetFile(), d.GetLine())
	}
	return fmt.Sprintf("%s:%d:%d", d.GetFile(), d.GetLine(), d.GetColumn())
}
