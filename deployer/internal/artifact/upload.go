package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"os"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
)

// UploadLimits bound what uploads may take.
type UploadLimits struct {
	// Open is how many may be under way, PerHolder how many of one holder, PerLine of one line of
	// holders; defaults 32, 4 and 16. When all places are taken, the line with the most makes way for
	// one that has fewer.
	Open, PerHolder, PerLine int
	// Line names what the holders that come of one another have in common; by default each holder is
	// a line of its own.
	Line func(holder string) string
	// Live tells whether a holder may still ask for anything; uploads of others are dropped. By default
	// all may.
	Live func(holder string) bool
	// Idle is how long one may stand still before it is dropped; default one minute.
	Idle time.Duration
	// Rate is how many bytes a second one must bring, over its whole time, after Idle; default 16 KiB.
	Rate uint64
	// Bytes of one artifact; default MaxBytes.
	Bytes uint64
}

// maxChunk bounds one chunk.
const maxChunk = 1 << 20

// Uploads takes artifacts in chunks. It is safe for concurrent use.
//
// Lock order: Uploads.mu, then an upload's; an upload's is only tried for where Uploads.mu is held by
// others than Run at its end, so that a slow disk holds up one upload and not all.
type Uploads struct {
	store  *Store
	limits UploadLimits
	sent   *sent

	mu   sync.Mutex
	open map[uploadKey]*upload // mu
}

type uploadKey struct{ holder, name string }

type upload struct {
	sha256 string
	line   string
	begun  time.Time

	mu   sync.Mutex // guards what follows, held while a chunk is written
	file *os.File
	hash hash.Hash
	size uint64
	used time.Time
	gone bool
}

// NewUploads takes uploads into a store; zero limits are the defaults. Run must be running for stale
// uploads to be dropped.
func NewUploads(s *Store, l UploadLimits) *Uploads {
	if l.Open == 0 {
		l.Open = 32
	}
	if l.PerHolder == 0 {
		l.PerHolder = 4
	}
	if l.PerLine == 0 {
		l.PerLine = 16
	}
	if l.Line == nil {
		l.Line = func(holder string) string { return holder }
	}
	if l.Live == nil {
		l.Live = func(string) bool { return true }
	}
	if l.Rate == 0 {
		l.Rate = 16 << 10
	}
	if l.Idle == 0 {
		l.Idle = time.Minute
	}
	if l.Bytes == 0 {
		l.Bytes = MaxBytes
	}
	return &Uploads{store: s, limits: l, sent: newSent(), open: map[uploadKey]*upload{}}
}

// Run drops stale uploads until ctx ends, and then all.
func (u *Uploads) Run(ctx context.Context) {
	t := time.NewTicker(u.limits.Idle / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			u.mu.Lock()
			defer u.mu.Unlock()
			for k, x := range u.open {
				x.mu.Lock()
				u.remove(k, x)
				x.mu.Unlock()
			}
			return
		case now := <-t.C:
			u.mu.Lock()
			u.drop(now)
			u.mu.Unlock()
		}
	}
}

// drop ends the uploads that stand still, that take too long for what they bring, and whose holder may
// ask for nothing any more. One that is being written to is none of them now. u.mu is held.
func (u *Uploads) drop(now time.Time) {
	for k, x := range u.open {
		if !x.mu.TryLock() {
			continue
		}
		due := x.begun.Add(u.limits.Idle + time.Duration(x.size/u.limits.Rate)*time.Second)
		if now.Sub(x.used) >= u.limits.Idle || now.After(due) || !u.limits.Live(k.holder) {
			u.remove(k, x)
		}
		x.mu.Unlock()
	}
}

