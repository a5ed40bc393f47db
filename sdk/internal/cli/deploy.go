package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/solo-os/solo/proto/capability"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/sdk/agent"
	"github.com/solo-os/solo/sdk/internal/source"
	"github.com/solo-os/solo/sdk/manifest"
	"github.com/spf13/cobra"
)

// placing is what deploy and update share: a manifest from a file or from flags, and code.
type placing struct {
	file                          string
	format, protocol, memory, cpu string
	replicas                      string
	grants, env, ops, args        []string
}

func (p *placing) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&p.file, "file", "f", "", "manifest `file`, YAML or JSON; - is stdin")
	f.StringVar(&p.format, "format", "", "`kind` of code: go, wasm or binary; told from PATH when left out")
	f.StringVar(&p.protocol, "protocol", "", "`way` to speak to a binary: http or stdio")
	f.StringVar(&p.memory, "memory", "", "memory an instance, e.g. `64Mi`")
	f.StringVar(&p.cpu, "cpu", "", "CPU share an instance, e.g. `500m`")
	f.StringVar(&p.replicas, "replicas", "", "instances to run (`N`), 1 to 1000; 1 when left out")
	f.StringArrayVar(&p.grants, "grant", nil, "`rule` that the service may use when it calls out; repeatable")
	f.StringArrayVar(&p.env, "env", nil, "environment variable as `KEY=VALUE`; repeatable")
	f.StringArrayVar(&p.ops, "op", nil, "operation `name` that callers may use; repeatable, none allows any")
	f.StringArrayVar(&p.args, "arg", nil, "`argument` of the program; repeatable")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"go", "wasm", "binary"}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	_ = cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions([]string{"http", "stdio"}, cobra.ShellCompDirectiveNoFileComp))      // the flag is there
}

// document is the manifest and where the code is.
func (a *app) document(p *placing, args []string) (*manifest.Document, error) {
	if p.file == "" {
		return a.fromFlags(p, args)
	}
	if len(args) > 0 || p.format+p.protocol+p.memory+p.cpu+p.replicas != "" || len(p.grants)+len(p.env)+len(p.ops)+len(p.args) > 0 {
		return nil, misuse("with -f everything comes from the manifest: leave out names, paths and flags that say the same")
	}
	var b []byte
	var err error
	base := a.path(".")
	if p.file == "-" {
		b, err = io.ReadAll(io.LimitReader(a.Stdin, manifest.MaxBytes+1))
	} else {
		b, err = os.ReadFile(a.path(p.file))
		base = filepath.Dir(a.path(p.file))
	}
	if err != nil {
		return nil, err
	}
	doc, err := manifest.Parse(p.file, b)
	if err != nil {
		return nil, err
	}
	if doc.Source == "" {
		return nil, &manifest.Error{File: p.file, Problems: []manifest.Problem{{Path: "source", Message: "is missing: say where the code is, e.g. source: ."}}}
	}
	if !strings.HasPrefix(doc.Source, manifest.DigestPrefix) && !filepath.IsAbs(doc.Source) {
		doc.Source = filepath.Join(base, doc.Source)
	}
	if _, err := os.Stat(doc.Source); errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(doc.Source, manifest.DigestPrefix) {
		return nil, &manifest.Error{File: p.file, Problems: []manifest.Problem{{
			Line: doc.SourceLine, Column: doc.SourceColumn, Path: "source",
			Message: fmt.Sprintf("there is nothing at %s: want the file or folder with the code, relative to the manifest", doc.Source),
		}}}
	}
	return doc, nil
}

