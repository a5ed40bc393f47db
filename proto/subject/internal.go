package subject

// Subjects inside KERNEL: never exported, so no holder can name them. Where a caller's id is
// the last token, the server lets each component publish its own id only.

// Component names, as they stand in subjects, metrics and logs.
const (
	Kernel   = "kernel"
	Capmgr   = "capmgr"
	Registry = "registry"
	Resmon   = "resmon"
	Deployer = "deployer"
	Audit    = "audit"
	Gateway  = "gateway"
	// Helpers of the deployer with identities of their own.
	Runner = "runner"
	Keeper = "keeper"
)

// Fence operations, as op in Fence.
const (
	// FenceApply: capmgr brings new events.
	FenceApply = "apply"
	// FenceJoin: a gate registers itself.
	FenceJoin = "join"
	// FenceTable: a gate fetches events after a sequence.
	FenceTable = "table"
	// FenceAdmit and FenceDismiss: the deployer's helper identities.
	FenceAdmit   = "admit"
	FenceDismiss = "dismiss"
	// FenceReady: a component does its work.
	FenceReady = "ready"
)

// Fence is fence.<op>.<id>: a request to this node's fence.
func Fence(op, id string) string { return "fence." + op + "." + id }

// FenceServing is fence.*.*
const FenceServing = "fence.*.*"

// ParseFence reads what Fence builds.
func ParseFence(s string) (op, id string, err error) {
	var t [3]string
	if split(s, t[:]) != 3 || t[0] != "fence" || !ValidOp(t[1]) || !ValidID(t[2]) {
		return "", "", bad(s, "fence.<op>.<id>")
	}
	return t[1], t[2], nil
}

// GatePush is gate.push.<gate id>: new events for one gate, answered when its table has changed.
func GatePush(id string) string { return "gate.push." + id }

// GateLease is gate.lease: the fence's lease for all gates of the node.
const GateLease = "gate.lease"

// Control operations, as op in Control.
const (
	ControlHealth  = "health"
	ControlMetrics = "metrics"
	ControlDrain   = "drain"
	// ControlEnd tells the deployer that one of its helpers hangs, by the helper's id.
	ControlEnd = "end"
)

// Control is ctl.<op>.<id>: from kernel or resmon to one component, by the component's id.
func Control(op, id string) string { return "ctl." + op + "." + id }

// ControlServing is ctl.*.<id>
func ControlServing(id string) string { return "ctl.*." + id }

// ParseControl reads what Control builds.
func ParseControl(s string) (op, id string, err error) {
	var t [3]string
	if split(s, t[:]) != 3 || t[0] != "ctl" || !ValidOp(t[1]) || !ValidID(t[2]) {
		return "", "", bad(s, "ctl.<op>.<id>")
	}
	return t[1], t[2], nil
}

// Samples is sample.<node>: resmon's newest measurement of a node, once a second, as
// SampleAllResponse.
func Samples(node string) string { return "sample." + node }

// AuditEvent is audit.<component>.<event>
func AuditEvent(component, event string) string { return "audit." + component + "." + event }

// AuditAll is audit.>
const AuditAll = "audit.>"

// Event is evt.<ns>.<service>.<event>
func Event(s Service, event string) string {
	return "evt." + s.Namespace + "." + s.Name + "." + event
}

// EventsOf is evt.<ns>.<service>.>, with * for None.
func EventsOf(s Service) string { return "evt." + star(s.Namespace) + "." + star(s.Name) + ".>" }

// EventAll is evt.>
const EventAll = "evt.>"

// Log is log.<ns>.<service>.<instance>
func Log(s Service, instance string) string {
	return "log." + s.Namespace + "." + s.Name + "." + instance
}

// LogsOf is log.<ns>.<service>.<instance>, with * for an empty instance.
func LogsOf(s Service, instance string) string {
	if instance == "" {
		instance = "*"
	}
	return "log." + star(s.Namespace) + "." + star(s.Name) + "." + instance
}

// LogAll is log.>
const LogAll = "log.>"

// Caps is caps.events, the only subject of stream CAPS.
const Caps = "caps.events"

func star(s string) string {
	if s == None {
		return "*"
	}
	return s
}