// makeWay ends an upload of the line that has the most, if that has two more than a newcomer's: the one
// not used for longest. u.mu is held.
func (u *Uploads) makeWay(lines map[string]int, newcomer string) bool {
	var victim *upload
	var at uploadKey
	for k, x := range u.open {
		if lines[x.line] < lines[newcomer]+2 || !x.mu.TryLock() {
			continue
		}
		if victim == nil || lines[x.line] > lines[victim.line] || lines[x.line] == lines[victim.line] && x.used.Before(victim.used) {
			if victim != nil {
				victim.mu.Unlock()
			}
			victim, at = x, k
			continue
		}
		x.mu.Unlock()
	}
	if victim == nil {
		return false
	}
	u.remove(at, victim)
	victim.mu.Unlock()
	return true
}

// remove ends an upload. u.mu and x.mu are held.
func (u *Uploads) remove(k uploadKey, x *upload) {
	x.discard()
	delete(u.open, k)
}

// discard closes and removes the file. x.mu is held.
func (x *upload) discard() {
	if !x.gone {
		x.gone = true
		_ = x.file.Close()
		_ = os.Remove(x.file.Name())
	}
}

// Put takes one chunk of a holder's upload. A chunk that is sent again is taken once; the answer to
// the last one says that the artifact is stored. A digest that this holder has sent before ends the
// upload at once; whether another has is not told.
func (u *Uploads) Put(ctx context.Context, holder string, r *kernelv1.PutChunkRequest) (*kernelv1.PutChunkResponse, error) {
	switch {
	case r.GetUpload() == "" || len(r.GetUpload()) > 128:
		return nil, fault.Invalid("upload", "name this upload with 1 to 128 characters, the same for all its chunks")
	case len(r.GetData()) > maxChunk:
		return nil, fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "data: a chunk has at most 1 MiB").AddField("data", "at most 1 MiB")
	case r.GetSha256() != "" && !ValidDigest(r.GetSha256()):
		return nil, fault.Invalid("sha256", "want 64 characters 0-9, a-f")
	case r.GetOffset()+uint64(len(r.GetData())) > u.limits.Bytes:
		key := uploadKey{holder, r.GetUpload()}
		u.end(key, u.find(key))
		return nil, tooLarge()
	}
	key := uploadKey{holder, r.GetUpload()}
	x := u.find(key)
	if len(r.GetData()) == 0 && !r.GetLast() && (x != nil || r.GetSha256() == "") {
		return nil, fault.Invalid("data", "a chunk that is not the last has at least one byte")
	}
	if x == nil {
		if r.GetSha256() != "" {
			if n, ok := u.store.Has(ctx, r.GetSha256()); ok && u.sent.has(holder, r.GetSha256()) {
				return &kernelv1.PutChunkResponse{Stored: true, Existed: true, Size: uint64(n)}, nil
			}
		}
		if r.GetSha256() != "" && r.GetOffset() == 0 && len(r.GetData()) == 0 && !r.GetLast() {
			return &kernelv1.PutChunkResponse{}, nil // it only asks; a place is for bytes
		}
		if r.GetOffset() != 0 {
			return nil, fault.New(codes.FailedPrecondition, fault.ReasonConflict, "offset: no upload %q of this holder is under way; begin at offset 0", r.GetUpload()).
				With("offset", "0").Next("send the artifact again from the beginning")
		}
		var err error
		if x, err = u.begin(key, r.GetSha256()); err != nil {
			return nil, err
		}
	}
	resp, finished, err := u.take(ctx, holder, x, r)
	if finished {
		u.end(key, x)
	}
	return resp, err
}

func (u *Uploads) find(k uploadKey) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.open[k]
}

func (u *Uploads) begin(k uploadKey, sha string) (*upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if x := u.open[k]; x != nil {
		return x, nil
	}
	u.drop(time.Now())
	mine, lines, line := 0, map[string]int{}, u.limits.Line(k.holder)
	for o, x := range u.open {
		lines[x.line]++
		if o.holder == k.holder {
			mine++
		}
	}
	if mine >= u.limits.PerHolder || lines[line] >= u.limits.PerLine || len(u.open) >= u.limits.Open && !u.makeWay(lines, line) {
		return nil, fault.New(codes.ResourceExhausted, fault.ReasonRateLimited, "%d uploads are under way, %d of this holder and %d of its line; at most %d, %d and %d",
			len(u.open), mine, lines[line], u.limits.Open, u.limits.PerHolder, u.limits.PerLine).Retry(time.Second)
	}
	f, err := u.store.temp()
	if err != nil {
		return nil, fault.Unavailable(time.Second, "uploads cannot be written now").Because(err)
	}
	now := time.Now()
	x := &upload{sha256: sha, line: line, begun: now, file: f, hash: sha256.New(), used: now}
	u.open[k] = x
	return x, nil
}