func (a *app) fromFlags(p *placing, args []string) (*manifest.Document, error) {
	if len(args) != 2 {
		return nil, misuse("want -f MANIFEST, or NAMESPACE/NAME and the PATH of the code")
	}
	m := &solov1.Manifest{Name: args[0], Grants: p.grants, Args: p.args}
	if _, err := subject.ParseService(args[0]); err != nil {
		return nil, usageError{err}
	}
	doc := &manifest.Document{Manifest: m, Source: args[1]}
	held := strings.HasPrefix(doc.Source, manifest.DigestPrefix)
	if !held {
		doc.Source = a.path(doc.Source)
	}
	var err error
	switch {
	case p.format != "":
		if m.Format, err = manifest.ParseFormat(p.format); err != nil {
			return nil, misuse("--format: %w", err)
		}
	case held:
		return nil, misuse("--format is needed with %s…", manifest.DigestPrefix)
	default:
		if m.Format, err = source.Guess(doc.Source); err != nil {
			return nil, err
		}
	}
	if p.protocol != "" {
		if m.Protocol, err = manifest.ParseProtocol(p.protocol); err != nil {
			return nil, misuse("--protocol: %w", err)
		}
		if m.Format != solov1.Format_FORMAT_BINARY {
			return nil, misuse("--protocol: only a binary has a protocol")
		}
	}
	if p.replicas != "" {
		if m.Replicas, err = manifest.ParseReplicas(p.replicas); err != nil {
			return nil, misuse("--replicas: %w", err)
		}
	}
	if p.memory+p.cpu != "" {
		m.Limits = &solov1.Limits{}
	}
	if p.memory != "" {
		if m.Limits.MemoryBytes, err = manifest.ParseSize(p.memory); err != nil {
			return nil, misuse("--memory: %w", err)
		}
	}
	if p.cpu != "" {
		if m.Limits.CpuMillis, err = manifest.ParseCPU(p.cpu); err != nil {
			return nil, misuse("--cpu: %w", err)
		}
	}
	if _, err := capability.ParseRules(p.grants); err != nil {
		return nil, misuse("--grant: %w", err)
	}
	for _, kv := range p.env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return nil, misuse("--env %q: want KEY=VALUE", kv)
		}
		if err := manifest.CheckEnv(k, v); err != nil {
			return nil, misuse("--env %s: %w", k, err)
		}
		if m.Env == nil {
			m.Env = map[string]string{}
		}
		m.Env[k] = v
	}
	for _, o := range p.ops {
		if !subject.ValidOp(o) {
			return nil, misuse("--op %q: want a-z, 0-9, _ and -, a letter first", o)
		}
		m.Operations = append(m.Operations, &solov1.Operation{Name: o})
	}
	return doc, nil
}

// code reads, packs or uploads what a document points at.
func (a *app) code(ctx context.Context, c *agent.Client, doc *manifest.Document, p *progress) (*solov1.Code, error) {
	if hex, ok := strings.CutPrefix(doc.Source, manifest.DigestPrefix); ok {
		return &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: hex}}, nil
	}
	st, err := os.Stat(doc.Source)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		if doc.Manifest.GetFormat() != solov1.Format_FORMAT_GO_SOURCE {
			return nil, fmt.Errorf("%s is a folder: format %s wants a file", doc.Source, strings.ToLower(word(doc.Manifest.GetFormat(), "FORMAT_")))
		}
		files, err := source.Pack(doc.Source)
		if err != nil {
			return nil, err
		}
		return &solov1.Code{Kind: &solov1.Code_Files{Files: files}}, nil
	}
	f, err := os.Open(doc.Source)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return c.Code(ctx, agent.Upload{Source: f, Progress: func(sent, total int64) {
		p.say("uploading %s: %s of %s", filepath.Base(doc.Source), size(uint64(sent)), size(uint64(total)))
	}})
}

// slow is why a deploy may take long.
func slow(m *solov1.Manifest) string {
	if m.GetFormat() == solov1.Format_FORMAT_GO_SOURCE {
		return "compiling Go; the first build in a fresh home compiles the standard library, too"
	}
	return ""
}

func (a *app) diagnostics(ds []*solov1.Diagnostic) {
	for _, d := range ds {
		fmt.Fprintf(a.Stderr, "%s:%d:%d: %s%s\n", d.GetFile(), d.GetLine(), d.GetColumn(), severity(d), plain(d.GetMessage()))
	}
}

func severity(d *solov1.Diagnostic) string {
	if d.GetSeverity() == "warning" {
		return "warning: "
	}
	return ""
}

