// Package artifact keeps code by its SHA-256: in the object store `artifacts`, which is the truth,
// and as a file on this node, which is what runs. Equal bytes are kept once. A file is shown only
// when it is complete and its digest has been checked, by this process; a damaged or missing file is
// fetched again. Files are read-only and executable, so that a native service runs from its file.
//
// Uploads arrive in chunks, bounded in size and number; what is not continued for a while is dropped.
package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
)

// MaxBytes bounds one artifact.
const MaxBytes = 256 << 20

// fileMode lets nobody write, and lets a native service be executed.
const fileMode = 0o500

// putTimeout bounds how long the object store may take for one artifact.
const putTimeout = time.Minute

// Store is safe for concurrent use.
type Store struct {
	dir    string
	obs    jetstream.ObjectStore
	flight singleflight.Group

	mu    sync.Mutex
	known map[string]int64 // mu; size by digest, of files checked by this process and stored
}

// Open uses a directory, which it makes, and the object store.
func Open(ctx context.Context, js jetstream.JetStream, dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("artifacts: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "tmp-*"))
	if err != nil {
		return nil, err
	}
	for _, f := range left {
		_ = os.Remove(f) // of a process that died; one that stays only takes space
	}
	obs, err := js.ObjectStore(ctx, stream.Artifacts)
	if err != nil {
		return nil, fmt.Errorf("object store %s: %w", stream.Artifacts, err)
	}
	return &Store{dir: dir, obs: obs, known: map[string]int64{}}, nil
}

// Digest is the name of bytes.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (s *Store) path(sha string) string { return filepath.Join(s.dir, sha) }

func (s *Store) size(sha string) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.known[sha]
	return n, ok
}

func (s *Store) remember(sha string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[sha] = size
}

// Put stores bytes and returns their digest once they are durable.
func (s *Store) Put(ctx context.Context, b []byte) (sha string, err error) {
	if len(b) > MaxBytes {
		return "", tooLarge()
	}
	sha = Digest(b)
	_, err = s.once(ctx, sha, func(ctx context.Context) error {
		tmp, err := s.temp()
		if err != nil {
			return err
		}
		_, err = tmp.Write(b)
		if err = errors.Join(err, tmp.Close()); err != nil {
			_ = os.Remove(tmp.Name())
			return err
		}
		return s.keep(ctx, sha, tmp.Name(), int64(len(b)), bytes.NewReader(b))
	})
	return sha, err
}

// PutFile stores a file of this store's own temporary ones, whose digest the caller has computed,
// and takes it over.
func (s *Store) PutFile(ctx context.Context, path, sha string) (size int64, err error) {
	defer os.Remove(path)
	info, err := os.Stat(path)
	if err != nil {
		return 0, fault.Internal(err, "the artifact cannot be stored")
	}
	return s.once(ctx, sha, func(ctx context.Context) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return s.keep(ctx, sha, path, info.Size(), f)
	})
}

// once stores an artifact unless it is there, once for all who ask at the same time.
func (s *Store) once(ctx context.Context, sha string, store func(context.Context) error) (int64, error) {
	if n, ok := s.size(sha); ok {
		if _, err := os.Stat(s.path(sha)); err == nil {
			return n, nil
		}
	}
	if err := s.shared(ctx, "put "+sha, store); err != nil {
		return 0, fault.Unavailable(time.Second, "the artifact could not be stored").Because(err)
	}
	n, _ := s.size(sha)
	return n, nil
}

// shared does work once for all who wait for it under a key. It does not end with the first of them,
// but after putTimeout at the latest; whoever gives up waiting gets a fault.
func (s *Store) shared(ctx context.Context, key string, f func(context.Context) error) error {
	done := s.flight.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putTimeout)
		defer cancel()
		return nil, f(ctx)
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return fault.Unavailable(time.Second, "the object store does not answer in time").Because(ctx.Err())
	}
}

