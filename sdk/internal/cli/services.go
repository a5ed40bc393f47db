package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

// maxPayload is how many bytes a call may carry.
const maxPayload = 1 << 20

// operation is longer than the most that an operation's own timeout may be, which is to decide.
const operation = 11 * time.Minute

func (a *app) callCommand() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "call NAMESPACE/NAME OPERATION [PAYLOAD|-]",
		Short: "Send a message to a service and print its reply",
		Long: `The payload is the last argument, or stdin when that is -. The reply goes to stdout as it is.

How long a call may take is the operation's timeout: operations[].timeout in the manifest, 30s
where it says nothing, at most 10m. --timeout gives up earlier.`,
		Example: "  solo call acme/counter add\n  solo call acme/wordcount count - <book.txt",
		Args:    checked(between(2, 3, "NAMESPACE/NAME OPERATION [PAYLOAD|-]"), isService, isOp),
		RunE: func(cmd *cobra.Command, args []string) error {
			var payload []byte
			if len(args) == 3 && args[2] == "-" {
				var err error
				if payload, err = io.ReadAll(io.LimitReader(a.Stdin, maxPayload+1)); err != nil {
					return err
				}
				if len(payload) > maxPayload {
					return misuse("the payload has more than %d bytes: at most that many go in one call", maxPayload)
				}
			} else if len(args) == 3 {
				payload = []byte(args[2])
			}
			return a.client(cmd, operation, func(ctx context.Context, c *agent.Client) error {
				p := a.progress("calling " + args[0])
				defer p.stop()
				begin := time.Now()
				resp, err := c.Call(ctx, args[0], args[1], payload)
				p.stop()
				if fault.Is(err, fault.ReasonDeadlineExceeded) {
					return fault.From(err).Next("give more with --timeout, or with operations[].timeout in the manifest, which is 30s where it says nothing")
				}
				if err != nil {
					return err
				}
				if verbose {
					fmt.Fprintf(a.Stderr, "answered by instance %s, revision %d, after %s\n", orDash(resp.GetInstance()), resp.GetRevision(), time.Since(begin).Round(time.Microsecond))
				}
				return a.print(resp, func(w io.Writer) {
					_, _ = w.Write(resp.GetPayload()) // a closed stdout has nobody to tell
					if terminal(w) && len(resp.GetPayload()) > 0 && !strings.HasSuffix(string(resp.GetPayload()), "\n") {
						fmt.Fprintln(w)
					}
				})
			})
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "tell on stderr who answered and how long it took")
	return cmd
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func (a *app) psCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "ps [NAMESPACE]",
		Aliases: []string{"list"},
		Short:   "List the services that you may list",
		Args:    checked(between(0, 1, "at most a namespace"), isNamespace),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				req := &solov1.ListRequest{PageSize: 500}
				if len(args) == 1 {
					req.Namespace = args[0]
				}
				all := &solov1.ListResponse{}
				for {
					resp, err := c.List(ctx, req)
					if err != nil {
						return err
					}
					all.Services = append(all.Services, resp.GetServices()...)
					if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
						break
					}
				}
				return a.print(all, func(w io.Writer) {
					rows := make([][]string, 0, len(all.GetServices()))
					for _, s := range all.GetServices() {
						var memory, cpuMS uint64
						var restarts uint32
						for _, i := range s.GetInstances() {
							memory, cpuMS, restarts = memory+i.GetMemoryBytes(), cpuMS+i.GetCpuMs(), restarts+i.GetRestarts()
						}
						rows = append(rows, []string{
							s.GetName(), word(s.GetState(), "SERVICE_STATE_"), strings.TrimSuffix(strings.ToLower(word(s.GetManifest().GetFormat(), "FORMAT_")), "_source"), orNone(s.GetRevision()),
							fmt.Sprint(len(s.GetInstances())), fmt.Sprint(restarts), size(memory), cpu(cpuMS),
						})
					}
					table(w, "NAME STATE FORMAT REVISION INSTANCES RESTARTS MEMORY CPU", rows)
				})
			})
		},
	}
	return cmd
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status NAMESPACE/NAME",
		Short: "Show one service with its instances",
		Args:  oneService(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				s, err := c.Status(ctx, args[0])
				if err != nil {
					return err
				}
				return a.print(&solov1.StatusResponse{Service: s}, func(w io.Writer) { printService(w, s) })
			})
		},
	}
}

func (a *app) killCommand() *cobra.Command {
	req := &solov1.KillRequest{}
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "kill NAMESPACE/NAME",
		Short: "Stop a service until it is deployed again, or end one instance",
		Args:  oneService(),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Service = args[0]
			if cmd.Flags().Changed("grace") {
				req.GracePeriod = durationpb.New(grace)
			}
			if req.Purge && req.Instance != "" {
				return misuse("--purge is for a whole service: leave out --instance")
			}
			return a.client(cmd, long, func(ctx context.Context, c *agent.Client) error {
				p := a.progress("stopping " + args[0])
				defer p.stop()
				resp, err := c.Kill(ctx, req)
				p.stop()
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) {
					switch {
					case req.Instance != "":
						fmt.Fprintf(w, "instance %s of %s is ended; supervision starts another\n", req.Instance, args[0])
					case req.Purge:
						fmt.Fprintf(w, "%s is stopped, its state and registration are gone\n", args[0])
					default:
						fmt.Fprintf(w, "%s is %s until it is deployed again\n", args[0], word(resp.GetService().GetState(), "SERVICE_STATE_"))
					}
				})
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Instance, "instance", "", "end this instance only (`ID`)")
	f.DurationVar(&grace, "grace", 5*time.Second, "how long running calls may go on")
	f.BoolVar(&req.Purge, "purge", false, "also drop the service's state and registration")
	f.StringVar(&req.Etag, "etag", "", "refuse unless the service is at this `etag`")
	return cmd
}

func (a *app) crashCommand() *cobra.Command {
	var n uint32
	cmd := &cobra.Command{
		Use:   "crash NAMESPACE/NAME",
		Short: "Show the crashes of a service, newest first",
		Args:  oneService(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				resp, err := c.Crashes(ctx, &solov1.CrashesRequest{Service: args[0], PageSize: n})
				if err != nil {
					return err
				}
				if len(resp.GetCrashes()) == 0 {
					if err := unknown(ctx, c, args[0]); err != nil {
						return err
					}
				}
				return a.print(resp, func(w io.Writer) {
					if len(resp.GetCrashes()) == 0 {
						fmt.Fprintf(w, "%s has no crash on record\n", args[0])
					}
					for _, x := range resp.GetCrashes() {
						fmt.Fprintf(w, "%s  %s  instance %s  revision %d  memory %s of %s\n  %s\n", clock(x.GetTime()), x.GetKind(), x.GetInstance(), x.GetRevision(), size(x.GetMemoryBytes()), size(x.GetMemoryLimitBytes()), plain(x.GetMessage()))
						for line := range strings.Lines(x.GetTrace()) {
							fmt.Fprintf(w, "    %s\n", plain(strings.TrimRight(line, "\n")))
						}
						for _, l := range x.GetLogs() {
							fmt.Fprintf(w, "  | %s\n", plain(l))
						}
					}
				})
			})
		},
	}
	cmd.Flags().Uint32VarP(&n, "number", "n", 20, "how many")
	return cmd
}
