// Package gobuild compiles the Go source of a service to a WASM module. It promises that source
// never acts on this machine: the go command runs in a child below limits of time, memory and output,
// without a network, without cgo, from the standard library and the guest SDK that this deployer
// speaks. Equal inputs are built once: results are kept by the SHA-256 of source, SDK and toolchain.
// At most two builds run at a time; what waits, waits in the caller's own time.
package gobuild

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/semver"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/sdk"
)

// Modules keeps what is built; package artifact has one.
type Modules interface {
	Put(ctx context.Context, b []byte) (sha string, err error)
	Has(ctx context.Context, sha string) (size int64, ok bool)
}

// Options of a Builder.
type Options struct {
	// Dir holds work, the SDK's source and the index of results.
	Dir string
	// GoCache is the go command's build cache; default Dir/cache. Several nodes may share one.
	GoCache string
	// Go is the go command; empty looks in PATH and where Go installs itself.
	Go string
	// Exe is an executable whose `build` subcommand is ChildMain.
	Exe     string
	Modules Modules
	Log     *slog.Logger
	// Timeout of one build; default two minutes.
	Timeout time.Duration
	// MemoryBytes of each process of a build; default 2 GiB.
	MemoryBytes uint64
	// Parallel builds; default 2.
	Parallel int
}

// Builder is safe for concurrent use.
type Builder struct {
	o      Options
	slots  chan struct{}
	flight singleflight.Group
	stop   context.CancelFunc
	ctx    context.Context // of all builds; ends with Close
	builds sync.WaitGroup

	mu        sync.Mutex
	closed    bool     // mu
	warming   *warming // mu; nil when the cache is not being filled
	goExe     string   // mu; empty until found
	goVersion string   // mu
	sdkDir    string   // mu
	sdkDigest string   // mu
}

// Result of a build.
type Result struct {
	// SHA256 of the module.
	SHA256 string
	// Cached says that it had been built before.
	Cached bool
	// Diagnostics are warnings.
	Diagnostics []*solov1.Diagnostic
	// Module is what a Check has built and nobody keeps; nil where it had been built before.
	Module []byte
}

// New makes a builder. The toolchain is looked for at the first build.
func New(o Options) (*Builder, error) {
	if o.GoCache == "" {
		o.GoCache = filepath.Join(o.Dir, "cache")
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = 2 << 30
	}
	if o.Parallel == 0 {
		o.Parallel = 2
	}
	for _, d := range []string{o.Dir, o.GoCache, filepath.Join(o.Dir, "index")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("builds: %w", err)
		}
	}
	left, err := filepath.Glob(filepath.Join(o.Dir, "work-*"))
	if err != nil {
		return nil, err
	}
	for _, d := range left {
		_ = os.RemoveAll(d) // of a process that died; what stays only takes space
	}
	b := &Builder{o: o, slots: make(chan struct{}, o.Parallel)}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b, nil
}

// begin counts a build, unless the builder is closed.
func (b *Builder) begin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.builds.Add(1)
	return true
}

// Close stops the builds under way and waits for them.
func (b *Builder) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.stop()
	b.builds.Wait()
}

// Build compiles a source, or finds what it was compiled to. Faults: BUILD_FAILED with the
// diagnostics; FAILED_PRECONDITION where there is no Go toolchain.
func (b *Builder) Build(ctx context.Context, s *Source) (*Result, error) {
	key, r, err := b.known(ctx, s)
	if err != nil || r != nil {
		return r, err
	}
	// One build serves all who wait for it, so it does not end with the first of them.
	done := b.flight.DoChan(key, func() (any, error) {
		if !b.begin() {
			return nil, stopping(nil)
		}
		defer b.builds.Done()
		b.coolDown()
		return b.build(b.ctx, key, s, 0)
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Result), nil
	case <-ctx.Done():
		return nil, fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "the build goes on; repeat the request to get its result").Retry(time.Second)
	}
}

// Check is Build for whoever only wants to know: it ends with ctx, and nothing of it is kept.
func (b *Builder) Check(ctx context.Context, s *Source) (*Result, error) {
	_, r, err := b.known(ctx, s)
	if err != nil || r != nil {
		return r, err
	}
	if !b.begin() {
		return nil, stopping(nil)
	}
	defer b.builds.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(b.ctx, cancel)()
	b.coolDown()
	module, diagnostics, err := b.compile(ctx, s, 0)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(module)
	return &Result{SHA256: hex.EncodeToString(sum[:]), Diagnostics: diagnostics, Module: module}, nil
}

// known is the key of a source's build and what it was built to before, nil if it was not; an error if
// it cannot be built here.
func (b *Builder) known(ctx context.Context, s *Source) (key string, r *Result, err error) {
	if err := b.prepare(ctx); err != nil {
		return "", nil, err
	}
	key = b.key(s)
	if r := b.lookup(ctx, key); r != nil {
		return key, r, nil
	}
	if v := "v" + s.goVersion; s.goVersion != "" && semver.Compare(goSemver(v), goSemver("v"+b.goVersion)) > 0 {
		return "", nil, failed([]*solov1.Diagnostic{{File: "go.mod", Severity: "error", Message: fmt.Sprintf("go %s is asked for, this node has %s", s.goVersion, b.goVersion)}})
	}
	return key, nil, nil
}