// keep brings the content to the object store and then shows the file.
func (s *Store) keep(ctx context.Context, sha, tmp string, size int64, content io.Reader) error {
	info, err := s.obs.GetInfo(ctx, sha)
	switch {
	case err == nil && int64(info.Size) == size:
	case err == nil || errors.Is(err, jetstream.ErrObjectNotFound):
		if _, err := s.obs.Put(ctx, jetstream.ObjectMeta{Name: sha}, content); err != nil {
			return err
		}
	default:
		return err
	}
	return s.show(sha, tmp, size)
}

func (s *Store) show(sha, tmp string, size int64) error {
	if err := os.Chmod(tmp, fileMode); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path(sha)); err != nil {
		return err
	}
	s.remember(sha, size)
	return nil
}

// Scratch writes bytes to a file that is not kept; the caller removes it.
func (s *Store) Scratch(b []byte) (path string, err error) {
	f, err := s.temp()
	if err != nil {
		return "", fault.Unavailable(time.Second, "code cannot be written now").Because(err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(f.Name())
		return "", fault.Unavailable(time.Second, "code cannot be written now").Because(err)
	}
	return f.Name(), nil
}

// temp makes a file in the store's directory, to be renamed.
func (s *Store) temp() (*os.File, error) { return os.CreateTemp(s.dir, "tmp-") }

// Has tells whether an artifact is stored, and its size.
func (s *Store) Has(ctx context.Context, sha string) (int64, bool) {
	if n, ok := s.size(sha); ok {
		return n, true
	}
	info, err := s.obs.GetInfo(ctx, sha)
	if err != nil {
		return 0, false
	}
	return int64(info.Size), true
}

// File returns the path of an artifact on this node, fetched if need be. The fault is
// ARTIFACT_NOT_FOUND when nothing of that digest is stored.
func (s *Store) File(ctx context.Context, sha string) (path string, size int64, err error) {
	path = s.path(sha)
	if n, ok := s.size(sha); ok {
		if _, err := os.Stat(path); err == nil {
			return path, n, nil
		}
	}
	if err := s.shared(ctx, "get "+sha, func(ctx context.Context) error { return s.fetch(ctx, sha) }); err != nil {
		return "", 0, err
	}
	n, _ := s.size(sha)
	return path, n, nil
}

// fetch checks the file that is there, or gets it from the object store.
func (s *Store) fetch(ctx context.Context, sha string) error {
	if n, err := s.verify(sha); err == nil {
		s.remember(sha, n)
		return nil
	}
	r, err := s.obs.Get(ctx, sha)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return NotFound(sha)
	}
	if err != nil {
		return fault.Unavailable(time.Second, "the artifact %s cannot be read now", sha).Because(err)
	}
	defer r.Close()
	tmp, err := s.temp()
	if err != nil {
		return fault.Internal(err, "the artifact cannot be kept on this node")
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, h), r)
	err = errors.Join(err, tmp.Close())
	if err == nil && hex.EncodeToString(h.Sum(nil)) != sha {
		err = errors.New("the object store holds other bytes under this digest")
	}
	if err == nil {
		err = s.show(sha, tmp.Name(), n)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return fault.Unavailable(time.Second, "the artifact %s cannot be read now", sha).Because(err)
	}
	return nil
}

// verify checks the file's digest; a file that fails is removed.
func (s *Store) verify(sha string) (int64, error) {
	f, err := os.Open(s.path(sha))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && hex.EncodeToString(h.Sum(nil)) != sha {
		err = errors.New("damaged")
	}
	if err != nil {
		_ = os.Remove(s.path(sha))
	}
	return n, err
}

// NotFound is the fault for an artifact that is not stored, or that the asking holder may not know of.
func NotFound(sha string) error {
	return fault.New(codes.NotFound, fault.ReasonArtifactNotFound, "no artifact with SHA-256 %s is stored", sha).
		AddField("code.sha256", "unknown").Next("upload the code first (UploadArtifact), or send it inline")
}

func tooLarge() error {
	return fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "the artifact is larger than %d MiB", MaxBytes>>20).
		AddField("data", "at most %d MiB in all", MaxBytes>>20)
}
