package artifact_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/bus/jstest"
	"github.com/solo-os/solo/deployer/internal/artifact"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
)

func open(t *testing.T, s *jstest.Server, dir string) *artifact.Store {
	t.Helper()
	a, err := artifact.Open(t.Context(), s.JS, dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestArtifactsSurviveTheNodesFiles(t *testing.T) {
	s, dir := jstest.New(t), t.TempDir()
	code := bytes.Repeat([]byte("code"), 100_000)
	a := open(t, s, dir)
	sha, err := a.Put(t.Context(), code)
	if err != nil || sha != artifact.Digest(code) {
		t.Fatal(sha, err)
	}
	path, n, err := a.File(t.Context(), sha)
	if err != nil || n != int64(len(code)) {
		t.Fatal(path, n, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o500 {
		t.Fatal(info, err)
	}
	for name, damage := range map[string]func() error{
		"lost": func() error { return os.Remove(path) },
		"bit": func() error {
			return errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, append([]byte("X"), code[1:]...), 0o600))
		},
		"whole": func() error { return nil },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		// A store opened anew trusts no file.
		b := open(t, s, dir)
		if n, ok := b.Has(t.Context(), sha); !ok || n != int64(len(code)) {
			t.Errorf("%s: %d %v", name, n, ok)
		}
		p, _, err := b.File(t.Context(), sha)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, code) {
			t.Errorf("%s: other bytes, %v", name, err)
		}
		if again, err := b.Put(t.Context(), code); err != nil || again != sha {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The same store notices a file that is gone.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.File(t.Context(), sha); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	a := open(t, jstest.New(t), t.TempDir())
	none := artifact.Digest([]byte("none"))
	if _, _, err := a.File(t.Context(), none); !fault.Is(err, fault.ReasonArtifactNotFound) {
		t.Error(err)
	}
	if _, ok := a.Has(t.Context(), none); ok {
		t.Error("it has nothing")
	}
	if _, err := a.Put(t.Context(), make([]byte, artifact.MaxBytes+1)); !fault.Is(err, fault.ReasonTooLarge) {
		t.Error(err)
	}
	if _, err := a.PutFile(t.Context(), filepath.Join(t.TempDir(), "none"), none); err == nil {
		t.Error("stored a file that does not exist")
	}
}

func TestStoreWithoutTheBus(t *testing.T) {
	s := jstest.New(t)
	a := open(t, s, t.TempDir())
	s.StopServer()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := a.Put(ctx, []byte("x")); fault.From(err).Code != codes.Unavailable {
		t.Error(err)
	}
	s.StartServer()
}

func TestManyPutTheSame(t *testing.T) {
	a := open(t, jstest.New(t), t.TempDir())
	code := bytes.Repeat([]byte("x"), 300_000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := a.Put(t.Context(), code); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestUploads(t *testing.T) {
	dir := t.TempDir()
	a := open(t, jstest.New(t), dir)
	u := artifact.NewUploads(a, artifact.UploadLimits{Open: 3, PerHolder: 2, Bytes: 1000})
	put := func(holder, name string, offset uint64, data string, last bool, sha string) (*kernelv1.PutChunkResponse, error) {
		return u.Put(t.Context(), holder, &kernelv1.PutChunkRequest{Upload: name, Offset: offset, Data: []byte(data), Last: last, Sha256: sha})
	}
	ok := func(r *kernelv1.PutChunkResponse, err error) *kernelv1.PutChunkResponse {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	refused := func(reason string) func(*kernelv1.PutChunkResponse, error) {
		return func(_ *kernelv1.PutChunkResponse, err error) {
			t.Helper()
			if !fault.Is(err, reason) {
				t.Errorf("want %s, got %v", reason, err)
			}
		}
	}
	sha := artifact.Digest([]byte("hello world"))
	ok(put("h", "u", 0, "hello ", false, sha))
	if r := ok(put("h", "u", 0, "hello ", false, sha)); r.GetSize() != 6 {
		t.Errorf("a chunk sent twice counts twice: %v", r)
	}
	refused(fault.ReasonConflict)(put("h", "u", 3, "lo", false, ""))
	if r := ok(put("h", "u", 6, "world", true, "")); !r.GetStored() || r.GetExisted() || r.GetSize() != 11 {
		t.Error(r)
	}
	// The answer was lost, and the last chunk comes again.
	if r := ok(put("h", "u", 6, "world", true, sha)); !r.GetStored() || !r.GetExisted() {
		t.Error(r)
	}
	refused(fault.ReasonConflict)(put("h", "late", 6, "world", true, ""))
	refused(fault.ReasonInvalidArgument)(put("h", "bad", 0, "x", true, sha[:63]+"x"))
	refused(fault.ReasonInvalidArgument)(put("h", "wrong", 0, "x", true, artifact.Digest([]byte("y"))))
	refused(fault.ReasonInvalidArgument)(put("h", "empty", 0, "", true, ""))
	refused(fault.ReasonInvalidArgument)(put("h", "", 0, "x", false, ""))
	refused(fault.ReasonInvalidArgument)(put("h", "form", 0, "x", false, "nothing"))
	refused(fault.ReasonTooLarge)(put("h", "chunk", 0, strings.Repeat("x", 1<<20+1), false, ""))
	ok(put("h", "grow", 0, "x", false, ""))
	refused(fault.ReasonTooLarge)(put("h", "grow", 1, strings.Repeat("x", 1000), false, ""))
	refused(fault.ReasonConflict)(put("h", "grow", 1, "x", false, "")) // it was dropped

	ok(put("h", "1", 0, "x", false, ""))
	ok(put("h", "2", 0, "x", false, ""))
	refused(fault.ReasonRateLimited)(put("h", "3", 0, "x", false, ""))
	ok(put("i", "1", 0, "x", false, ""))
	ok(put("j", "1", 0, "x", false, "")) // h has two, and makes way
	refused(fault.ReasonConflict)(put("h", "1", 1, "x", false, ""))
	refused(fault.ReasonRateLimited)(put("k", "1", 0, "x", false, ""))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u.Run(ctx)
	if left, err := filepath.Glob(filepath.Join(dir, "tmp-*")); err != nil || len(left) != 0 {
		t.Errorf("%v %v", left, err)
	}
}

func TestStaleUploadsAreDropped(t *testing.T) {
	a := open(t, jstest.New(t), t.TempDir())
	u := artifact.NewUploads(a, artifact.UploadLimits{Idle: 20 * time.Millisecond, Open: 1})
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { u.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	if _, err := u.Put(ctx, "h", &kernelv1.PutChunkRequest{Upload: "a", Data: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	for { // there is room for another once the first is dropped
		_, err := u.Put(ctx, "h", &kernelv1.PutChunkRequest{Upload: "b", Data: []byte("x")})
		if err == nil {
			return
		}
		if !fault.Is(err, fault.ReasonRateLimited) {
			t.Fatal(err)
		}
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "tmp-left")
	if err := os.WriteFile(left, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, jstest.New(t), dir)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
