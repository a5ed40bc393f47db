package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"

	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/grpc/codes"
)

const (
	// InlineLimit is how many bytes of code a Deploy or Update may carry itself.
	InlineLimit = 4 << 20
	// ArtifactLimit is how many bytes an artifact may have.
	ArtifactLimit = 256 << 20
	chunk         = 1 << 20
)

// Upload is code on its way to Solo.
type Upload struct {
	// Source is read twice: once for its digest, once to send it.
	Source io.ReadSeeker
	// Progress hears after each chunk how many bytes of how many are sent; may be nil.
	Progress func(sent, total int64)
}

// UploadArtifact stores code by its SHA-256 and returns that. Solo is asked first: what it
// holds already is not sent again.
func (c *Client) UploadArtifact(ctx context.Context, u Upload) (*solov1.UploadArtifactResponse, error) {
	h := sha256.New()
	total, err := io.Copy(h, u.Source)
	if err != nil {
		return nil, fault.Internal(err, "the code cannot be read: %v", err)
	}
	if total > ArtifactLimit {
		return nil, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "the code has %d bytes: at most %d", total, int64(ArtifactLimit))
	}
	if _, err := u.Source.Seek(0, io.SeekStart); err != nil {
		return nil, fault.Internal(err, "the code cannot be read again: %v", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.dial.ready(ctx); err != nil {
		return nil, err
	}
	s, err := c.rpc.UploadArtifact(ctx)
	if err != nil {
		return nil, failure(ctx, err)
	}
	// The digest goes alone, so that Solo can answer before anything large is under way.
	err = s.Send(&solov1.UploadArtifactRequest{Sha256: hex.EncodeToString(h.Sum(nil))})
	buf := make([]byte, chunk)
	for sent := int64(0); err == nil && sent < total; {
		n, rerr := io.ReadFull(u.Source, buf)
		if n == 0 && rerr != nil {
			return nil, fault.Internal(rerr, "the code changed while it was read")
		}
		// grpc encodes before Send returns, so the buffer is free again.
		if err = s.Send(&solov1.UploadArtifactRequest{Chunk: buf[:n]}); err == nil {
			sent += int64(n)
			if u.Progress != nil {
				u.Progress(sent, total)
			}
		}
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: Solo has answered already, with what CloseAndRecv returns
		return nil, failure(ctx, err)
	}
	resp, err := s.CloseAndRecv()
	if err != nil {
		return nil, failure(ctx, err)
	}
	return resp, nil
}

// Code makes the code of a Deploy or Update: inline when it is small, uploaded when it is not.
func (c *Client) Code(ctx context.Context, u Upload) (*solov1.Code, error) {
	small, err := io.ReadAll(io.LimitReader(u.Source, InlineLimit+1))
	if err != nil {
		return nil, fault.Internal(err, "the code cannot be read: %v", err)
	}
	if len(small) <= InlineLimit {
		return &solov1.Code{Kind: &solov1.Code_Archive{Archive: small}}, nil
	}
	if _, err := u.Source.Seek(0, io.SeekStart); err != nil {
		return nil, fault.Internal(err, "the code cannot be read again: %v", err)
	}
	resp, err := c.UploadArtifact(ctx, u)
	if err != nil {
		return nil, err
	}
	return &solov1.Code{Kind: &solov1.Code_Sha256{Sha256: resp.GetSha256()}}, nil
}
