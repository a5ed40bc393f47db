package rpc

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// maxCredit bounds what a reader may ask to have under way.
const maxCredit = 1024

// writer is the writing end of a stream.
type writer struct {
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	credit int
	seen   time.Time
	wake   chan struct{}
}

// end closes the stream with a fault.
func (w *writer) end(err error) { w.cancel(err) }

func (w *writer) give(n int) {
	w.mu.Lock()
	w.credit = min(w.credit+n, maxCredit)
	w.seen = time.Now()
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take waits for one credit.
func (w *writer) take(ctx context.Context) error {
	for {
		w.mu.Lock()
		if w.credit > 0 {
			w.credit--
			w.mu.Unlock()
			return nil
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.wake:
		}
	}
}

// recheckEvery is how soon a stream that has nothing to send ends after its reader's capability.
const recheckEvery = 500 * time.Millisecond

// watch ends the stream when its reader has been silent for too long, or may not read any more.
func (w *writer) watch(ctx context.Context, patience time.Duration, recheck func() error) {
	t := time.NewTicker(min(patience/4, recheckEvery))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if err := recheck(); err != nil && !fault.Is(err, fault.ReasonLeaseExpired) {
				w.end(err)
				return
			}
			w.mu.Lock()
			idle := time.Since(w.seen)
			w.mu.Unlock()
			if idle > patience {
				w.end(fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "the reader of the stream gave no sign for %s", patience))
				return
			}
		}
	}
}

// errReaderGone ends a stream whose reader wants no more.
var errReaderGone = errors.New("the reader has closed the stream")

func (s *Server) onStream(m *nats.Msg) {
	c, err := s.admit(m)
	key := c.ID + " " + m.Header.Get(HeaderStream)
	credit := m.Header.Get(HeaderCredit)
	if err == nil && c.Op == subject.StreamCredit {
		s.onCredit(key, credit)
		return
	}
	if m.Reply == "" {
		return
	}
	if err != nil {
		s.endStream(m, 0, err)
		return
	}
	if s.streams[c.Op] == nil {
		s.endStream(m, 0, fault.New(codes.Unimplemented, fault.ReasonUnimplemented, "%s has no stream %q", s.o.Component, c.Op))
		return
	}
	n, cerr := strconv.Atoi(credit)
	if cerr != nil || n <= 0 {
		n = 1 // a plain request: one answer, then wait for credit
	}
	if !s.lanes.enter(c.ID, c.family) {
		s.endStream(m, 0, s.busy())
		return
	}
	ctx, cancel := context.WithCancelCause(s.run)
	w := &writer{cancel: cancel, credit: min(n, maxCredit), seen: time.Now(), wake: make(chan struct{}, 1)}
	if err := s.beginStream(key, w); err != nil {
		cancel(nil)
		s.lanes.leave(c.ID, c.family)
		s.endStream(m, 0, err)
		return
	}
	s.wg.Go(func() { w.watch(ctx, s.o.StreamIdle, c.Recheck) })
	go func() {
		defer s.wg.Done()
		defer s.lanes.leave(c.ID, c.family)
		seq, err := s.write(ctx, w, c, m)
		cause := context.Cause(ctx)
		cancel(nil)
		s.mu.Lock()
		delete(s.open, key)
		s.mu.Unlock()
		if errors.Is(cause, errReaderGone) {
			return // nobody listens for an end
		}
		if err != nil && cause != nil {
			err = cause
		}
		s.endStream(m, seq, s.ended(err))
	}()
}

// beginStream counts a stream and opens it for credits, unless the server is closing.
func (s *Server) beginStream(key string, w *writer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return s.stopping()
	}
	if s.open[key] != nil {
		return fault.New(codes.AlreadyExists, fault.ReasonInvalidArgument, "the stream id is in use: open each stream with its own %s header", HeaderStream)
	}
	s.open[key] = w
	s.wg.Add(1)
	return nil
}

// onCredit takes the sign of a reader: "+n" more answers, "0" no more at all.
func (s *Server) onCredit(key, credit string) {
	s.mu.Lock()
	w := s.open[key]
	s.mu.Unlock()
	if w == nil {
		return
	}
	if credit == "0" {
		w.end(errReaderGone)
		return
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(credit, "+")); err == nil && n >= 0 {
		w.give(n)
	}
}

// write runs a stream and returns how many answers it sent.
func (s *Server) write(ctx context.Context, w *writer, c Caller, m *nats.Msg) (seq uint64, err error) {
	json := isJSON(m.Header)
	send := func(v proto.Message) error {
		if err := w.take(ctx); err != nil {
			return err
		}
		if err := c.Recheck(); err != nil {
			return err
		}
		b, err := encode(json, v)
		if err != nil {
			return err
		}
		r := s.streamMessage(m)
		r.Data = b
		r.Header.Set(HeaderSequence, strconv.FormatUint(seq+1, 10))
		if err := s.o.Conn.PublishMsg(r); err != nil {
			return err
		}
		seq++
		return nil
	}
	_, err = s.guard(c, func() ([]byte, error) { return nil, s.streams[c.Op](ctx, c, json, m.Data, send) })
	return seq, err
}

func (s *Server) streamMessage(m *nats.Msg) *nats.Msg {
	r := nats.NewMsg(m.Reply)
	if isJSON(m.Header) {
		r.Header.Set(headerContentType, typeJSON)
	}
	return r
}

func (s *Server) endStream(m *nats.Msg, seq uint64, err error) {
	r := s.streamMessage(m)
	r.Header.Set(HeaderEnd, strconv.FormatUint(seq, 10))
	if err != nil {
		f := fault.From(err)
		if f.Code == codes.Internal {
			s.o.Log.Error("stream failed inside", "subject", m.Subject, "error", err, "cause", f.Unwrap())
		}
		ErrorReply(r, f)
	}
	if err := s.o.Conn.PublishMsg(r); err != nil {
		s.o.Log.Warn("the end of a stream could not be sent", "subject", m.Subject, "error", err)
	}
}
