// Package cli is the command line of Solo. It speaks gRPC to a running Solo and nothing else;
// `solo up` starts the kernel's own binary. A command exits with 0 only when it succeeded,
// with 1 when it was refused or failed, with 2 when it was misused. Results go to stdout,
// errors and progress to stderr; an error names its reason, the fields that are wrong and
// what to do next.
package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/solo-os/solo/sdk/agent"
	"github.com/solo-os/solo/sdk/internal/home"
	"github.com/spf13/cobra"
)

// Version of the command line.
const Version = "0.1.0"

// Env is what a command sees of the world.
type Env struct {
	// Dir is where relative paths begin; empty is the process's own working directory.
	Dir            string
	Getenv         func(string) string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// app is one run of the command line.
type app struct {
	Env
	handle, addr, home, output string
	ca, cert, key              string
	plaintext                  bool
	timeout                    time.Duration
}

// usageError is misuse: exit code 2.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }

func (e usageError) Unwrap() error { return e.err }

func misuse(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// flagError is misuse of a flag, in words where a parser of Go's speaks.
func flagError(err error) error {
	text := err.Error()
	for _, w := range []struct{ from, to string }{
		{": strconv.ParseBool", "true or false"},
		{": strconv.ParseFloat", "a number"},
		{": strconv.", "a whole number, not negative"},
		{": time: ", "a time, e.g. 30s, 5m or 1h"},
	} {
		if before, _, found := strings.Cut(text, w.from); found {
			return misuse("%s: want %s", before, w.to)
		}
	}
	return usageError{err}
}

// exitCode is a failure that has been told already.
type exitCode int

func (exitCode) Error() string { return "failed" }

// Run runs one command and returns its exit code.
func Run(ctx context.Context, args []string, env Env) int {
	a := &app{Env: env}
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if code, told := errors.AsType[exitCode](err); told {
		return int(code)
	}
	_, wrong := errors.AsType[usageError](err)
	switch {
	case a.output == "json":
		a.explainJSON(err, cmd.CommandPath())
	case wrong:
		fmt.Fprintf(env.Stderr, "solo: %v\nsee: %s --help\n", err, cmd.CommandPath())
	default:
		a.explain(err)
	}
	if wrong {
		return 2
	}
	return 1
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "solo",
		Short: "Run services in capability-secured isolation, for agents and people",
		Long: `solo talks to a running Solo over gRPC.

Where it is comes from --addr, else SOLO_GRPC_ADDR, else $SOLO_HOME/run/addresses.json, else
127.0.0.1:50051. The handle comes from the file named by --handle, else SOLO_HANDLE, else
$SOLO_HOME/root.nk. SOLO_HOME is .solo unless it is set.`,
		Example:       "  solo up\n  solo init hello && solo deploy -f hello/manifest.yaml\n  solo call demo/hello greet world",
		Version:       Version,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return misuse("unknown command %q", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(a.Stderr)
			_ = cmd.Help() // it only writes
			return misuse("which command?")
		},
	}
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	f := root.PersistentFlags()
	f.StringVar(&a.handle, "handle", a.Getenv("SOLO_HANDLE"), "`file` with the handle to use (SOLO_HANDLE)")
	f.StringVar(&a.addr, "addr", "", "gRPC address as `host:port` (SOLO_GRPC_ADDR)")
	f.StringVar(&a.home, "home", a.Getenv("SOLO_HOME"), "Solo's `folder` on this machine (SOLO_HOME)")
	f.StringVarP(&a.output, "output", "o", "text", "`form` of the output: text or json (the response as protobuf JSON; an error as one JSON object on stderr)")
	f.StringVar(&a.ca, "tls-ca", a.Getenv("SOLO_TLS_CA"), "`file` with the authority to trust; turns on TLS (SOLO_TLS_CA)")
	f.StringVar(&a.cert, "tls-cert", a.Getenv("SOLO_TLS_CERT"), "`file` with a client certificate (SOLO_TLS_CERT)")
	f.StringVar(&a.key, "tls-key", a.Getenv("SOLO_TLS_KEY"), "`file` with its key (SOLO_TLS_KEY)")
	f.BoolVar(&a.plaintext, "plaintext", false, "allow sending the handle unencrypted to another machine")
	f.DurationVar(&a.timeout, "timeout", 0, "give up after this `time`; 0 leaves it to the command: 30s, 5m for what changes services, the operation's own timeout for a call, no end for streams")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return flagError(err) })
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if a.output != "text" && a.output != "json" {
			return misuse("--output %q: want text or json", a.output)
		}
		if a.timeout < 0 {
			return misuse("--timeout %s: want a positive time", a.timeout)
		}
		return nil
	}
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	root.AddCommand(
		a.upCommand(), a.initCommand(), a.doctorCommand(), a.shutdownCommand(), a.nodesCommand(), a.usageCommand(),
		a.deployCommand(), a.updateCommand(), a.rollbackCommand(), a.killCommand(),
		a.callCommand(), a.psCommand(), a.statusCommand(), a.crashCommand(),
		a.logsCommand(), a.watchCommand(), a.auditCommand(),
		a.grantCommand(), a.revokeCommand(), a.capsCommand(), a.canCommand(), a.handleCommand(),
	)
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			grouped(cmd)
		case "call":
			cmd.ValidArgsFunction = a.completeNames(true)
		case "status", "kill", "logs", "watch", "crash", "usage", "rollback":
			cmd.ValidArgsFunction = a.completeNames(false)
		}
	}
	return root
}

