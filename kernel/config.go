// Package kernel is the process that starts Solo and keeps it running: it holds the home and
// the identities, runs the bus with its fence, supervises the components, opens user space
// once all of them are ready, and stops everything in order.
package kernel

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Config of a kernel. Flags override SOLO_* variables, which override $SOLO_HOME/solo.yaml.
type Config struct {
	// Home is SOLO_HOME; default .solo.
	Home string `yaml:"-"`
	// BinDir holds the components' executables; default the folder of solo-kernel itself.
	BinDir string `yaml:"-"`
	// Addresses as host:port; port 0 picks a free one. Loopback only.
	GRPC    string `yaml:"grpc_addr"`
	NATS    string `yaml:"nats_addr"`
	HTTP    string `yaml:"http_addr"`
	Metrics string `yaml:"metrics_addr"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `yaml:"log_level"`
	// Banner prints where Solo listens and what to try first.
	Banner bool `yaml:"-"`
}

type setting struct {
	flag, env, usage, def string
	value                 *string
	file                  string
}

// errHelp and errVersion end the program with code 0.
var (
	errHelp    = errors.New("help was asked for")
	errVersion = errors.New("version was asked for")
)

// Parse reads the configuration. usage goes to out.
func Parse(args []string, getenv func(string) string, out io.Writer) (Config, error) {
	var c, file Config
	settings := []setting{
		{"grpc-addr", "SOLO_GRPC_ADDR", "gRPC `address`", "127.0.0.1:50051", &c.GRPC, ""},
		{"nats-addr", "SOLO_NATS_ADDR", "NATS `address`", "127.0.0.1:4222", &c.NATS, ""},
		{"http-addr", "SOLO_HTTP_ADDR", "HTTP `address`", "127.0.0.1:8080", &c.HTTP, ""},
		{"metrics-addr", "SOLO_METRICS_ADDR", "metrics and health `address`", "127.0.0.1:9090", &c.Metrics, ""},
		{"log-level", "SOLO_LOG_LEVEL", "`level` of the log: debug, info, warn or error", "info", &c.LogLevel, ""},
	}
	fs := flag.NewFlagSet("solo-kernel", flag.ContinueOnError)
	fs.SetOutput(out)
	home := fs.String("home", "", "Solo's `folder` (SOLO_HOME; default .solo)")
	bin := fs.String("bin", "", "`folder` of the components' executables (default: where solo-kernel is)")
	fs.BoolVar(&c.Banner, "banner", false, "print where Solo listens and what to try first, to standard error (always when that is a terminal)")
	version := fs.Bool("version", false, "print the version and exit")
	flags := map[string]*string{}
	for _, s := range settings {
		flags[s.flag] = fs.String(s.flag, "", fmt.Sprintf("%s (%s; default %s)", s.usage, s.env, s.def))
	}
	fs.Usage = func() {
		fmt.Fprint(out, "solo-kernel starts all of Solo on this machine and keeps it running.\n\nUsage: solo-kernel [flags]\n\nEach setting may also stand in the environment, or in solo.yaml in the home (grpc_addr: ...).\nStop it with Ctrl-C or SIGTERM: it drains within 30 s; a second signal hurries.\n\nFlags:\n")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return c, errHelp
		}
		return c, err
	}
	if *version {
		return c, errVersion
	}
	if fs.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	c.Home = first(*home, getenv("SOLO_HOME"), ".solo")
	c.BinDir = *bin
	if c.BinDir == "" {
		exe, err := os.Executable()
		if err != nil {
			return c, fmt.Errorf("where solo-kernel is cannot be told (%w): use --bin", err)
		}
		c.BinDir = filepath.Dir(exe)
	}
	if err := readFile(filepath.Join(c.Home, "solo.yaml"), &file); err != nil {
		return c, err
	}
	for i, v := range []string{file.GRPC, file.NATS, file.HTTP, file.Metrics, file.LogLevel} {
		s := settings[i]
		*s.value = first(*flags[s.flag], getenv(s.env), v, s.def)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		return c, fmt.Errorf("log level %q: want debug, info, warn or error", c.LogLevel)
	}
	return c, nil
}

func readFile(path string, c *Config) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	d := yaml.NewDecoder(strings.NewReader(string(b)))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func first(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}
