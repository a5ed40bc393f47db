package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/solo-os/solo/sdk/manifest"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

// grammar of rules, for help.
const grammar = `A rule is object=verb{,verb}; * stands for any namespace, name, operation, host, port or verb:

  svc:NAMESPACE/NAME   call:OPERATION deploy update kill status list logs watch
  audit                read
  kernel               nodes usage shutdown
  egress:HOST:PORT     connect

Logs need logs, crashes too; rolling back needs update; usage of a service needs status.
docs/capabilities.md of Solo says more.`

func (a *app) grantCommand() *cobra.Command {
	req := &solov1.GrantCapabilityRequest{}
	var ttl, lifetime time.Duration
	var out, memory, cpus string
	budget := &solov1.Budget{}
	cmd := &cobra.Command{
		Use:   "grant --rule RULE",
		Short: "Pass on a part of what you may do, as a new handle",
		Long: `grant makes a handle here, has Solo bind the rules to its public key, and writes the handle
to a file of mode 0600, or alone to stdout. The id goes to stderr.

` + grammar,
		Example: "  solo grant --rule 'svc:acme/echo=call:get,status' --ttl 1h --label bob --out bob.nk",
		Args:    exactly(0, "flags only"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(req.Rules) == 0 {
				return misuse("--rule is needed, e.g. --rule 'svc:acme/echo=call:get'")
			}
			if _, err := capability.ParseRules(req.Rules); err != nil {
				return usageError{err}
			}
			if req.PublicKey != "" {
				if err := isID("--public-key", req.PublicKey); err != nil {
					return err
				}
			}
			if ttl <= 0 {
				return misuse("--ttl %s: want a positive time", ttl)
			}
			req.Ttl = durationpb.New(ttl)
			var err error
			if memory != "" {
				if budget.MemoryBytes, err = manifest.ParseSize(memory); err != nil {
					return misuse("--budget-memory: %w", err)
				}
			}
			if cpus != "" {
				if budget.CpuMillis, err = manifest.ParseCPU(cpus); err != nil {
					return misuse("--budget-cpu: %w", err)
				}
			}
			if lifetime > 0 {
				budget.Lifetime = durationpb.New(lifetime)
			}
			if budget.Services+budget.CpuMillis+budget.CallsPerSecond != 0 || budget.MemoryBytes != 0 || budget.Lifetime != nil {
				req.Budget = budget
			}
			if req.PublicKey != "" && out != "" {
				return misuse("--out has nothing to write with --public-key: the handle is with whoever made the key")
			}
			return a.grant(cmd, req, out)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&req.Rules, "rule", nil, "`rule` object=verb{,verb}; repeatable")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it lives")
	f.Uint32Var(&req.Depth, "depth", 0, "how many further delegations are allowed (`N`)")
	f.StringVar(&req.Label, "label", "", "who or what it is for (`text`)")
	f.StringVar(&req.PublicKey, "public-key", "", "bind it to this key (`U...`) of the holder's own making")
	f.StringVar(&out, "out", "", "write the handle to a new `file`, mode 0600")
	f.Uint32Var(&budget.Services, "budget-services", 0, "services that the whole subtree may have (`N`), out of your own budget; 0 sets no bound of its own")
	f.StringVar(&memory, "budget-memory", "", "memory that the whole subtree may have, e.g. `1Gi`")
	f.StringVar(&cpus, "budget-cpu", "", "CPU that the whole subtree may have, e.g. `2`")
	f.Uint32Var(&budget.CallsPerSecond, "budget-calls", 0, "calls a second of the whole subtree (`N`)")
	f.DurationVar(&lifetime, "budget-lifetime", 0, "time that anything of the subtree may live")
	return cmd
}

// grant reserves the file before it asks, so that no handle is made that cannot be kept.
func (a *app) grant(cmd *cobra.Command, req *solov1.GrantCapabilityRequest, out string) error {
	var file *os.File
	kept := false
	if out != "" {
		var err error
		if file, err = os.OpenFile(a.path(out), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			if errors.Is(err, os.ErrExist) {
				return fmt.Errorf("%s exists already and may hold a handle: name another file, or remove it", out)
			}
			return err
		}
		defer func() {
			_ = file.Close() // closed already when it was kept
			if !kept {
				_ = os.Remove(file.Name()) // it holds nothing
			}
		}()
	}
	return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
		g, err := c.Grant(ctx, req)
		if err != nil {
			return err
		}
		if file != nil {
			if _, err := file.WriteString(g.Handle + "\n"); err != nil {
				return err
			}
			if err := errors.Join(file.Sync(), file.Close()); err != nil {
				return err
			}
			kept = true
		}
		fmt.Fprintf(a.Stderr, "id %s expires %s\n", g.Capability.GetId(), expiry(g.Capability.GetExpiresAt()))
		resp := &solov1.GrantCapabilityResponse{Capability: g.Capability}
		if file == nil {
			resp.Handle = g.Handle
		}
		return a.print(resp, func(w io.Writer) {
			if resp.GetHandle() != "" {
				fmt.Fprintln(w, resp.GetHandle())
			}
		})
	})
}