// exactly wants n arguments; what names them for the error.
func exactly(n int, what string) cobra.PositionalArgs {
	return between(n, n, what)
}

func between(low, high int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return misuse("%d arguments: want %s", len(args), what)
		}
		return nil
	}
}

// path makes a path absolute from Dir.
func (a *app) path(p string) string {
	if p == "" || filepath.IsAbs(p) || a.Dir == "" {
		return p
	}
	return filepath.Join(a.Dir, p)
}

func (a *app) homeDir() home.Dir {
	if a.home == "" {
		return home.Dir(a.path(home.Default))
	}
	return home.Dir(a.path(a.home))
}

// address is where Solo's gRPC listens.
func (a *app) address() (string, error) {
	return a.where(a.addr, a.Getenv("SOLO_GRPC_ADDR"), "grpc", "127.0.0.1:50051")
}

// where is an address: the flag's, else the environment's, else the one that a Solo running
// here says, else the usual one. Port 0 in the environment asks for a free port and is none.
func (a *app) where(flag, env, name, usual string) (string, error) {
	if flag != "" {
		if _, _, err := net.SplitHostPort(flag); err != nil {
			return "", misuse("--addr %q: want host:port, e.g. %s", flag, usual)
		}
		return flag, nil
	}
	if env != "" && !strings.HasSuffix(env, ":0") {
		return env, nil
	}
	m, err := a.homeDir().Addresses()
	if err != nil {
		return "", err
	}
	if m[name] != "" {
		return m[name], nil
	}
	return usual, nil
}

// handleFile is the file with the handle to use.
func (a *app) handleFile() string {
	if a.handle != "" {
		return a.path(a.handle)
	}
	return a.homeDir().Handle()
}

func (a *app) tlsConfig() (*tls.Config, error) {
	if a.ca == "" && a.cert == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if a.ca != "" {
		pem, err := os.ReadFile(a.path(a.ca))
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", a.ca)
		}
	}
	if a.cert != "" {
		pair, err := tls.LoadX509KeyPair(a.path(a.cert), a.path(a.key))
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// client does f with a client. The time it may take is --timeout, or what the command gives;
// 0 is no end.
func (a *app) client(cmd *cobra.Command, limit time.Duration, f func(ctx context.Context, c *agent.Client) error) error {
	addr, err := a.address()
	if err != nil {
		return err
	}
	t, err := a.tlsConfig()
	if err != nil {
		return err
	}
	c, err := agent.Dial(cmd.Context(), agent.Options{Addr: addr, HandleFile: a.handleFile(), TLS: t, PlaintextOffLoopback: a.plaintext})
	if err != nil {
		return a.noClient(err)
	}
	defer c.Close()
	ctx := cmd.Context()
	if a.timeout > 0 {
		limit = a.timeout
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return f(ctx, c)
}

// Times that commands give Solo unless --timeout says otherwise.
const (
	quick = 30 * time.Second
	long  = 5 * time.Minute
)
