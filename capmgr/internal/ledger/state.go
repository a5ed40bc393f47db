package ledger

import (
	"slices"

	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/capmgr/internal/budget"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
)

// State is what the chain says, as of its last record. Decide functions read it and no one
// but the ledger changes it. Table and Budgets may be read at any time; the rest only while deciding.
type State struct {
	// Table is the ledger's own, not the process's gate: it never lags and never waits for a push.
	Table    *gate.Table
	services map[string]*Service
	charges  charges
}

// Service is what the chain says about one service.
type Service struct {
	// Serving and Calling are the newest records of kind SERVING and SERVICE, empty if there never
	// were any. They may be dead.
	Serving, Calling string
	// Bound is the newest placement by node.
	Bound map[string]Placement
	// records lists every SERVING and SERVICE record that was not revoked itself.
	records []string
}

// Placement is a binding of keys.
type Placement struct {
	Epoch uint64
	// ServingKey and CallingKey are ids; CallingKey is empty where the placement has none.
	ServingKey, CallingKey string
}

func newState() *State {
	return &State{Table: gate.NewTable(), services: map[string]*Service{}, charges: charges{m: map[string]budget.Charge{}}}
}

// Service returns what is known of a service by name; the zero value for one never heard of.
func (s *State) Service(name string) Service {
	if v := s.services[name]; v != nil {
		return *v
	}
	return Service{}
}

// Records lists the ids of a service's SERVING and SERVICE records that were not revoked
// themselves, oldest first.
func (s *State) Records(name string) []string {
	if v := s.services[name]; v != nil {
		return slices.Clone(v.records)
	}
	return nil
}

// apply takes one event and returns the ids that died with it.
func (s *State) apply(ev *kernelv1.CapEvent) ([]string, error) {
	died, err := s.Table.Apply([]*kernelv1.CapEvent{ev})
	if err != nil {
		return nil, err
	}
	switch c := ev.Change.(type) {
	case *kernelv1.CapEvent_Granted:
		s.granted(c.Granted)
	case *kernelv1.CapEvent_Charged:
		s.charges.set(c.Charged)
	case *kernelv1.CapEvent_Revoked:
		if v, ok := s.Table.Get(c.Revoked.GetId()); ok && v.Record.GetService() != "" {
			if sv := s.services[v.Record.GetService()]; sv != nil {
				sv.records = slices.DeleteFunc(sv.records, func(id string) bool { return id == c.Revoked.GetId() })
			}
		}
	}
	return died, nil
}

func (s *State) granted(r *kernelv1.CapRecord) {
	if r.GetService() == "" {
		return
	}
	sv := s.services[r.GetService()]
	if sv == nil {
		sv = &Service{Bound: map[string]Placement{}}
		s.services[r.GetService()] = sv
	}
	switch r.GetKind() {
	case kernelv1.CapKind_CAP_KIND_SERVING:
		// Epochs count under one right to answer: a service made anew begins anew.
		sv.Serving, sv.Bound = r.GetId(), map[string]Placement{}
		sv.records = append(sv.records, r.GetId())
	case kernelv1.CapKind_CAP_KIND_SERVICE:
		sv.Calling = r.GetId()
		sv.records = append(sv.records, r.GetId())
	case kernelv1.CapKind_CAP_KIND_BOUND:
		p := sv.Bound[r.GetNode()]
		if r.GetEpoch() > p.Epoch {
			p = Placement{Epoch: r.GetEpoch()}
		}
		if r.GetParent() == sv.Serving {
			p.ServingKey = r.GetId()
		} else {
			p.CallingKey = r.GetId()
		}
		sv.Bound[r.GetNode()] = p
	}
}