func (a *app) revokeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID|FILE",
		Short:   "Kill a capability and everything granted from it",
		Long:    "The capability is named by its id, or by a file that holds its handle.",
		Example: "  solo revoke bob.nk",
		Args:    exactly(1, "the id of the capability (U...), or the file of its handle"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := a.capabilityID(args[0])
			if err != nil {
				return err
			}
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				resp, err := c.Revoke(ctx, id)
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) {
					switch {
					case id == c.ID():
						fmt.Fprintln(w, "your own handle is dead, with all that was granted from it")
					case resp.GetRevokedCount() == 0:
						fmt.Fprintf(w, "%s was revoked already\n", id)
					default:
						fmt.Fprintf(w, "%d capabilities are dead, %d live connections were cut\n", resp.GetRevokedCount(), resp.GetConnectionsCut())
					}
				})
			})
		},
	}
}

// capabilityID reads an argument that names a capability: an id, or a handle's file.
func (a *app) capabilityID(arg string) (string, error) {
	switch {
	case subject.ValidID(arg):
		return arg, nil
	case strings.HasPrefix(arg, "SU") && len(arg) == 58:
		return "", misuse("that is a handle, a secret: name the capability by its id, U..., or by the file that holds the handle")
	}
	if _, err := os.Stat(a.path(arg)); err != nil {
		return "", misuse("%q is neither an id, U and 55 more characters, nor a file with a handle", arg)
	}
	seed, err := agent.ReadHandle(a.path(arg))
	if err != nil {
		return "", err
	}
	return agent.ID(seed)
}

func (a *app) capsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "caps [ID|FILE]",
		Short: "Show a capability, where it came from and what came from it; your own by default",
		Args:  between(0, 1, "at most one id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				req := &solov1.DescribeCapabilityRequest{PageSize: 1000}
				if len(args) == 1 {
					id, err := a.capabilityID(args[0])
					if err != nil {
						return err
					}
					req.Id = id
				}
				var all *solov1.DescribeCapabilityResponse
				for {
					resp, err := c.Describe(ctx, req)
					if err != nil {
						return err
					}
					if all == nil {
						all = resp
					} else {
						all.Children = append(all.Children, resp.GetChildren()...)
					}
					if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
						all.NextPageToken = ""
						break
					}
				}
				return a.print(all, func(w io.Writer) { printCapability(w, all) })
			})
		},
	}
}

func printCapability(w io.Writer, d *solov1.DescribeCapabilityResponse) {
	x := d.GetCapability()
	fmt.Fprintf(w, "%s  %s  %s\n", x.GetId(), liveness(x), plain(orDash(x.GetLabel())))
	for _, r := range x.GetRules() {
		fmt.Fprintf(w, "  %s\n", r)
	}
	fmt.Fprintf(w, "expires %s, may delegate %d deep, granted %s\n", expiry(x.GetExpiresAt()), x.GetDepth(), expiry(x.GetGrantedAt()))
	for _, b := range budgets(x) {
		fmt.Fprintf(w, "budget %s\n", b)
	}
	for _, p := range d.GetAncestors() {
		fmt.Fprintf(w, "from %s  %s  %s\n", p.GetId(), liveness(p), plain(orDash(p.GetLabel())))
	}
	if len(d.GetChildren()) == 0 {
		return
	}
	rows := make([][]string, 0, len(d.GetChildren()))
	for _, k := range d.GetChildren() {
		rows = append(rows, []string{k.GetId(), liveness(k), orDash(k.GetKind()), orDash(k.GetLabel()), expiry(k.GetExpiresAt()), strings.Join(k.GetRules(), " ")})
	}
	table(w, "CHILD STATE KIND LABEL EXPIRES RULES", rows)
}

