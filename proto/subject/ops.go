package subject

import (
	"iter"
	"slices"
)

// Scope is the kind of object a system call is about.
type Scope uint8

const (
	// Open: every live holder may ask; the component decides by the request (descent).
	Open Scope = iota
	// OnService: the object is `svc:<ns>/<service>`.
	OnService
	// OnKernel: the object is `kernel`.
	OnKernel
	// OnAudit: the object is `audit`.
	OnAudit
	// Anywhere: the verb on any service at all is enough.
	Anywhere
	// Internal: only components ask.
	Internal
)

// Op is a system call that exists: which component answers it and what it takes to ask.
type Op struct {
	Component, Op string
	Stream        bool
	Scope         Scope
	// Verb needed on the object; for Internal, the component that may ask (empty: any).
	Verb string
}

// StreamCredit is the op by which a reader of a stream gives credit to its writer, on the
// stream's own object.
const StreamCredit = "credit"

// Ops is the whole table. Permissions compiled into the server and the checks of every gate
// come from it alone.
func Ops() []Op { return slices.Clone(ops[:]) }

// OpsOf lists the operations of one component, without allocating.
func OpsOf(component string) iter.Seq[Op] {
	return func(yield func(Op) bool) {
		for i := range ops {
			if ops[i].Component == component && !yield(ops[i]) {
				return
			}
		}
	}
}

// ops is never written.
var ops = [...]Op{
	{Capmgr, "grant", false, Open, ""},
	{Capmgr, "revoke", false, Open, ""},
	{Capmgr, "describe", false, Open, ""},
	{Capmgr, "can", false, Open, ""},
	{Capmgr, "explain", false, Open, ""},
	{Capmgr, "auditor", false, OnAudit, "read"},
	{Capmgr, "bind", false, Internal, Deployer},
	{Capmgr, "endow", false, Internal, Deployer},
	{Capmgr, "disendow", false, Internal, Deployer},

	{Registry, "status", false, OnService, "status"},
	{Registry, "list", false, OnService, "list"},
	{Registry, "watch", true, OnService, "watch"},
	{Registry, "resolve", false, OnService, "call"},
	{Registry, "nodes", false, OnKernel, "nodes"},
	{Registry, "put", false, Internal, Deployer},
	{Registry, "get", false, Internal, ""},
	{Registry, "all", false, Internal, ""},
	{Registry, "delete", false, Internal, Deployer},
	{Registry, "report", false, Internal, Deployer},

	{Deployer, "deploy", false, OnService, "deploy"},
	{Deployer, "update", false, OnService, "update"},
	{Deployer, "rollback", false, OnService, "update"},
	{Deployer, "kill", false, OnService, "kill"},
	{Deployer, "logs", true, OnService, "logs"},
	{Deployer, "crashes", false, OnService, "logs"},
	{Deployer, "upload", false, Anywhere, "deploy"},
	{Deployer, "upload", false, Anywhere, "update"},
	{Deployer, "sample", false, Internal, Resmon},
	{Deployer, "enforce", false, Internal, Resmon},

	{Resmon, "usage", false, OnService, "status"},
	{Resmon, "usage", false, OnKernel, "usage"},

	{Audit, "read", true, OnAudit, "read"},

	{Kernel, "shutdown", false, OnKernel, "shutdown"},
}
