package control

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/solo-os/solo/bus/daemon"
	"github.com/solo-os/solo/bus/rpc"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

const (
	// reportEvery is how often everything is reported; the registry forgets after 5 s.
	reportEvery = 2 * time.Second
	// gather is how long changes are collected before they are reported together.
	gather = 5 * time.Millisecond
	// maxEvents bounds the events that wait for the registry; the oldest go first.
	maxEvents = 4096
	// eventsPage bounds the events of one report.
	eventsPage    = 256
	reportTimeout = 3 * time.Second
)

// reporter tells the registry what runs here.
type reporter struct {
	peer   rpc.Peer
	node   string
	actual *actual
	log    *slog.Logger
	memory uint64
	wake   chan struct{}

	mu      sync.Mutex
	changed map[placed]bool // mu
	events  []*solov1.Event // mu
	dropped uint64          // mu
}

func newReporter(p rpc.Peer, node string, a *actual, log *slog.Logger) *reporter {
	return &reporter{peer: p, node: node, actual: a, log: log, memory: machineMemory(), wake: make(chan struct{}, 1), changed: map[placed]bool{}}
}

// change has a placement reported soon, and the events, in order, with or after it.
func (r *reporter) change(service string, revision uint64, events ...*solov1.Event) {
	r.mu.Lock()
	if service != "" {
		r.changed[placed{service, revision}] = true
	}
	r.events = append(r.events, events...)
	if over := len(r.events) - maxEvents; over > 0 {
		r.events = r.events[over:]
		r.dropped += uint64(over)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reporter) run(ctx context.Context) {
	t := time.NewTicker(reportEvery)
	defer t.Stop()
	full := true
	for {
		if !r.flush(ctx, full) {
			full = true // something may have been missed
		} else {
			full = false
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			full = true
		case <-r.wake:
			g := time.NewTimer(gather)
			select {
			case <-ctx.Done():
				g.Stop()
				return
			case <-g.C:
			}
		}
	}
}

// flush sends what has changed, or everything, and the events that wait.
func (r *reporter) flush(ctx context.Context, full bool) bool {
	r.mu.Lock()
	changed := r.changed
	r.changed = map[placed]bool{}
	n := min(len(r.events), eventsPage)
	events, more := r.events[:n:n], len(r.events) > n
	dropped := r.dropped
	r.dropped = 0
	r.mu.Unlock()
	if dropped > 0 {
		r.log.Warn("events were dropped: the registry does not take them", "count", dropped)
	}
	if !full && len(changed) == 0 && n == 0 {
		return true
	}
	req := &kernelv1.ReportRequest{Full: full, Events: events}
	if full {
		req.Placements = r.actual.all()
	} else {
		for k := range changed {
			req.Placements = append(req.Placements, r.state(k))
		}
	}
	if err := r.send(ctx, req); err != nil {
		if ctx.Err() == nil {
			r.log.Warn("what runs here could not be reported", "error", err)
		}
		return false
	}
	r.mu.Lock()
	r.events = r.events[min(n, len(r.events)):]
	r.mu.Unlock()
	if more {
		r.change("", 0)
	}
	return true
}

// state is a placement as it is reported; one without instances has ended.
func (r *reporter) state(k placed) *nodev1.PlacementState {
	if p := r.actual.find(k.service, k.revision); p != nil {
		return p
	}
	return &nodev1.PlacementState{Service: k.service, Revision: k.revision}
}

// now reports one placement and returns when the registry has it.
func (r *reporter) now(ctx context.Context, service string, revision uint64) {
	if err := r.send(ctx, &kernelv1.ReportRequest{Placements: []*nodev1.PlacementState{r.state(placed{service, revision})}}); err != nil {
		r.change(service, revision)
	}
}

func (r *reporter) send(ctx context.Context, req *kernelv1.ReportRequest) error {
	req.Node, req.Cpus, req.MemoryBytes, req.Version = r.node, uint32(runtime.NumCPU()), r.memory, daemon.Version
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	return r.peer.Call(ctx, subject.Registry, "report", subject.Nothing(), req, &kernelv1.ReportResponse{})
}

// machineMemory is the machine's memory in bytes, 0 where /proc does not tell.
func machineMemory() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, err := strconv.ParseUint(f[1], 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}
