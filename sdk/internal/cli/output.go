package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// print writes a response: as one line of protobuf JSON, or as text does it.
func (a *app) print(m proto.Message, text func(w io.Writer)) error {
	if a.output == "json" {
		return a.json(m)
	}
	text(a.Stdout)
	return nil
}

func (a *app) json(m proto.Message) error {
	b, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	return a.jsonBytes(b)
}

// jsonBytes writes one object a line, with no spaces that protojson varies.
func (a *app) jsonBytes(b []byte) error {
	var line bytes.Buffer
	if err := json.Compact(&line, b); err != nil {
		return err
	}
	line.WriteByte('\n')
	_, err := a.Stdout.Write(line.Bytes())
	return err
}

// table writes columns.
func table(w io.Writer, head string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(head, " ", "\t"))
	for _, r := range rows {
		for i := range r {
			r[i] = plain(r[i])
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	_ = t.Flush() // a closed stdout shows at exit, there is nothing to undo
}

// plain makes text that others wrote safe for a terminal: no control characters.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
			return '�'
		}
		return r
	}, s)
}

// word is the last part of an enumeration's name: RUNNING of SERVICE_STATE_RUNNING.
func word(e fmt.Stringer, prefix string) string {
	return strings.TrimPrefix(e.String(), prefix)
}

func size(n uint64) string {
	switch {
	case n == 0:
		return "0"
	case n < 1<<20:
		return fmt.Sprintf("%.0fKi", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1fMi", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1fGi", float64(n)/(1<<30))
}

func cpu(ms uint64) string {
	return (time.Duration(ms) * time.Millisecond).String()
}

func clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Local().Format("2006-01-02T15:04:05.000Z07:00")
}

func expiry(t *timestamppb.Timestamp) string {
	if t == nil {
		return "never"
	}
	return t.AsTime().Local().Format(time.RFC3339)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// orNone is a revision; a stopped service has none.
func orNone(revision uint64) string {
	if revision == 0 {
		return "-"
	}
	return fmt.Sprint(revision)
}

// printService writes one service for a person.
func printService(w io.Writer, s *solov1.Service) {
	fmt.Fprintf(w, "%s  %s  revision %s\n", s.GetName(), word(s.GetState(), "SERVICE_STATE_"), orNone(s.GetRevision()))
	if e := s.GetLastError(); e != "" {
		fmt.Fprintf(w, "last error: %s\n", plain(e))
	}
	if d := s.GetDeployedBy(); d != "" {
		fmt.Fprintf(w, "deployed %s by %s\n", clock(s.GetDeployedAt()), d)
	}
	if h := s.GetCodeSha256(); h != "" {
		fmt.Fprintf(w, "code sha256:%s\n", h)
	}
	if e := s.GetEnforcement(); len(e) > 0 {
		fmt.Fprintf(w, "limits held: %s\n", strings.Join(e, ", "))
	}
	for _, g := range s.GetGrants() {
		state := "live until " + expiry(g.GetExpiresAt())
		if !g.GetLive() {
			state = "dead"
		}
		fmt.Fprintf(w, "may %s (%s, %s)\n", g.GetRule(), g.GetCapabilityId(), state)
	}
	if r := s.GetRollout(); r.GetId() != "" {
		fmt.Fprintf(w, "rollout %s: %s, revision %d to %d, %s\n", r.GetId(), word(r.GetState(), "ROLLOUT_STATE_"), r.GetFromRevision(), r.GetToRevision(), plain(orDash(r.GetError())))
	}
	if len(s.GetInstances()) == 0 {
		return
	}
	rows := make([][]string, 0, len(s.GetInstances()))
	for _, i := range s.GetInstances() {
		rows = append(rows, []string{
			i.GetId(), i.GetNode(), word(i.GetState(), "INSTANCE_STATE_"), fmt.Sprint(i.GetRevision()), fmt.Sprint(i.GetRestarts()),
			size(i.GetMemoryBytes()), cpu(i.GetCpuMs()), fmt.Sprint(i.GetMailboxDepth()), fmt.Sprint(i.GetPid()),
		})
	}
	table(w, "INSTANCE NODE STATE REVISION RESTARTS MEMORY CPU MAILBOX PID", rows)
}
