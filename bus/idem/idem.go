// Package idem makes a mutation happen once for its request id: the first answer is kept for
// 24 hours (bucket `requests`) and given again to every retry of the same holder with the
// same arguments; other arguments under the same id are refused. Failures are not kept: a
// retry tries again. A request that was under way when its component died is taken over by
// the retry, so what it did before must itself bear repeating.
package idem

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/fault"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// pollEvery is how often a retry looks whether the first try has finished.
const pollEvery = 20 * time.Millisecond

// Store remembers answers. One component process has one.
type Store struct {
	kv    jetstream.KeyValue
	owner string
}

type entry struct {
	Digest string `json:"digest"`
	Owner  string `json:"owner,omitempty"` // while under way
	Answer []byte `json:"answer,omitempty"`
	Done   bool   `json:"done,omitempty"`
}

// Open returns the store of a component.
func Open(ctx context.Context, js jetstream.JetStream) (*Store, error) {
	kv, err := js.KeyValue(ctx, stream.Requests)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", stream.Requests, err)
	}
	return &Store{kv, rand.Text()}, nil
}

type message[T any] interface {
	*T
	proto.Message
}

// Do runs f for the first request with the id and gives its answer to the others. keep, if
// not nil, returns what is stored in place of the answer (without its secrets). replayed
// tells whether the answer is a stored one, which lacks its largest fields where it had more than
// MaxAnswer. An empty request id runs f and stores nothing.
func Do[T any, R message[T]](ctx context.Context, s *Store, c rpc.Caller, requestID string, keep func(R) R, f func() (R, error)) (answer R, replayed bool, err error) {
	if requestID == "" {
		answer, err = f()
		return answer, false, err
	}
	holder := c.ID
	if !check.On(check.RequestHolder) {
		holder = ""
	}
	sum := sha256.Sum256([]byte(holder + "\n" + c.Component + "\n" + requestID))
	key := hex.EncodeToString(sum[:])
	digest := c.System.Component + "." + c.Op + " " + c.Service.String() + " " + c.Digest
	rev, done, err := s.begin(ctx, key, digest, requestID)
	if err != nil {
		return nil, false, err
	}
	if done != nil {
		answer = R(new(T))
		if err := proto.Unmarshal(done, answer); err != nil {
			return nil, false, fault.Internal(err, "the kept answer of request %s is unreadable", requestID)
		}
		return answer, true, nil
	}
	answer, err = f()
	// The effect has or has not happened whatever becomes of the caller.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err != nil {
		_ = s.kv.Delete(ctx, key, jetstream.LastRevision(rev)) // a retry takes the entry over if it stays
		return nil, false, err
	}
	kept := answer
	if keep != nil {
		kept = keep(answer)
	}
	b, merr := proto.Marshal(reduced(kept))
	if merr != nil {
		return nil, false, fault.Internal(merr, "the answer cannot be encoded")
	}
	if _, err := s.put(ctx, key, entry{Digest: digest, Answer: b, Done: true}, rev); err != nil {
		return nil, false, fault.Unavailable(time.Second, "it was done, but the answer could not be kept; repeat with the same request_id").Because(err)
	}
	return answer, false, nil
}

func (s *Store) put(ctx context.Context, key string, e entry, rev uint64) (uint64, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return 0, err
	}
	return stream.RetryInFlight(ctx, func() (uint64, error) {
		if rev == 0 {
			return s.kv.Create(ctx, key, b)
		}
		return s.kv.Update(ctx, key, b, rev)
	})
}

// begin claims the key, or returns the kept answer.
func (s *Store) begin(ctx context.Context, key, digest, requestID string) (rev uint64, answer []byte, err error) {
	underWay := fault.New(codes.Aborted, fault.ReasonConflict, "request %s is still under way", requestID).Retry(time.Second)
	for waited := false; ; waited = true {
		rev, err = s.put(ctx, key, entry{Digest: digest, Owner: s.owner}, 0)
		if err == nil {
			return rev, nil, nil
		}
		if waited && ctx.Err() != nil {
			return 0, nil, underWay
		}
		if !stream.Lost(err) {
			return 0, nil, fault.Unavailable(time.Second, "request ids cannot be checked now").Because(err)
		}
		v, err := s.kv.Get(ctx, key)
		if errors.Is(err, jetstream.ErrKeyNotFound) {
			continue // the first try has just failed
		}
		switch {
		case err != nil && waited && ctx.Err() != nil:
			return 0, nil, underWay
		case err != nil:
			return 0, nil, fault.Unavailable(time.Second, "request ids cannot be checked now").Because(err)
		}
		var e entry
		if err := json.Unmarshal(v.Value(), &e); err != nil {
			return 0, nil, fault.Internal(err, "the entry of request %s is unreadable", requestID)
		}
		switch {
		case e.Digest != digest:
			return 0, nil, fault.New(codes.InvalidArgument, fault.ReasonRequestIDReused, "request_id %q was used with other arguments", requestID).
				AddField("request_id", "use a new one for a new request").Next("repeat with a fresh request_id")
		case e.Done:
			if e.Answer == nil {
				e.Answer = []byte{}
			}
			return 0, e.Answer, nil
		case e.Owner != s.owner: // its component died in the middle
			if rev, err = s.put(ctx, key, entry{Digest: digest, Owner: s.owner}, v.Revision()); err == nil {
				return rev, nil, nil
			}
			continue
		}
		select {
		case <-ctx.Done():
			return 0, nil, underWay
		case <-time.After(pollEvery):
		}
	}
}