func (a *app) deployCommand() *cobra.Command {
	var p placing
	var check bool
	cmd := &cobra.Command{
		Use:     "deploy (-f MANIFEST | NAMESPACE/NAME PATH)",
		Short:   "Make a service run: Go source, a WASM module or a static executable",
		Example: "  solo deploy -f manifest.yaml\n  solo deploy acme/billing ./billing --memory 64Mi --grant svc:acme/ledger=call:post\n  solo deploy acme/echo ./echo --format binary --protocol http",
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := a.document(&p, args)
			if err != nil {
				return err
			}
			return a.client(cmd, long, func(ctx context.Context, c *agent.Client) error {
				pr := a.progress("deploying " + doc.Manifest.GetName())
				defer pr.stop()
				code, err := a.code(ctx, c, doc, pr)
				if err != nil {
					return err
				}
				pr.say("deploying %s", doc.Manifest.GetName())
				pr.because(slow(doc.Manifest))
				resp, err := c.Deploy(ctx, &solov1.DeployRequest{Manifest: doc.Manifest, Code: code, ValidateOnly: check})
				pr.stop()
				if err != nil {
					return err
				}
				a.diagnostics(resp.GetDiagnostics())
				return a.print(resp, func(w io.Writer) {
					if check {
						fmt.Fprintf(w, "%s would deploy; nothing was changed\n", doc.Manifest.GetName())
						return
					}
					s := resp.GetService()
					from := "compiled new"
					if resp.GetCached() {
						from = "from the cache"
					}
					fmt.Fprintf(w, "%s is %s: revision %d, %d instances, ready after %.1f ms (%s)\n", s.GetName(), word(s.GetState(), "SERVICE_STATE_"), s.GetRevision(), len(s.GetInstances()), resp.GetStartupMs(), from)
				})
			})
		},
	}
	p.flags(cmd)
	cmd.Flags().BoolVar(&check, "validate-only", false, "check everything, change nothing")
	return cmd
}

func (a *app) updateCommand() *cobra.Command {
	var p placing
	var strategy string
	var expected uint64
	cmd := &cobra.Command{
		Use:     "update (-f MANIFEST | NAMESPACE/NAME PATH)",
		Short:   "Replace what runs by new code and manifest",
		Example: "  solo update acme/billing ./billing --strategy recreate",
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := a.document(&p, args)
			if err != nil {
				return err
			}
			if strategy != "" {
				s, err := manifest.ParseStrategy(strategy)
				if err != nil {
					return misuse("--strategy: %w", err)
				}
				if doc.Manifest.Update == nil {
					doc.Manifest.Update = &solov1.UpdatePolicy{}
				}
				doc.Manifest.Update.Strategy = s
			}
			return a.client(cmd, long, func(ctx context.Context, c *agent.Client) error {
				pr := a.progress("updating " + doc.Manifest.GetName())
				defer pr.stop()
				code, err := a.code(ctx, c, doc, pr)
				if err != nil {
					return err
				}
				pr.say("updating %s", doc.Manifest.GetName())
				pr.because(slow(doc.Manifest))
				resp, err := c.Update(ctx, &solov1.UpdateRequest{Manifest: doc.Manifest, Code: code, ExpectedRevision: expected, Action: solov1.UpdateAction_UPDATE_ACTION_START})
				pr.stop()
				if err != nil {
					return err
				}
				a.diagnostics(resp.GetDiagnostics())
				return a.print(resp, func(w io.Writer) { printRollout(w, doc.Manifest.GetName(), resp.GetRollout()) })
			})
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&strategy, "strategy", "", "`how`: recreate, hot-reload, rolling, canary or blue-green")
	_ = cmd.RegisterFlagCompletionFunc("strategy", cobra.FixedCompletions([]string{"recreate", "hot-reload", "rolling", "canary", "blue-green"}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	cmd.Flags().Uint64Var(&expected, "expected-revision", 0, "refuse unless this revision runs (`N`)")
	return cmd
}

func printRollout(w io.Writer, service string, r *solov1.Rollout) {
	fmt.Fprintf(w, "%s: revision %d to %d %s\n", service, r.GetFromRevision(), r.GetToRevision(), word(r.GetState(), "ROLLOUT_STATE_"))
	if e := r.GetError(); e != "" {
		fmt.Fprintf(w, "error: %s\n", plain(e))
	}
}

func (a *app) rollbackCommand() *cobra.Command {
	var revision uint64
	cmd := &cobra.Command{
		Use:   "rollback NAMESPACE/NAME",
		Short: "Return a service to a kept revision",
		Args:  oneService(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd, long, func(ctx context.Context, c *agent.Client) error {
				resp, err := c.Rollback(ctx, &solov1.RollbackRequest{Service: args[0], Revision: revision})
				if err != nil {
					return err
				}
				return a.print(resp, func(w io.Writer) { printRollout(w, args[0], resp.GetRollout()) })
			})
		},
	}
	cmd.Flags().Uint64Var(&revision, "revision", 0, "which one (`N`); 0 is the one before")
	return cmd
}
