// Package live knows what runs at this moment: the instances that each node's deployer
// reported, with the newest measurements. Nothing of it is durable. A node that has not
// reported for Stale has no instances, and a report by another deployer process than before
// replaces everything that the one before it said.
package live

import (
	"cmp"
	"slices"
	"sync"
	"time"

	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"google.golang.org/protobuf/proto"
)

// Stale is how old a node's newest report, or a measurement, may be.
const Stale = 5 * time.Second

// Live is safe for concurrent use.
type Live struct {
	now func() time.Time

	mu      sync.RWMutex
	nodes   map[string]*node      // mu; by name
	samples map[sampleKey]sampled // mu
	swept   time.Time             // mu
}

type node struct {
	reporter   string
	at         time.Time
	placements map[string]map[uint64]*nodev1.PlacementState // by service and revision
	info       Node
}

// Node is what a node's reports say about the node itself.
type Node struct {
	Name        string
	CPUs        uint32
	MemoryBytes uint64
	Version     string
	// Instances reported.
	Instances uint32
	// At is when the newest report came.
	At time.Time
	// Fresh tells whether that is recent enough.
	Fresh bool
}

type sampleKey struct {
	node, service string
	revision      uint64
}

type sampled struct {
	at time.Time
	*nodev1.PlacementSample
}

// New returns an empty Live; now is its clock, time.Now when nil.
func New(now func() time.Time) *Live {
	if now == nil {
		now = time.Now
	}
	return &Live{now: now, nodes: map[string]*node{}, samples: map[sampleKey]sampled{}}
}

// Report takes a report by a deployer process.
func (l *Live) Report(reporter string, r *kernelv1.ReportRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[r.GetNode()]
	if n == nil || n.reporter != reporter || r.GetFull() {
		n = &node{reporter: reporter, placements: map[string]map[uint64]*nodev1.PlacementState{}}
		l.nodes[r.GetNode()] = n
	}
	n.at = l.now()
	n.info = Node{Name: r.GetNode(), CPUs: r.GetCpus(), MemoryBytes: r.GetMemoryBytes(), Version: r.GetVersion()}
	for _, p := range r.GetPlacements() {
		byRev := n.placements[p.GetService()]
		if len(p.GetInstances()) == 0 && !p.GetFailed() {
			delete(byRev, p.GetRevision()) // it has ended
			if len(byRev) == 0 {
				delete(n.placements, p.GetService())
			}
			continue
		}
		if byRev == nil {
			byRev = map[uint64]*nodev1.PlacementState{}
			n.placements[p.GetService()] = byRev
		}
		byRev[p.GetRevision()] = p
	}
}

// Sample takes measurements of a node; what is not in them keeps its last ones until they are
// stale.
func (l *Live) Sample(s *kernelv1.SampleAllResponse) {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range s.GetPlacements() {
		l.samples[sampleKey{s.GetNode(), p.GetService(), p.GetRevision()}] = sampled{now, p}
	}
	if now.Sub(l.swept) < Stale {
		return
	}
	l.swept = now
	for k, v := range l.samples {
		if now.Sub(v.at) > Stale {
			delete(l.samples, k)
		}
	}
}

// Status is what runs of one service.
type Status struct {
	// Instances with their newest measurements, by node and id.
	Instances []*solov1.Instance
	// Failed tells that supervision has given up on a placement, with its error.
	Failed    bool
	LastError string
}

// Service tells what runs of a service.
func (l *Live) Service(name string) Status {
	now := l.now()
	l.mu.RLock()
	defer l.mu.RUnlock()
	var s Status
	for nodeName, n := range l.nodes {
		if now.Sub(n.at) > Stale {
			continue
		}
		for rev, p := range n.placements[name] {
			if p.GetFailed() {
				s.Failed, s.LastError = true, p.GetLastError()
			}
			m := l.samples[sampleKey{nodeName, name, rev}]
			if m.PlacementSample != nil && now.Sub(m.at) > Stale {
				m = sampled{}
			}
			for _, i := range p.GetInstances() {
				s.Instances = append(s.Instances, measured(i, nodeName, rev, m.PlacementSample))
			}
		}
	}
	slices.SortFunc(s.Instances, func(a, b *solov1.Instance) int {
		return cmp.Or(cmp.Compare(a.GetNode(), b.GetNode()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return s
}

// measured is a copy of an instance with its newest measurement.
func measured(i *solov1.Instance, node string, revision uint64, m *nodev1.PlacementSample) *solov1.Instance {
	i = proto.CloneOf(i)
	if i.Node == "" {
		i.Node = node
	}
	if i.Revision == 0 {
		i.Revision = revision
	}
	for _, x := range m.GetInstances() {
		if x.GetId() == i.GetId() {
			i.MemoryBytes, i.CpuMs, i.MailboxDepth = x.GetMemoryBytes(), x.GetCpuMs(), x.GetMailboxDepth()
			if i.MailboxDepth == 0 {
				i.MailboxDepth = m.GetMailboxDepth() // one mailbox for all instances of the placement
			}
			if i.Pid == 0 {
				i.Pid = x.GetPid()
			}
			i.Restarts = max(i.Restarts, x.GetRestarts())
			break
		}
	}
	return i
}

// Node tells what a node last said about itself.
func (l *Live) Node(name string) (Node, bool) {
	now := l.now()
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := l.nodes[name]
	if n == nil {
		return Node{}, false
	}
	i := n.info
	i.At, i.Fresh = n.at, now.Sub(n.at) <= Stale
	if i.Fresh {
		for _, byRev := range n.placements {
			for _, p := range byRev {
				i.Instances += uint32(len(p.GetInstances()))
			}
		}
	}
	return i, true
}