// budgets lists what a capability's subtree may take, and how much of it is taken.
func budgets(c *solov1.Capability) (out []string) {
	b, u := c.GetBudget(), c.GetUsed()
	add := func(name string, size, used uint64, show func(uint64) string) {
		if size > 0 {
			out = append(out, fmt.Sprintf("%s: %s, %s of it taken", name, show(size), show(used)))
		}
	}
	plainly := func(n uint64) string { return fmt.Sprint(n) }
	add("services", uint64(b.GetServices()), uint64(u.GetServices()), plainly)
	add("memory", b.GetMemoryBytes(), u.GetMemoryBytes(), manifest.FormatSize)
	add("cpu", uint64(b.GetCpuMillis()), uint64(u.GetCpuMillis()), func(n uint64) string { return manifest.FormatCPU(uint32(n)) })
	add("calls a second", uint64(b.GetCallsPerSecond()), uint64(u.GetCallsPerSecond()), plainly)
	if d := b.GetLifetime().AsDuration(); d > 0 {
		out = append(out, "lifetime: nothing in it lives longer than "+d.String())
	}
	return out
}

func liveness(c *solov1.Capability) string {
	switch {
	case c.GetLive():
		return "live"
	case c.GetRevokedAt() != nil:
		return "revoked"
	}
	return "dead"
}

func (a *app) canCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "can RULE",
		Short:   "Would this handle be allowed, and if not, who could grant it",
		Long:    "Exit code 0 means allowed, 1 not allowed.\n\n" + grammar,
		Example: "  solo can svc:acme/billing=call:charge",
		Args:    exactly(1, "one rule, e.g. svc:acme/billing=call:charge"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := capability.ParseRule(args[0]); err != nil {
				return usageError{err}
			}
			return a.client(cmd, quick, func(ctx context.Context, c *agent.Client) error {
				resp, err := c.Can(ctx, args[0])
				if err != nil {
					return err
				}
				err = a.print(resp, func(w io.Writer) {
					if resp.GetAllowed() {
						fmt.Fprintln(w, "yes")
						return
					}
					d := resp.GetDenial()
					fmt.Fprintf(w, "no: %s\n", plain(d.GetMessage()))
					if d.GetSmallestGrant() != "" {
						fmt.Fprintf(w, "smallest grant that would do: %s\n", d.GetSmallestGrant())
					}
					if len(d.GetGrantors()) > 0 {
						fmt.Fprintf(w, "who could grant it: %s\n", strings.Join(d.GetGrantors(), " "))
					}
				})
				if err == nil && !resp.GetAllowed() {
					return exitCode(1)
				}
				return err
			})
		},
	}
}

func (a *app) handleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "handle FILE",
		Short: "Show the id of a handle, and how the nats command line uses it",
		Args:  exactly(1, "the file that holds the handle"),
		RunE: func(_ *cobra.Command, args []string) error {
			seed, err := agent.ReadHandle(a.path(args[0]))
			if err != nil {
				return fault.New(codes.InvalidArgument, fault.ReasonInvalidArgument, "%v", err)
			}
			id, err := agent.ID(seed)
			if err != nil {
				return err
			}
			line, err := a.natsLine(a.path(args[0]), id)
			if err != nil {
				return err
			}
			if a.output == "json" {
				b, err := json.Marshal(map[string]string{"id": id, "nats": line})
				if err != nil {
					return err
				}
				return a.jsonBytes(b)
			}
			fmt.Fprintf(a.Stdout, "%s\n%s\n", id, line)
			fmt.Fprintf(a.Stderr, "append e.g.: request svc.NAMESPACE.NAME.OPERATION.%s PAYLOAD\n", id)
			fmt.Fprintln(a.Stderr, "`solo audit subscribe` tells how it reads the audit trail")
			return nil
		},
	}
}

// natsLine is how the nats command line is called with the handle in a file.
func (a *app) natsLine(file, id string) (string, error) {
	addr, err := a.where("", a.Getenv("SOLO_NATS_ADDR"), "nats", "127.0.0.1:4222")
	if err != nil {
		return "", err
	}
	if file, err = filepath.Abs(file); err != nil {
		return "", err
	}
	return fmt.Sprintf("nats --server nats://%s --nkey %s --inbox-prefix %s.%s", addr, quote(file), subject.InboxPrefix(id), rand.Text()[:20]), nil
}

// quote makes a word safe for a shell.
func quote(s string) string {
	if strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%", r)
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