// goSemver makes a Go version comparable: v1.26 and v1.26.0 are the same, v1.27rc1 lies before v1.27.
func goSemver(v string) string {
	for _, pre := range []string{"rc", "beta"} {
		if i := strings.Index(v, pre); i > 0 {
			return semver.Canonical(v[:i]) + "-" + v[i:]
		}
	}
	return semver.Canonical(v)
}

func (b *Builder) key(s *Source) string {
	h := sha256.New()
	fmt.Fprintf(h, "solo gobuild 1\n%s\n%s\n%s\n", b.goVersion, b.sdkDigest, s.digest())
	return hex.EncodeToString(h.Sum(nil))
}

type indexEntry struct {
	Module string `json:"module"`
}

func (b *Builder) index(key string) string { return filepath.Join(b.o.Dir, "index", key+".json") }

func (b *Builder) lookup(ctx context.Context, key string) *Result {
	raw, err := os.ReadFile(b.index(key))
	if err != nil {
		return nil
	}
	var e indexEntry
	if json.Unmarshal(raw, &e) != nil || e.Module == "" {
		return nil
	}
	if _, ok := b.o.Modules.Has(ctx, e.Module); !ok {
		return nil
	}
	return &Result{SHA256: e.Module, Cached: true}
}

// build compiles, and keeps the result.
func (b *Builder) build(ctx context.Context, key string, s *Source, nice int) (*Result, error) {
	module, diagnostics, err := b.compile(ctx, s, nice)
	if err != nil {
		return nil, err
	}
	sha, err := b.o.Modules.Put(ctx, module)
	if err != nil {
		return nil, err
	}
	if err := writeFile(b.index(key), indexEntry{sha}); err != nil {
		b.o.Log.Warn("a build result cannot be remembered", "error", err)
	}
	return &Result{SHA256: sha, Diagnostics: diagnostics}, nil
}

// compile runs the go command when a place is free.
func (b *Builder) compile(ctx context.Context, s *Source, nice int) (module []byte, diagnostics []*solov1.Diagnostic, err error) {
	full := time.NewTimer(2 * b.o.Timeout)
	defer full.Stop()
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return nil, nil, stopping(ctx.Err())
	case <-full.C:
		return nil, nil, fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "%d builds are under way already", b.o.Parallel).Retry(time.Second)
	}
	work, err := os.MkdirTemp(b.o.Dir, "work-")
	if err != nil {
		return nil, nil, fault.Internal(err, "the build has no place to work in")
	}
	defer os.RemoveAll(work)
	src := filepath.Join(work, "src")
	if err := b.write(src, s); err != nil {
		return nil, nil, fault.Internal(err, "the source cannot be written for the build")
	}
	out := filepath.Join(work, "module.wasm")
	text, err := b.run(ctx, limits{b.o.Timeout, b.o.MemoryBytes, nice}, src, b.env(work),
		"build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-p", "2", "-o", out, ".")
	if _, exited := errors.AsType[*exec.ExitError](err); exited {
		return nil, nil, failed(parse(text, s))
	}
	if err != nil {
		return nil, nil, err
	}
	module, err = os.ReadFile(out)
	if err != nil {
		return nil, nil, fault.Internal(err, "the build left no module")
	}
	if at := s.withoutGuest(); at != "" {
		return nil, nil, failed([]*solov1.Diagnostic{{
			File: at, Line: 1, Severity: "error", Message: fmt.Sprintf("nothing answers calls: import %s/guest and call guest.Handle in init()", sdk.Module),
		}})
	}
	return module, parse(text, s), nil
}

func stopping(cause error) error {
	return fault.Unavailable(time.Second, "the deployer is stopping").Because(cause)
}

func writeFile(path string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// write lays out the module: the source as it came, a go.mod of Solo's own that names no path of this
// machine. Nothing can be written outside of dir.
func (b *Builder) write(dir string, s *Source) error {
	sdkDir, err := filepath.Rel(dir, b.sdkDir)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, content := range s.files {
		if name == "go.mod" || name == "go.sum" {
			continue
		}
		if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return err
		}
		if err := root.WriteFile(name, content, 0o600); err != nil {
			return err
		}
	}
	version := s.goVersion
	if version == "" {
		version = b.goVersion
	}
	mod := fmt.Sprintf("module %s\n\ngo %s\n\nrequire %s v0.0.0\n\nreplace %s => %s\n", s.module, version, sdk.Module, sdk.Module, filepath.ToSlash(sdkDir))
	return root.WriteFile("go.mod", []byte(mod), 0o600)
}

