// Package deployer is the component that makes services run. It answers deploy, update, rollback,
// kill, upload, logs and crashes for holders, sample and enforce for resmon; it keeps the artifacts,
// publishes what instances write, and owns the processes that hold instances (one solo-runner for each
// namespace) and state (solo-keeper).
//
// It runs no guest code and compiles nothing itself. It promises: a control operation is on the audit
// trail before it takes effect; what should run (registry) runs again after the death of any process;
// a restart of the deployer alone disturbs nothing that runs, because helpers outlive it and the next
// deployer adopts them; drained (`ctl.drain`), it ends them all, finished and flushed.
package deployer

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/deployer/internal/artifact"
	"github.com/solo-os/solo/deployer/internal/control"
	"github.com/solo-os/solo/deployer/internal/engine"
	"github.com/solo-os/solo/deployer/internal/gobuild"
	"github.com/solo-os/solo/deployer/internal/logs"
	"github.com/solo-os/solo/deployer/internal/node"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
)

const (
	startTimeout = 30 * time.Second
	// drainTimeout bounds requests under way when the deployer stops; drainGrace the end of all helpers.
	drainTimeout = 5 * time.Second
	drainGrace   = 20 * time.Second
	// spares is how many runners wait for a namespace.
	spares = 2
)

// Config is what an operator can set.
type Config struct {
	// BinDir holds solo-runner and solo-keeper; empty is the folder of this executable.
	BinDir string
	// Exe is the executable whose `build` subcommand limits a build; empty is this one.
	Exe string
	// Go is the go command that builds sources; empty looks for one.
	Go string
	// BuildCache is the go command's build cache; empty is one below SOLO_HOME. Nodes of one machine
	// may share it.
	BuildCache string
	// WarmBuilds fills an empty build cache in the background.
	WarmBuilds bool
}

func (c *Config) flags(fs *flag.FlagSet, getenv func(string) string) {
	fs.StringVar(&c.BinDir, "bin", getenv("SOLO_BIN"), "folder with solo-runner and solo-keeper (SOLO_BIN; default: beside this executable)")
	fs.StringVar(&c.Go, "go", getenv("SOLO_GO"), "go command that builds sources (SOLO_GO; default: found in PATH)")
	fs.StringVar(&c.BuildCache, "build-cache", cmp.Or(getenv("SOLO_BUILD_CACHE"), getenv("GOCACHE")), "build cache of the go command (SOLO_BUILD_CACHE, GOCACHE; default: below SOLO_HOME)")
	fs.BoolVar(&c.WarmBuilds, "warm-builds", getenv("SOLO_WARM_BUILDS") != "false", "fill an empty build cache in the background (SOLO_WARM_BUILDS)")
}

// Main runs the program solo-deployer and returns its exit code. Its subcommand `build` is the child in
// which a build runs, and not for use by hand.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "build" {
		return gobuild.ChildMain(args[1:], stderr)
	}
	return daemon.Main(ctx, Command(), args, stdin, stdout, stderr)
}

// Command is the component as the frame of all components runs it.
func Command() daemon.Command {
	c := &Config{}
	return daemon.Command{
		Component: subject.Deployer,
		Summary:   "makes services run and keeps them running",
		Flags:     c.flags,
		Run:       func(ctx context.Context, p *daemon.Process) error { return Run(ctx, p, *c) },
	}
}

