package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/deployer/internal/artifact"
	"github.com/solo-os/solo/deployer/internal/elfcheck"
	"github.com/solo-os/solo/deployer/internal/gobuild"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// maxCompiled bounds how many compiled modules are remembered.
const maxCompiled = 1 << 16

// code is a program that can be placed.
type code struct {
	// source is the digest of what was sent, sha of what runs.
	source, sha string
	// cached says that nothing had to be built or compiled.
	cached      bool
	diagnostics []*solov1.Diagnostic
}

// prepare builds and checks the code of a manifest, and has it stored if keep says so. What it refuses
// is not stored. A digest
// stands for code only where the namespace keeps a revision with it or the caller has sent the bytes:
// to all others it is unknown.
func (c *Controller) prepare(ctx context.Context, caller rpc.Caller, m *solov1.Manifest, in *solov1.Code, keep bool) (*code, error) {
	if in.GetFiles() != nil && m.GetFormat() != solov1.Format_FORMAT_GO_SOURCE {
		return nil, fault.Invalid("code.files", "files are Go source; a %s is sent as code.archive or by code.sha256", format(m))
	}
	if b := in.GetArchive(); in.GetFiles() == nil && in.GetSha256() == "" && len(b) == 0 {
		return nil, fault.Invalid("code", "the code is empty")
	}
	if sha := in.GetSha256(); sha != "" && !c.uploads.HasSent(caller.ID, sha) && !c.book.keeps(namespaceOf(m.GetName()), sha) {
		return nil, artifact.NotFound(sha)
	}
	var out *code
	var err error
	switch m.GetFormat() {
	case solov1.Format_FORMAT_GO_SOURCE:
		out, err = c.prepareSource(ctx, m, in, keep)
	case solov1.Format_FORMAT_WASM:
		out, err = c.prepareModule(ctx, m, in, keep)
	case solov1.Format_FORMAT_BINARY:
		out, err = c.prepareBinary(ctx, in, keep)
	default:
		return nil, fault.Invalid("manifest.format", "say what the code is: go, wasm or binary")
	}
	if err != nil {
		return nil, err
	}
	if in.GetSha256() == "" && keep {
		c.uploads.Sent(caller.ID, out.source)
	}
	return out, nil
}

func (c *Controller) prepareSource(ctx context.Context, m *solov1.Manifest, in *solov1.Code, keep bool) (*code, error) {
	source, archive, err := c.source(ctx, in)
	if err != nil {
		return nil, err
	}
	if !keep {
		return c.checkSource(ctx, m, source)
	}
	out := &code{source: in.GetSha256()}
	var g errgroup.Group
	g.Go(func() (err error) {
		if out.source == "" {
			out.source, err = c.o.Artifacts.Put(ctx, archive)
		}
		return err
	})
	var built *gobuild.Result
	var bad error // of the source: more to the point than a failure to store it
	g.Go(func() error {
		built, bad = c.o.Builder.Build(ctx, source)
		return nil
	})
	if err := g.Wait(); bad != nil || err != nil {
		if bad != nil {
			return nil, bad
		}
		return nil, err
	}
	out.sha, out.diagnostics = built.SHA256, built.Diagnostics
	path, _, err := c.o.Artifacts.File(ctx, out.sha)
	if err != nil {
		return nil, err
	}
	compiled, err := c.compile(ctx, m, out.sha, path)
	out.cached = built.Cached && compiled
	return out, err
}

// checkSource builds and compiles a source of which nothing is to stay.
func (c *Controller) checkSource(ctx context.Context, m *solov1.Manifest, source *gobuild.Source) (*code, error) {
	built, err := c.o.Builder.Check(ctx, source)
	if err != nil {
		return nil, err
	}
	var path string
	if built.Cached {
		path, _, err = c.o.Artifacts.File(ctx, built.SHA256)
	} else if path, err = c.o.Artifacts.Scratch(built.Module); err == nil {
		defer os.Remove(path)
	}
	if err != nil {
		return nil, err
	}
	compiled, err := c.compile(ctx, m, built.SHA256, path)
	return &code{sha: built.SHA256, cached: built.Cached && compiled, diagnostics: built.Diagnostics}, err
}

