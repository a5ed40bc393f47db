package rpc

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/proto/fault"
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

// watch ends the stream when its reader has been silent for too long.
func (w *writer) watch(ctx context.Context) {
	t := time.NewTicker(streamIdle / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			w.mu.Lock()
			idle := time.Since(w.seen)
			w.mu.Unlock()
			if idle > streamIdle {
				w.end(fault.New(codes.DeadlineExceeded, fault.ReasonDeadlineExceeded, "the reader of the stream gave no sign for %s", streamIdle))
				return
			}
		}
	}
}

func (s *Server) onStream(m *nats.Msg) {
	c, err := s.admit(m)
	key := c.ID + " " + m.Header.Get(HeaderStream)
	credit := m.Header.Get(HeaderCredit)
	if err == nil && s.streams[c.Op] == nil {
		s.onCredit(key, credit)
		return
	}
	if m.Reply == "" {
		return
	}
	if err != nil {
		s.endStream(m, err)
		return
	}
	n, cerr := strconv.Atoi(credit)
	if cerr != nil || n <= 0 {
		n = 1 // a plain request: one answer, then wait for credit
	}
	select {
	case s.lanes <- struct{}{}:
	default:
		s.endStream(m, s.busy())
		return
	}
	if !s.begin() {
		<-s.lanes
		s.endStream(m, fault.Unavailable(250*time.Millisecond, "%s is stopping", s.o.Component))
		return
	}
	ctx, cancel := context.WithCancelCause(s.run)
	w := &writer{cancel: cancel, credit: min(n, maxCredit), seen: time.Now(), wake: make(chan struct{}, 1)}
	s.mu.Lock()
	s.open[key] = w
	s.mu.Unlock()
	s.wg.Go(func() { w.watch(ctx) })
	go func() {
		defer s.wg.Done()
		defer func() { <-s.lanes }()
		err := s.write(ctx, w, c, m)
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		cancel(nil)
		s.mu.Lock()
		delete(s.open, key)
		s.mu.Unlock()
		s.endStream(m, err)
	}()
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
		w.end(context.Canceled)
		return
	}
	if n, err := strconv.Atoi(strings.TrimPrefix(credit, "+")); err == nil && n >= 0 {
		w.give(n)
	}
}

func (s *Server) write(ctx context.Context, w *writer, c Caller, m *nats.Msg) error {
	var seq uint64
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
		seq++
		r := nats.NewMsg(m.Reply)
		r.Data = b
		r.Header.Set(HeaderSequence, strconv.FormatUint(seq, 10))
		return s.o.Conn.PublishMsg(r)
	}
	_, err := s.guard(c, func() ([]byte, error) { return nil, s.streams[c.Op](ctx, c, json, m.Data, send) })
	return err
}

func (s *Server) endStream(m *nats.Msg, err error) {
	r := nats.NewMsg(m.Reply)
	r.Header.Set(HeaderEnd, "1")
	if err != nil {
		ErrorReply(r, err)
	}
	if err := s.o.Conn.PublishMsg(r); err != nil {
		s.o.Log.Warn("the end of a stream could not be sent", "subject", m.Subject, "error", err)
	}
}
