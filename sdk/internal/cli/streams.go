package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
)

// follow prints a stream. Ending it by an interrupt is its normal end.
func follow[T proto.Message](ctx context.Context, a *app, s iter.Seq2[T, error], text func(T)) error {
	for m, err := range s {
		switch {
		case err != nil && errors.Is(ctx.Err(), context.Canceled):
			return nil
		case err != nil:
			return err
		case a.output == "json":
			if err := a.json(m); err != nil {
				return err
			}
		default:
			text(m)
		}
	}
	return nil
}

// counted counts what passes, errors included.
func counted[T any](s iter.Seq2[T, error], n *int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for m, err := range s {
			*n++
			if !yield(m, err) {
				return
			}
		}
	}
}

func (a *app) logsCommand() *cobra.Command {
	req := &solov1.LogsRequest{}
	cmd := &cobra.Command{
		Use:   "logs NAMESPACE/NAME",
		Short: "Show what the instances of a service wrote",
		Args:  oneService(),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Service = args[0]
			return a.client(cmd, 0, func(ctx context.Context, c *agent.Client) error {
				n := 0
				err := follow(ctx, a, counted(c.Logs(ctx, req), &n), func(m *solov1.LogsResponse) {
					r := m.GetRecord()
					kind := r.GetStream()
					if r.GetLevel() != "" {
						kind = r.GetLevel()
					}
					fmt.Fprintf(a.Stdout, "%s %s %s %s\n", clock(r.GetTime()), r.GetInstance(), kind, plain(r.GetLine()))
				})
				if err == nil && n == 0 && !req.Follow {
					err = unknown(ctx, c, req.Service)
				}
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&req.Follow, "follow", "f", false, "go on with new lines")
	f.Uint32Var(&req.Tail, "tail", 100, "how many of the newest lines to begin with")
	f.StringVar(&req.Instance, "instance", "", "only this instance (`ID`)")
	return cmd
}

func (a *app) watchCommand() *cobra.Command {
	req := &solov1.WatchRequest{Service: "*/*"}
	cmd := &cobra.Command{
		Use:     "watch [NAMESPACE/NAME|NAMESPACE/*|*/*]",
		Short:   "Show what happens to services as it happens",
		Example: "  solo watch 'acme/*'",
		Args:    checked(between(0, 1, "at most one service or pattern"), isPattern),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				req.Service = args[0]
			}
			return a.client(cmd, 0, func(ctx context.Context, c *agent.Client) error {
				return follow(ctx, a, c.Watch(ctx, req), func(m *solov1.WatchResponse) {
					e := m.GetEvent()
					fmt.Fprintf(a.Stdout, "%d %s %s %s", e.GetSequence(), clock(e.GetTime()), e.GetService(), e.GetType())
					if e.GetInstance() != "" {
						fmt.Fprintf(a.Stdout, " %s", e.GetInstance())
					}
					if e.GetRevision() != 0 {
						fmt.Fprintf(a.Stdout, " revision %d", e.GetRevision())
					}
					if e.GetMessage() != "" {
						fmt.Fprintf(a.Stdout, ": %s", plain(e.GetMessage()))
					}
					fmt.Fprintln(a.Stdout)
				})
			})
		},
	}
	cmd.Flags().Uint64Var(&req.AfterSequence, "after", 0, "begin after this event (`N`); 0 begins now")
	return cmd
}

func (a *app) auditCommand() *cobra.Command {
	req := &solov1.AuditRequest{}
	tail := &cobra.Command{
		Use:   "tail",
		Short: "Show the audit trail",
		Args:  exactly(0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(cmd, 0, func(ctx context.Context, c *agent.Client) error {
				return follow(ctx, a, c.Audit(ctx, req), func(m *solov1.AuditResponse) {
					r := m.GetRecord()
					parts := []string{fmt.Sprint(m.GetSequence()), clock(r.GetTime()), r.GetComponent(), r.GetEvent(), r.GetPhase(), orDash(r.GetObject()), r.GetDecision(), "by", orDash(r.GetHolder())}
					if r.GetCount() > 1 {
						parts = append(parts, fmt.Sprintf("%d times", r.GetCount()))
					}
					for _, k := range slices.Sorted(maps.Keys(r.GetAttributes())) {
						parts = append(parts, k+"="+r.GetAttributes()[k])
					}
					fmt.Fprintln(a.Stdout, plain(strings.Join(parts, " ")))
				})
			})
		},
	}
	tail.Flags().BoolVarP(&req.Follow, "follow", "f", false, "go on with new records")
	tail.Flags().Uint64Var(&req.AfterSequence, "after", 0, "begin after this record (`N`)")
	return group("audit", "Read the audit trail", tail, a.subscribeCommand())
}

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.AddCommand(subs...)
	grouped(cmd)
	return cmd
}

// grouped makes a command without, or with an unknown, one of its own misuse.
func grouped(cmd *cobra.Command) {
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return misuse("unknown command %q of %s", args[0], cmd.Name())
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		var names []string
		for _, s := range cmd.Commands() {
			names = append(names, s.Name())
		}
		return misuse("%s what? want %s", cmd.Name(), strings.Join(names, " or "))
	}
}