// Run works until ctx ends. Helpers are left running for the next deployer, or, when the process was
// told to drain, ended.
func Run(ctx context.Context, p *daemon.Process, c Config) error {
	if err := c.complete(); err != nil {
		return err
	}
	begin, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	d, err := assemble(begin, p, c)
	if err != nil {
		return err
	}
	// What works in the background ends after the requests that need it.
	bg, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() {
		stop()
		wg.Wait()
		d.builder.Close()
	}()
	wg.Go(func() { d.logs.Run(bg) })
	d.node, err = node.Start(begin, node.Options{
		Home: p.Boot.GetHome(), Dir: d.dir, BinDir: c.BinDir, Name: p.Boot.GetNode(), NatsAddr: p.Boot.GetNatsAddr(),
		KernelID: p.Boot.GetKernelId(), BootEpoch: p.Boot.GetBootEpoch(), Fence: fence{p}, Events: d.control, Log: p.Log, Spares: spares,
	})
	if err != nil {
		return err
	}
	defer d.node.Close()
	p.SetEnd(d.node.End)
	if err := d.control.Attach(begin, d.node); err != nil {
		return err
	}
	work, settle := context.WithCancel(bg)
	var control sync.WaitGroup
	control.Go(func() { d.control.Run(work) })
	defer func() {
		settle()
		control.Wait()
	}()
	server, err := p.Server()
	if err != nil {
		return err
	}
	d.control.Serve(server)
	if err := server.Start(); err != nil {
		return err
	}
	if err := p.Ready(begin, nil); err != nil {
		return err
	}
	p.Log.Info("ready")
	if c.WarmBuilds {
		wg.Go(func() {
			if err := d.builder.Warm(bg); err != nil && bg.Err() == nil {
				p.Log.Warn("the build cache could not be filled", "error", err)
			}
		})
	}
	<-ctx.Done()
	end, finish := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	server.Close(end)
	finish()
	settle()
	control.Wait()
	if p.Draining() {
		d.node.Drain(context.WithoutCancel(ctx), drainGrace)
	}
	return nil
}

// parts of a deployer.
type parts struct {
	dir     string
	builder *gobuild.Builder
	logs    *logs.Publisher
	control *control.Controller
	node    *node.Node
}

func assemble(ctx context.Context, p *daemon.Process, c Config) (*parts, error) {
	d := &parts{dir: filepath.Join(p.Boot.GetHome(), "deployer")}
	store, err := artifact.Open(ctx, p.JS, filepath.Join(d.dir, "artifacts"))
	if err != nil {
		return nil, err
	}
	cache, err := engine.OpenCache(filepath.Join(d.dir, "cache"), 0)
	if err != nil {
		return nil, err
	}
	d.builder, err = gobuild.New(gobuild.Options{
		Dir: filepath.Join(d.dir, "build"), GoCache: c.BuildCache, Go: c.Go, Exe: c.Exe, Modules: store, Log: p.Log,
	})
	if err != nil {
		return nil, err
	}
	d.logs = logs.NewPublisher(p.JS, p.Log, p.Metrics)
	d.control, err = control.New(ctx, control.Options{
		Peer: p.Peer, JS: p.JS, Table: p.Table, Audit: p.Audit, Log: p.Log, Metrics: p.Metrics, Node: p.Boot.GetNode(),
		Artifacts: store, Builder: d.builder, Compiler: engine.Child{Exe: filepath.Join(c.BinDir, "solo-runner"), Cache: cache}, Logs: d.logs,
	})
	if err != nil {
		d.builder.Close()
		return nil, err
	}
	return d, nil
}

// complete fills in where this executable is.
func (c *Config) complete() error {
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("where this executable is: %w", err)
	}
	if c.Exe == "" {
		c.Exe = exe
	}
	if c.BinDir == "" {
		c.BinDir = filepath.Dir(exe)
	}
	for _, name := range []string{"solo-runner", "solo-keeper"} {
		if _, err := os.Stat(filepath.Join(c.BinDir, name)); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is missing in %s: build all of Solo into one folder, or set SOLO_BIN", name, c.BinDir)
		}
	}
	return nil
}

// fence asks the node's fence for the identities of helpers.
type fence struct{ p *daemon.Process }

func (f fence) Admit(ctx context.Context, id, role, namespace string) error {
	return f.p.Fence(ctx, subject.FenceAdmit, &kernelv1.FenceAdmitRequest{Id: id, Role: role, Namespace: namespace}, &kernelv1.FenceAdmitResponse{})
}

func (f fence) Dismiss(ctx context.Context, id string) error {
	return f.p.Fence(ctx, subject.FenceDismiss, &kernelv1.FenceDismissRequest{Id: id}, &kernelv1.FenceDismissResponse{})
}
