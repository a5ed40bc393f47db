package runner

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Bounds of what waits for a deployer.
const (
	maxChanges = 4096
	maxLogs    = 16384
)

// hub keeps what happened until a deployer takes it. Changes and crashes go before logs; of each kind
// the oldest are dropped when too many wait, and lost log lines are counted in the log.
type hub struct {
	wake chan struct{}

	mu      sync.Mutex // guards what follows
	changes []*nodev1.RunnerEvent
	logs    []*solov1.LogRecord
	lost    int
}

func newHub() *hub { return &hub{wake: make(chan struct{}, 1)} }

func (h *hub) change(ev *nodev1.RunnerEvent) {
	h.mu.Lock()
	if len(h.changes) == maxChanges {
		h.changes = h.changes[1:]
	}
	h.changes = append(h.changes, ev)
	h.mu.Unlock()
	h.signal()
}

func (h *hub) log(r *solov1.LogRecord) {
	r.Time = timestamppb.Now()
	h.mu.Lock()
	if len(h.logs) == maxLogs {
		h.logs = h.logs[1:]
		h.lost++
	}
	h.logs = append(h.logs, r)
	h.mu.Unlock()
	h.signal()
}

func (h *hub) signal() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// next waits for an event; nil when ctx ends first.
func (h *hub) next(ctx context.Context) *nodev1.RunnerEvent {
	for ctx.Err() == nil {
		if ev := h.take(); ev != nil {
			return ev
		}
		select {
		case <-h.wake:
		case <-ctx.Done():
		}
	}
	return nil
}

func (h *hub) take() *nodev1.RunnerEvent {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.changes) > 0 {
		ev := h.changes[0]
		h.changes = h.changes[1:]
		return ev
	}
	if len(h.logs) == 0 {
		return nil
	}
	r := h.logs[0]
	if h.lost > 0 {
		lost := &solov1.LogRecord{
			Time: r.GetTime(), Service: r.GetService(), Instance: r.GetInstance(), Stream: "log", Level: "warn",
			Line: fmt.Sprintf("%d lines of this runner's services were lost here: they wrote faster than logs are taken", h.lost),
		}
		h.lost = 0
		return &nodev1.RunnerEvent{Event: &nodev1.RunnerEvent_Log{Log: lost}}
	}
	h.logs = h.logs[1:]
	return &nodev1.RunnerEvent{Event: &nodev1.RunnerEvent_Log{Log: r}}
}
