package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a *app) upCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "up [-- KERNEL FLAGS]",
		Short: "Start Solo on this machine, in the foreground",
		Long: `up runs the solo-kernel beside this program, which starts everything else. What follows -- goes
to it; see solo-kernel --help. up exits as the kernel does.

In a fresh home the first deploy of Go source also compiles Go's standard library, once; later
ones take a second or two. SOLO_BUILD_CACHE names a folder with a build cache to share.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && cmd.ArgsLenAtDash() != 0 {
				return misuse("unexpected argument %q: flags of the kernel come after --", args[0])
			}
			bin, err := a.beside("solo-kernel")
			if err != nil {
				return err
			}
			k := exec.CommandContext(cmd.Context(), bin, append([]string{"--banner"}, args...)...)
			k.Dir = a.Dir
			k.Env = append(os.Environ(), "SOLO_HOME="+string(a.homeDir()))
			k.Stdout, k.Stderr = a.Stdout, a.Stderr
			k.SysProcAttr = apart()
			k.Cancel = func() error { return k.Process.Signal(syscall.SIGTERM) }
			k.WaitDelay = 40 * time.Second // the kernel's own shutdown is bounded by 30 s
			err = k.Run()
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				if cmd.Context().Err() != nil && exit.ExitCode() == 0 {
					return nil
				}
				if code := exit.ExitCode(); code > 0 {
					return exitCode(code) // it has said why
				}
				return fmt.Errorf("solo-kernel ended: %w", err)
			}
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
}

// beside finds a program next to this one, or on the PATH.
func (a *app) beside(name string) (string, error) {
	self, err := os.Executable()
	if err == nil {
		if self, err = filepath.EvalSymlinks(self); err == nil {
			if p := filepath.Join(filepath.Dir(self), name); executable(p) {
				return p, nil
			}
		}
	}
	for _, dir := range filepath.SplitList(a.Getenv("PATH")) {
		if p := filepath.Join(dir, name); filepath.IsAbs(p) && executable(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s is neither beside this program nor on the PATH: `make build` puts all programs into one folder", name)
}

func executable(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

func (a *app) shutdownCommand() *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "shutdown",
		Short: "Stop all of Solo gracefully",
		Args:  exactly(0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &solov1.ShutdownRequest{}
			if cmd.Flags().Changed("grace") {
				req.GracePeriod = durationpb.New(grace)
			}
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				resp, err := c.Shutdown(ctx, req)
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) {
					fmt.Fprintf(w, "Solo is stopping; what still runs at %s is killed\n", clock(resp.GetDeadline()))
				})
			})
		},
	}
	cmd.Flags().DurationVar(&grace, "grace", 30*time.Second, "time for everything together")
	return cmd
}

func (a *app) nodesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes and their capacity",
		Args:  exactly(0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				resp, err := c.Nodes(ctx)
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) {
					rows := make([][]string, 0, len(resp.GetNodes()))
					for _, n := range resp.GetNodes() {
						state := "lost"
						if n.GetReady() {
							state = "ready"
						}
						rows = append(rows, []string{n.GetName(), state, fmt.Sprint(n.GetCpus()), size(n.GetMemoryBytes()), fmt.Sprint(n.GetInstances()), orDash(n.GetVersion()), clock(n.GetLastHeartbeat())})
					}
					table(w, "NAME STATE CPUS MEMORY INSTANCES VERSION HEARTBEAT", rows)
				})
			})
		},
	}
}

func (a *app) usageCommand() *cobra.Command {
	req := &solov1.UsageRequest{}
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "usage [NAMESPACE/NAME|NAMESPACE/*]",
		Short: "Show what services used",
		Args:  checked(between(0, 1, "at most one service or pattern"), isPattern),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				req.Service = args[0]
			}
			if req.CapabilityId != "" {
				if err := isID("--capability", req.CapabilityId); err != nil {
					return err
				}
			}
			if since > 0 {
				req.From = timestamppb.New(time.Now().Add(-since))
			}
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				resp, err := c.Usage(ctx, req)
				if err == nil && len(resp.GetRows()) == 0 && isService(req.GetService()) == nil {
					err = unknown(ctx, c, req.GetService())
				}
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) {
					rows := make([][]string, 0, len(resp.GetRows()))
					for _, r := range resp.GetRows() {
						rows = append(rows, []string{r.GetService(), cpu(r.GetCpuMs()), size(r.GetPeakMemoryBytes()), size(uint64(r.GetMemoryByteSeconds())) + "·s", fmt.Sprint(r.GetCalls()), fmt.Sprint(r.GetErrors())})
					}
					table(w, "NAME CPU PEAK-MEMORY MEMORY-TIME CALLS ERRORS", rows)
				})
			})
		},
	}
	cmd.Flags().StringVar(&req.CapabilityId, "capability", "", "only the subtree of this capability (`ID`)")
	cmd.Flags().DurationVar(&since, "since", 0, "only the last `time`; 0 is all that is kept")
	return cmd
}