// end drops an upload, unless another has taken its name; nil is none.
func (u *Uploads) end(k uploadKey, x *upload) {
	if x == nil {
		return
	}
	u.mu.Lock()
	if u.open[k] == x {
		delete(u.open, k)
	}
	u.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.discard()
}

// take writes a chunk. finished says that the upload is over, well or not.
func (u *Uploads) take(ctx context.Context, holder string, x *upload, r *kernelv1.PutChunkRequest) (resp *kernelv1.PutChunkResponse, finished bool, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := uint64(len(r.GetData()))
	switch {
	case x.gone:
		return nil, true, fault.New(codes.Aborted, fault.ReasonConflict, "the upload was dropped; begin again at offset 0").Retry(0).With("offset", "0")
	case r.GetOffset() == x.size:
		if _, err := x.file.Write(r.GetData()); err != nil {
			return nil, true, fault.Unavailable(time.Second, "uploads cannot be written now").Because(err)
		}
		x.hash.Write(r.GetData())
		x.size += n
	case n > 0 && r.GetOffset()+n == x.size: // sent again: its answer was lost
	default:
		return nil, false, fault.New(codes.FailedPrecondition, fault.ReasonConflict, "offset: %d bytes have arrived, the chunk begins at %d", x.size, r.GetOffset()).
			With("offset", strconv.FormatUint(x.size, 10)).Next("continue at the offset in the metadata")
	}
	x.used = time.Now()
	if !r.GetLast() {
		return &kernelv1.PutChunkResponse{Size: x.size}, false, nil
	}
	resp, err = u.finish(ctx, holder, x, r.GetSha256())
	return resp, true, err
}

// finish checks and stores an upload whose lock is held.
func (u *Uploads) finish(ctx context.Context, holder string, x *upload, want string) (*kernelv1.PutChunkResponse, error) {
	sha := hex.EncodeToString(x.hash.Sum(nil))
	if want == "" {
		want = x.sha256
	}
	if want != "" && want != sha {
		return nil, fault.New(codes.InvalidArgument, fault.ReasonInvalidArgument, "sha256: the %d bytes that arrived have SHA-256 %s, not %s", x.size, sha, want).
			AddField("sha256", "is %s", sha)
	}
	if x.size == 0 {
		return nil, fault.Invalid("data", "the artifact is empty")
	}
	if err := x.file.Close(); err != nil { // an executable open for writing cannot be run
		return nil, fault.Unavailable(time.Second, "uploads cannot be written now").Because(err)
	}
	existed := u.sent.has(holder, sha)
	if _, err := u.store.PutFile(ctx, x.file.Name(), sha); err != nil {
		return nil, err
	}
	u.sent.add(holder, sha)
	return &kernelv1.PutChunkResponse{Stored: true, Size: x.size, Existed: existed}, nil
}

// Sent remembers that a holder has sent an artifact's bytes in another way than through Put.
func (u *Uploads) Sent(holder, sha string) { u.sent.add(holder, sha) }

// HasSent tells whether a holder has sent an artifact's bytes, as far as is remembered: of the last
// 4096 holders, the last 64 artifacts each, since this process began.
func (u *Uploads) HasSent(holder, sha string) bool { return u.sent.has(holder, sha) }

// ValidDigest tells whether s is a SHA-256 in lower-case hex.
func ValidDigest(s string) bool {
	if len(s) != 2*sha256.Size {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
