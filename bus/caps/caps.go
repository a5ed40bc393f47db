// Package caps is the form in which capability events are stored: each names the hash of the
// record before it and is signed by the node's chain key, so that a changed, dropped,
// inserted or reordered record does not go unnoticed. A Head kept outside the store notices
// a truncated or rolled-back one.
package caps

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/stream"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"google.golang.org/protobuf/proto"
)

const (
	eventContext = "solo CapEvent v1\n"
	headContext  = "solo CAPS head v1\n"
)

// ErrBroken is wrapped by every error that means the records do not fit together.
var ErrBroken = errors.New("the capability chain is broken")

// Hash of a stored record.
type Hash = [sha256.Size]byte

// Link is a position in the chain: how many records there are and the hash of the last.
type Link struct {
	Sequence uint64
	Hash     Hash
}

// Seal gives ev its place after l, signs it, and returns the record to store and the link it
// makes. ev.Sequence and ev.Previous are set.
func (l Link) Seal(key nkeys.KeyPair, ev *kernelv1.CapEvent) ([]byte, Link, error) {
	ev.Sequence, ev.Previous = l.Sequence+1, l.Hash[:]
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(ev)
	if err != nil {
		return nil, l, err
	}
	sig, err := key.Sign(append([]byte(eventContext), b...))
	if err != nil {
		return nil, l, err
	}
	rec, err := proto.MarshalOptions{Deterministic: true}.Marshal(&kernelv1.SignedCapEvent{Event: b, Signature: sig})
	if err != nil {
		return nil, l, err
	}
	return rec, Link{ev.Sequence, sha256.Sum256(rec)}, nil
}

// Open verifies that rec follows l and was signed by the chain key with public key pub.
func (l Link) Open(pub string, rec []byte) (*kernelv1.CapEvent, Link, error) {
	broken := func(f string, a ...any) (*kernelv1.CapEvent, Link, error) {
		return nil, l, fmt.Errorf("%w at record %d: %s", ErrBroken, l.Sequence+1, fmt.Sprintf(f, a...))
	}
	var s kernelv1.SignedCapEvent
	if err := proto.Unmarshal(rec, &s); err != nil {
		return broken("unreadable: %v", err)
	}
	key, err := nkeys.FromPublicKey(pub)
	if err != nil {
		return nil, l, fmt.Errorf("chain key: %w", err)
	}
	if err := key.Verify(append([]byte(eventContext), s.Event...), s.Signature); err != nil {
		return broken("the signature does not hold")
	}
	ev := &kernelv1.CapEvent{}
	if err := proto.Unmarshal(s.Event, ev); err != nil {
		return broken("unreadable event: %v", err)
	}
	if ev.Sequence != l.Sequence+1 {
		return broken("it is numbered %d", ev.Sequence)
	}
	if string(ev.Previous) != string(l.Hash[:]) {
		return broken("it does not follow the record before it")
	}
	return ev, Link{ev.Sequence, sha256.Sum256(rec)}, nil
}

// Load reads and verifies the whole stream in order, hands each event to apply, and checks
// that the chain reaches head. Any gap, change or missing tail is an ErrBroken.
func Load(ctx context.Context, js jetstream.JetStream, pub string, head Link, apply func(*kernelv1.CapEvent) error) (Link, error) {
	var l Link
	s, err := js.Stream(ctx, stream.Caps)
	if err != nil {
		return l, fmt.Errorf("stream %s: %w", stream.Caps, err)
	}
	last := s.CachedInfo().State.LastSeq
	ctx, cancel := context.WithCancel(ctx)
	ahead := readAhead(ctx, s, last)
	defer func() {
		cancel()
		for x := range ahead {
			<-x
		}
	}()
	for seq := uint64(1); seq <= last; seq++ {
		place, more := <-ahead
		if !more {
			return l, ctx.Err()
		}
		x := <-place
		if errors.Is(x.err, jetstream.ErrMsgNotFound) {
			return l, fmt.Errorf("%w at record %d: it is missing, though the store goes on to %d", ErrBroken, seq, last)
		}
		if x.err != nil {
			return l, fmt.Errorf("stream %s, record %d: %w", stream.Caps, seq, x.err)
		}
		var ev *kernelv1.CapEvent
		if ev, l, err = l.Open(pub, x.data); err != nil {
			return l, err
		}
		if seq == head.Sequence && l.Hash != head.Hash {
			return l, fmt.Errorf("%w at record %d: it is not the record that the signed head names", ErrBroken, seq)
		}
		if err := apply(ev); err != nil {
			return l, fmt.Errorf("record %d: %w", seq, err)
		}
	}
	if last < head.Sequence {
		return l, fmt.Errorf("%w: the store ends at record %d, the signed head names %d: records were cut off, or the store is an old copy", ErrBroken, last, head.Sequence)
	}
	return l, nil
}

// window is how many records are asked for at the same time.
const window = 64

type record struct {
	data []byte
	err  error
}

// readAhead asks for records 1 to last and gives a place for each answer, in their order,
// until ctx ends. The places must be taken until there are no more.
func readAhead(ctx context.Context, s jetstream.Stream, last uint64) <-chan chan record {
	out := make(chan chan record, window)
	go func() {
		defer close(out)
		for seq := uint64(1); seq <= last && ctx.Err() == nil; seq++ {
			x := make(chan record, 1)
			out <- x
			go func() {
				m, err := s.GetMsg(ctx, seq)
				if err != nil {
					x <- record{err: err}
					return
				}
				x <- record{data: m.Data}
			}()
		}
	}()
	return out
}

type headFile struct {
	Sequence  uint64 `json:"sequence"`
	Hash      string `json:"hash"`
	Signature string `json:"signature"`
}

func headBytes(seq uint64, hash string) []byte {
	return fmt.Appendf([]byte(headContext), "%d\n%s\n", seq, hash)
}

// SaveHead writes the signed head to a file, atomically and durably.
func SaveHead(path string, key nkeys.KeyPair, l Link) error {
	h := headFile{Sequence: l.Sequence, Hash: hex.EncodeToString(l.Hash[:])}
	sig, err := key.Sign(headBytes(h.Sequence, h.Hash))
	if err != nil {
		return err
	}
	h.Signature = base64.StdEncoding.EncodeToString(sig)
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".head-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// LoadHead reads what SaveHead wrote; a file that does not exist is the zero Link, and
// exists is false.
func LoadHead(path, pub string) (l Link, exists bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Link{}, false, nil
	}
	if err != nil {
		return Link{}, false, err
	}
	var h headFile
	if err := json.Unmarshal(b, &h); err != nil {
		return Link{}, true, fmt.Errorf("%w: the head %s is unreadable: %v", ErrBroken, path, err)
	}
	key, err := nkeys.FromPublicKey(pub)
	if err != nil {
		return Link{}, true, err
	}
	sig, err := base64.StdEncoding.DecodeString(h.Signature)
	hash, herr := hex.DecodeString(h.Hash)
	if err != nil || herr != nil || len(hash) != len(l.Hash) || key.Verify(headBytes(h.Sequence, h.Hash), sig) != nil {
		return Link{}, true, fmt.Errorf("%w: the signature of the head %s does not hold", ErrBroken, path)
	}
	l.Sequence = h.Sequence
	copy(l.Hash[:], hash)
	return l, true, nil
}