// source reads Go source and its form as an archive.
func (c *Controller) source(ctx context.Context, in *solov1.Code) (s *gobuild.Source, archive []byte, err error) {
	if in.GetFiles() != nil {
		if s, err = gobuild.FromFiles(in.GetFiles().GetFiles()); err != nil {
			return nil, nil, err
		}
		if archive, err = s.Tar(); err != nil {
			return nil, nil, fault.Internal(err, "the source cannot be archived")
		}
		return s, archive, nil
	}
	archive = in.GetArchive()
	if sha := in.GetSha256(); sha != "" {
		path, size, err := c.o.Artifacts.File(ctx, sha)
		if err != nil {
			return nil, nil, err
		}
		if size > 2*gobuild.MaxBytes {
			return nil, nil, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "code.sha256: the artifact has %d bytes; an archive of Go source has at most %d MiB", size, gobuild.MaxBytes>>20).
				AddField("code.sha256", "too large for an archive of source")
		}
		if archive, err = os.ReadFile(path); err != nil {
			return nil, nil, fault.Internal(err, "the artifact cannot be read")
		}
	}
	s, err = gobuild.FromTar(archive)
	return s, archive, err
}

func (c *Controller) prepareModule(ctx context.Context, m *solov1.Manifest, in *solov1.Code, keep bool) (*code, error) {
	if sha := in.GetSha256(); sha != "" {
		path, _, err := c.o.Artifacts.File(ctx, sha)
		if err != nil {
			return nil, err
		}
		cached, err := c.compile(ctx, m, sha, path)
		return &code{source: sha, sha: sha, cached: cached}, err
	}
	b := in.GetArchive()
	sha := artifact.Digest(b)
	if !c.isCompiled(sha) {
		scratch, err := c.o.Artifacts.Scratch(b)
		if err != nil {
			return nil, err
		}
		defer os.Remove(scratch)
		cached, err := c.compile(ctx, m, sha, scratch)
		if err != nil {
			return nil, err
		}
		if keep {
			_, err = c.o.Artifacts.Put(ctx, b)
		}
		return &code{source: sha, sha: sha, cached: cached}, err
	}
	_, err := c.compile(ctx, m, sha, "")
	if err == nil && keep {
		_, err = c.o.Artifacts.Put(ctx, b)
	}
	return &code{source: sha, sha: sha, cached: true}, err
}

func (c *Controller) isCompiled(sha string) bool {
	c.seenMu.Lock()
	defer c.seenMu.Unlock()
	_, ok := c.compiled[sha]
	return ok
}

// compile has a module validated and compiled in a child, unless that is known to have happened,
// and checks that it fits its limit.
func (c *Controller) compile(ctx context.Context, m *solov1.Manifest, sha, path string) (cached bool, err error) {
	c.seenMu.Lock()
	need, cached := c.compiled[sha]
	c.seenMu.Unlock()
	if !cached {
		select {
		case c.compiling <- struct{}{}:
			defer func() { <-c.compiling }()
		case <-ctx.Done():
			return false, fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "too many modules are being compiled").Retry(time.Second)
		}
		v, err := c.o.Compiler.Compile(ctx, path)
		if err != nil {
			return false, fault.From(err)
		}
		if v.Error != nil {
			return false, v.Error.AddField("code", "%s", v.Error.Message)
		}
		if v.SHA256 != sha {
			return false, fault.Internal(fmt.Errorf("the compiler read %s instead of %s", v.SHA256, sha), "the module changed while it was compiled")
		}
		c.seenMu.Lock()
		if len(c.compiled) >= maxCompiled {
			clear(c.compiled) // the compiler's cache on disk knows them
		}
		c.compiled[sha] = v.MemoryBytes
		c.seenMu.Unlock()
		need, cached = v.MemoryBytes, v.Cached
	}
	if limit := m.GetLimits().GetMemoryBytes(); need > limit {
		return false, fault.New(codes.InvalidArgument, fault.ReasonManifestInvalid, "manifest.limits.memory_bytes: the module starts with %d bytes of memory, the limit is %d", need, limit).
			AddField("manifest.limits.memory_bytes", "at least %d", need)
	}
	return cached, nil
}

func (c *Controller) prepareBinary(ctx context.Context, in *solov1.Code, keep bool) (*code, error) {
	if sha := in.GetSha256(); sha != "" {
		path, size, err := c.o.Artifacts.File(ctx, sha)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, fault.Internal(err, "the artifact cannot be read")
		}
		err = errors.Join(elfcheck.Check(f, size), f.Close())
		return &code{source: sha, sha: sha, cached: true}, err
	}
	b := in.GetArchive()
	if err := elfcheck.Check(bytes.NewReader(b), int64(len(b))); err != nil {
		return nil, err
	}
	sha := artifact.Digest(b)
	if !keep {
		return &code{source: sha, sha: sha, cached: true}, nil
	}
	_, err := c.o.Artifacts.Put(ctx, b)
	return &code{source: sha, sha: sha, cached: true}, err
}
