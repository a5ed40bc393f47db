// Package kernel is the process that starts Solo and keeps it running: it holds the home and
// the identities, runs the bus with its fence, supervises the components, opens user space
// once all of them are ready, and stops everything in order.
package kernel

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Config of a kernel. Flags override SOLO_* variables, which override $SOLO_HOME/solo.yaml.
type Config struct {
	// Home is SOLO_HOME; default .solo.
	Home string
	// BinDir holds the components' executables; default the folder of solo-kernel itself.
	BinDir string
	// Addresses as host:port; port 0 picks a free one. Loopback only.
	GRPC    string
	NATS    string
	HTTP    string // nothing is served there yet
	Metrics string
	// LogLevel is debug, info, warn or error.
	LogLevel string
	// Banner prints where Solo listens and what to try first.
	Banner bool
}

// setting is one that may stand in a flag, the environment or the file.
type setting struct {
	flag, usage, def string
	value            *string
}

// env is its variable, key its name in the file.
func (s setting) env() string { return "SOLO_" + strings.ToUpper(s.key()) }
func (s setting) key() string { return strings.ReplaceAll(s.flag, "-", "_") }

// settings of a configuration. The addresses come first: see addresses.
func (c *Config) settings() []setting {
	return append(c.addresses(), setting{"log-level", "`level` of the log: debug, info, warn or error", "info", &c.LogLevel})
}

// errHelp and errVersion end the program with code 0.
var (
	errHelp    = errors.New("help was asked for")
	errVersion = errors.New("version was asked for")
)

// Parse reads the configuration. usage goes to out.
func Parse(args []string, getenv func(string) string, out io.Writer) (Config, error) {
	var c Config
	settings := c.settings()
	fs := flag.NewFlagSet("solo-kernel", flag.ContinueOnError)
	fs.SetOutput(out)
	home := fs.String("home", "", "Solo's `folder` (SOLO_HOME; default .solo)")
	bin := fs.String("bin", "", "`folder` of the components' executables (default: where solo-kernel is)")
	fs.BoolVar(&c.Banner, "banner", false, "print where Solo listens and what to try first, to standard error (always when that is a terminal)")
	version := fs.Bool("version", false, "print the version and exit")
	flags := map[string]*string{}
	for _, s := range settings {
		flags[s.flag] = fs.String(s.flag, "", fmt.Sprintf("%s (%s; default %s)", s.usage, s.env(), s.def))
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
	file, err := readFile(filepath.Join(c.Home, "solo.yaml"), settings)
	if err != nil {
		return c, err
	}
	for _, s := range settings {
		*s.value = first(*flags[s.flag], getenv(s.env()), file[s.key()], s.def)
	}
	for _, s := range c.addresses() {
		if err := s.address(); err != nil {
			return c, err
		}
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		return c, fmt.Errorf("log level %q: want debug, info, warn or error", c.LogLevel)
	}
	return c, nil
}

// readFile reads the settings in a file by their keys; a file that is not there has none.
func readFile(path string, settings []setting) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	if err := yaml.Unmarshal(b, &values); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	keys := make([]string, len(settings))
	for i, s := range settings {
		keys[i] = s.key()
	}
	for _, k := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(keys, k) {
			return nil, fmt.Errorf("%s: unknown setting %q: want %s", path, k, strings.Join(keys, ", "))
		}
	}
	return values, nil
}

func first(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}
