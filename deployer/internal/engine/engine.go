// Package engine hosts guests of ABI solo1, and WASI preview 1 commands, on wazero.
//
// It promises: a guest reaches nothing but what its Host answers; its memory never passes its
// ceiling, its call never outlives its context, and a panic, trap or exit in it is the caller's error
// and nobody else's. An instance runs one call at a time, calls wait for each other in no particular
// order, and after anything but a reply or an error of the guest's own the instance is dead and must
// be replaced. Guest code is stopped at function entries and loop heads once its context is done.
//
// Code is compiled in a child process into a cache on disk (Child.Compile, the other end of which is
// CompileMain) and only mapped here.
package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/deployer/internal/engine/inspect"
	"github.com/solo-os/solo/proto/fault"
)

// Host is what an instance reaches outside itself. Its methods are called on the goroutine of the
// running call, while the guest waits.
type Host interface {
	// Ask answers one solo.call. The context ends with the call. A fault.Error reaches the guest with
	// its code and reason.
	Ask(ctx context.Context, op string, payload []byte) ([]byte, error)
	// Log takes one line of solo.log; levels are those of the abi package.
	Log(level uint32, line string)
	// Output takes one line of stdout or stderr.
	Output(stream, line string)
}

// Engine holds loaded modules. It is safe for concurrent use.
type Engine struct {
	rt      wazero.Runtime
	cache   wazero.CompilationCache
	store   *Cache
	imports inspect.Imports

	mu      sync.Mutex // guards modules
	modules map[string]*Module
}

// New starts an engine whose compiled code lies in the cache.
func New(ctx context.Context, store *Cache) (*Engine, error) {
	cache, err := wazero.NewCompilationCacheWithDir(store.dir)
	if err != nil {
		return nil, fmt.Errorf("compilation cache in %s: %w", store.dir, err)
	}
	e := &Engine{cache: cache, store: store, modules: map[string]*Module{}}
	e.rt = wazero.NewRuntimeWithConfig(ctx, runtimeConfig().WithCompilationCache(cache))
	if e.imports, err = instantiateHost(ctx, e.rt); err != nil {
		return nil, fmt.Errorf("host modules: %w", err)
	}
	return e, nil
}

// runtimeConfig is the one configuration of whatever compiles or runs: the key of cached code
// depends on it.
func runtimeConfig() wazero.RuntimeConfig {
	return wazero.NewRuntimeConfigCompiler().WithCloseOnContextDone(true).WithDebugInfoEnabled(false)
}

// instantiateHost makes the import modules and says what they offer.
func instantiateHost(ctx context.Context, rt wazero.Runtime) (inspect.Imports, error) {
	wasi, err := wasi_snapshot_preview1.NewBuilder(rt).Compile(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := rt.InstantiateModule(ctx, wasi, wazero.NewModuleConfig()); err != nil {
		return nil, err
	}
	solo, err := soloModule(rt).Compile(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := rt.InstantiateModule(ctx, solo, wazero.NewModuleConfig()); err != nil {
		return nil, err
	}
	return inspect.Imports{wasi.Name(): signatures(wasi), solo.Name(): signatures(solo)}, nil
}

// Close ends the engine. All instances must be closed before.
func (e *Engine) Close(ctx context.Context) error {
	if err := e.rt.Close(ctx); err != nil {
		return err
	}
	return e.cache.Close(ctx)
}

// Module is loaded code, shared by all instances of it.
type Module struct {
	Info *inspect.Module

	engine *Engine
	sha    string
	once   sync.Once // loads
	err    error
	cm     wazero.CompiledModule
	cached bool
	refs   int // guarded by engine.mu
}

// Compiler fills the cache with one module; see Child.
type Compiler func(ctx context.Context, path string) (*Verdict, error)

// Load makes the module in a file ready to be instantiated, and says whether its compiled code was
// there before. The file must have the digest. One load per digest runs at a time. Every Load needs
// a Release.
func (e *Engine) Load(ctx context.Context, path, sha string, compile Compiler) (*Module, bool, error) {
	e.mu.Lock()
	m := e.modules[sha]
	fresh := m == nil
	if fresh {
		m = &Module{engine: e, sha: sha}
		e.modules[sha] = m
	}
	m.refs++
	e.mu.Unlock()
	m.once.Do(func() { m.err = m.load(ctx, path, compile) })
	if m.err != nil {
		m.forget()
		return nil, false, m.err
	}
	return m, !fresh || m.cached, nil
}

func (m *Module) load(ctx context.Context, path string, compile Compiler) (err error) {
	defer func() {
		if r := recover(); r != nil {
			m.engine.store.Remove(m.sha)
			err = fault.Internal(fmt.Errorf("loading %s panicked: %v", m.sha, r), "the module could not be loaded")
		}
	}()
	code, err := os.ReadFile(path)
	if err != nil {
		return fault.New(codes.NotFound, fault.ReasonArtifactNotFound, "the code %s is not on this node", m.sha).Because(err)
	}
	if digest(code) != m.sha {
		return fault.New(codes.DataLoss, fault.ReasonDataLoss, "the code on this node does not have the digest %s", m.sha)
	}
	if m.Info, err = inspect.Check(code, m.engine.imports, inspect.DefaultBounds()); err != nil {
		return err
	}
	_, m.cached = m.engine.store.Lookup(m.sha)
	for attempt := 0; ; attempt++ {
		if !m.cached || attempt > 0 {
			v, err := compile(ctx, path)
			if err != nil {
				return err
			}
			if v.Error != nil {
				return v.Error
			}
		}
		if m.cm, err = m.engine.rt.CompileModule(ctx, m.Info.Binary); err == nil {
			m.Info.Binary = nil
			return nil
		}
		// What the compiler accepted before can only fail now because its cached code is damaged.
		m.engine.store.Remove(m.sha)
		m.cached = false
		if attempt > 0 {
			return fault.Internal(err, "the module could not be loaded")
		}
	}
}

func digest(code []byte) string {
	sum := sha256.Sum256(code)
	return hex.EncodeToString(sum[:])
}

// Release gives up one Load; the last unloads the code.
func (m *Module) Release(ctx context.Context) error {
	if m.forget() {
		return m.cm.Close(ctx)
	}
	return nil
}

// forget drops one reference and tells whether it was the last.
func (m *Module) forget() bool {
	m.engine.mu.Lock()
	defer m.engine.mu.Unlock()
	m.refs--
	if m.refs > 0 && m.err == nil {
		return false
	}
	if m.engine.modules[m.sha] == m {
		delete(m.engine.modules, m.sha)
	}
	return true
}
