package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"maps"
	"slices"

	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

const (
	// inlineLimit is how many bytes of code a message on the bus carries.
	inlineLimit = 512 << 10
	// filesLimit is how many bytes of source files the contract allows.
	filesLimit = 4 << 20
	chunkSize  = 1 << 20
	// artifactLimit is how many bytes of code the contract allows.
	artifactLimit = 256 << 20
)

// Deploy makes a service run.
func (s *Server) Deploy(ctx context.Context, req *solov1.DeployRequest) (*solov1.DeployResponse, error) {
	of, err := manifestName(req.GetManifest())
	if err != nil {
		return nil, err
	}
	ctx, cancel := patient(ctx, Patience)
	defer cancel()
	if req.Code, err = s.stage(ctx, req.GetCode()); err != nil {
		return nil, err
	}
	resp := &solov1.DeployResponse{}
	return resp, s.ask(ctx, subject.Deployer, "deploy", of, req, resp)
}

// Update starts or steers a rollout.
func (s *Server) Update(ctx context.Context, req *solov1.UpdateRequest) (*solov1.UpdateResponse, error) {
	of, err := manifestName(req.GetManifest())
	if err != nil {
		return nil, err
	}
	ctx, cancel := patient(ctx, Patience)
	defer cancel()
	if req.Code, err = s.stage(ctx, req.GetCode()); err != nil {
		return nil, err
	}
	resp := &solov1.UpdateResponse{}
	return resp, s.ask(ctx, subject.Deployer, "update", of, req, resp)
}

func manifestName(m *solov1.Manifest) (subject.Service, error) {
	of, err := subject.ParseService(m.GetName())
	if err != nil {
		return of, fault.Invalid("manifest.name", "%v", err)
	}
	return of, nil
}

// stage uploads code that is too large for one message and names it by its digest instead.
// Equal code gives an equal message, so a retry is recognised.
func (s *Server) stage(ctx context.Context, code *solov1.Code) (*solov1.Code, error) {
	var blob []byte
	switch k := code.GetKind().(type) {
	case *solov1.Code_Archive:
		blob = k.Archive
	case *solov1.Code_Files:
		total := 0
		for name, b := range k.Files.GetFiles() {
			total += len(name) + len(b)
		}
		if total > filesLimit {
			return nil, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "code.files: %d bytes of source: at most %d", total, filesLimit).AddField("code.files", "%d bytes: at most %d", total, filesLimit)
		}
		if total <= inlineLimit {
			return code, nil
		}
		var err error
		if blob, err = archive(k.Files.GetFiles()); err != nil {
			return nil, fault.Internal(err, "the files cannot be packed")
		}
	}
	if len(blob) <= inlineLimit {
		return code, nil
	}
	sum := sha256.Sum256(blob)
	u := s.newUpload(hex.EncodeToString(sum[:]))
	named := &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: u.want}}
	done, err := u.probe(ctx)
	for rest := blob; err == nil && !done && len(rest) > 0; {
		n := min(chunkSize, len(rest))
		done, err = u.write(ctx, rest[:n])
		rest = rest[n:]
	}
	if err == nil && !done {
		_, err = u.finish(ctx)
	}
	if err != nil {
		return nil, err
	}
	return named, nil
}

// archive packs files into a tar, the same for the same files.
func archive(files map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

// UploadArtifact stores code by its SHA-256.
func (s *Server) UploadArtifact(in grpc.ClientStreamingServer[solov1.UploadArtifactRequest, solov1.UploadArtifactResponse]) error {
	ctx, cancel := patient(in.Context(), Patience)
	defer cancel()
	first, err := in.Recv()
	if errors.Is(err, io.EOF) {
		return fault.Invalid("chunk", "nothing was sent")
	}
	if err != nil {
		return err
	}
	u := s.newUpload(first.GetSha256())
	if u.want != "" {
		if held, err := u.probe(ctx); err != nil || held {
			if err != nil {
				return err
			}
			return in.SendAndClose(u.answer())
		}
	}
	for m := first; ; {
		done, err := u.write(ctx, m.GetChunk())
		if err != nil {
			return err
		}
		if done {
			return in.SendAndClose(u.answer())
		}
		if m, err = in.Recv(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if d := m.GetSha256(); d != "" && d != u.want {
			return fault.Invalid("sha256", "belongs on the first chunk alone")
		}
	}
	resp, err := u.finish(ctx)
	if err != nil {
		return err
	}
	return in.SendAndClose(resp)
}

// upload is code on its way to the deployer, one chunk held back: the last one says so.
type upload struct {
	s       *Server
	id      string
	want    string
	sum     hash.Hash
	sent    uint64
	held    []byte
	existed bool
}

func (s *Server) newUpload(want string) *upload {
	return &upload{s: s, id: rand.Text(), want: want, sum: sha256.New()}
}

// probe asks whether the artifact is there already.
func (u *upload) probe(ctx context.Context) (bool, error) { return u.put(ctx, nil, false) }

// write takes the next bytes; done means that the rest is not needed.
func (u *upload) write(ctx context.Context, b []byte) (done bool, err error) {
	if len(b) == 0 {
		return false, nil
	}
	if u.sent+uint64(len(u.held)+len(b)) > artifactLimit {
		return false, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "chunk: the artifact has more than %d bytes", artifactLimit).AddField("chunk", "at most %d bytes in all", artifactLimit)
	}
	if u.held != nil {
		if done, err := u.put(ctx, u.held, false); err != nil || done {
			return done, err
		}
	}
	u.sum.Write(b)
	u.held = b
	return false, nil
}

// finish sends what is left and returns what is stored.
func (u *upload) finish(ctx context.Context) (*solov1.UploadArtifactResponse, error) {
	if u.held == nil {
		return nil, fault.Invalid("chunk", "nothing was sent")
	}
	got := hex.EncodeToString(u.sum.Sum(nil))
	if u.want != "" && u.want != got {
		return nil, fault.New(codes.InvalidArgument, fault.ReasonInvalidArgument, "sha256: the chunks have the digest %s", got).AddField("sha256", "the chunks have the digest %s", got)
	}
	u.want = got
	if _, err := u.put(ctx, u.held, true); err != nil {
		return nil, err
	}
	return u.answer(), nil
}

func (u *upload) answer() *solov1.UploadArtifactResponse {
	return &solov1.UploadArtifactResponse{Sha256: u.want, Size: u.sent, Existed: u.existed}
}

func (u *upload) put(ctx context.Context, b []byte, last bool) (bool, error) {
	resp := &kernelv1.PutChunkResponse{}
	req := &kernelv1.PutChunkRequest{Sha256: u.want, Upload: u.id, Offset: u.sent, Data: b, Last: last}
	if err := u.s.ask(ctx, subject.Deployer, "upload", subject.Nothing(), req, resp); err != nil {
		return false, err
	}
	u.sent += uint64(len(b))
	if resp.GetStored() || resp.GetExisted() {
		u.sent, u.existed = resp.GetSize(), resp.GetExisted()
		return true, nil
	}
	return false, nil
}