// env is everything a build sees of this machine.
func (b *Builder) env(work string) []string {
	env := []string{
		"GOPROXY=off", "GOFLAGS=-mod=mod", "GOSUMDB=off", "GOTOOLCHAIN=local", "GOWORK=off", "GOENV=off",
		"CGO_ENABLED=0", "GOOS=wasip1", "GOARCH=wasm", "GOTELEMETRY=off", "GOMEMLIMIT=1GiB",
		"GOCACHE=" + b.o.GoCache, "GOPATH=" + filepath.Join(b.o.Dir, "gopath"), "GOTMPDIR=" + work, "TMPDIR=" + work,
		"PATH=" + filepath.Dir(b.goExe), "HOME=" + work,
	}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" { // where a child built to measure its coverage leaves it
		env = append(env, "GOCOVERDIR="+dir)
	}
	return env
}

// prepare finds the toolchain and lays out the SDK, once.
func (b *Builder) prepare(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.goVersion != "" {
		return nil
	}
	goExe, err := findGo(b.o.Go)
	if err != nil {
		return noToolchain(err)
	}
	cmd := exec.CommandContext(ctx, goExe, "env", "GOVERSION")
	cmd.Env = []string{"GOENV=off", "GOTOOLCHAIN=local", "GOWORK=off", "GOTELEMETRY=off", "HOME=" + b.o.Dir, "GOCACHE=" + b.o.GoCache, "GOPATH=" + filepath.Join(b.o.Dir, "gopath")}
	cmd.Dir = b.o.Dir
	out, err := cmd.Output()
	version, ok := strings.CutPrefix(strings.TrimSpace(string(out)), "go")
	if err != nil || !ok {
		return noToolchain(fmt.Errorf("%s env GOVERSION: %q, %v", goExe, out, err))
	}
	version, _, _ = strings.Cut(version, " ")
	files, err := sdk.GuestModule()
	if err != nil {
		return fault.Internal(err, "the guest SDK is missing")
	}
	s := &Source{files: files}
	digest := s.digest()
	dir := filepath.Join(b.o.Dir, "sdk-"+digest[:16])
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := layOut(dir, files); err != nil {
			return fault.Internal(err, "the guest SDK cannot be laid out")
		}
	}
	b.goExe, b.goVersion, b.sdkDir, b.sdkDigest = goExe, version, dir, digest
	return nil
}

func layOut(dir string, files map[string][]byte) error {
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "work-sdk-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for name, content := range files {
		path := filepath.Join(tmp, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return os.Rename(tmp, dir)
}

func findGo(given string) (string, error) {
	if given != "" {
		return exec.LookPath(given)
	}
	if p, err := exec.LookPath("go"); err == nil {
		return filepath.EvalSymlinks(p)
	}
	return exec.LookPath("/usr/local/go/bin/go")
}

func noToolchain(err error) error {
	return fault.New(codes.FailedPrecondition, fault.ReasonBuildFailed, "this node has no Go toolchain, which format go needs").
		Next("install Go on the node (or point SOLO_GO at it), or compile to WASM and deploy with format wasm").Because(err)
}

// seed is a service that uses what services use.
const seed = `package main

import (
	"context"
	"encoding/json"

	"github.com/solo-os/solo/sdk/guest"
)

func init() {
	guest.Handle("seed", func(_ context.Context, payload []byte) ([]byte, error) { return json.Marshal(string(payload)) })
}

func main() {}
`

// warming is an unhurried build that fills the cache.
type warming struct {
	stop context.CancelFunc
	done chan struct{}
}

// coolDown ends a filling of the cache: the build that is asked for does the same work, sooner. What
// has been compiled already stays.
func (b *Builder) coolDown() {
	b.mu.Lock()
	w := b.warming
	b.mu.Unlock()
	if w != nil {
		w.stop()
		<-w.done
	}
}

// Warm fills an empty build cache, at the lowest priority: the first build of a toolchain takes
// seconds, all later ones a fraction. It makes way for the first build that is asked for.
func (b *Builder) Warm(ctx context.Context) error {
	if err := b.prepare(ctx); err != nil {
		return err
	}
	marker := filepath.Join(b.o.GoCache, "solo-warm-"+b.goVersion+"-"+b.sdkDigest[:16])
	if _, err := os.Stat(marker); err == nil {
		return nil
	}
	s, err := FromFiles(map[string][]byte{"main.go": []byte(seed)})
	if err != nil {
		return err
	}
	quiet, stop := context.WithCancel(ctx)
	defer stop()
	w := &warming{stop, make(chan struct{})}
	b.mu.Lock()
	b.warming = w
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.warming = nil
		b.mu.Unlock()
		close(w.done)
	}()
	_, err = b.build(quiet, b.key(s), s, 19)
	if err != nil && quiet.Err() != nil && ctx.Err() == nil {
		return nil // the cache is being filled by the build that was asked for
	}
	if err != nil {
		return err
	}
	return os.WriteFile(marker, nil, 0o600)
}
