package control

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "github.com/solo-os/solo/proto/solo/node/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
)

// Inventory takes a runner's own account of what it holds.
func (c *Controller) Inventory(namespace string, inv *nodev1.RunnerInventory) {
	c.dirty.add(c.actual.replace(namespace, inv.GetPlacements())...)
	for _, p := range inv.GetPlacements() {
		c.report.change(p.GetService(), p.GetRevision())
	}
}

// Down marks everything that died with a runner to be started again.
func (c *Controller) Down(namespace string) {
	c.metrics.runnerDeath.Inc()
	c.o.Log.Warn("a runner has died", "namespace", namespace)
	for _, p := range c.actual.all() {
		if namespaceOf(p.GetService()) != namespace {
			continue
		}
		c.actual.end(p.GetService(), p.GetRevision())
		c.report.change(p.GetService(), p.GetRevision(), &solov1.Event{
			Time: timestamppb.Now(), Service: p.GetService(), Type: "interrupted", Revision: p.GetRevision(), Message: "its runner process died; it is started again",
		})
		c.dirty.add(p.GetService())
	}
}

// Keeper takes a complaint of the state keeper.
func (c *Controller) Keeper(service, message string) {
	c.o.Log.Warn("state", "service", service, "message", message)
	if service != "" {
		c.report.change("", 0, &solov1.Event{Time: timestamppb.Now(), Service: service, Type: "state", Message: message})
	}
}

// Event takes what happened to an instance.
func (c *Controller) Event(_ string, ev *nodev1.RunnerEvent) {
	switch e := ev.GetEvent().(type) {
	case *nodev1.RunnerEvent_Log:
		c.o.Logs.Add(e.Log)
	case *nodev1.RunnerEvent_Crash:
		c.crashes.add(e.Crash)
		c.report.change("", 0, &solov1.Event{
			Time: e.Crash.GetTime(), Service: e.Crash.GetService(), Type: "crashed", Instance: e.Crash.GetInstance(), Revision: e.Crash.GetRevision(),
			Message: e.Crash.GetMessage(), Attributes: map[string]string{"kind": e.Crash.GetKind()},
		})
	case *nodev1.RunnerEvent_Instance:
		c.changed(e.Instance)
	case *nodev1.RunnerEvent_Limit:
		c.report.change("", 0, limitEvent(e.Limit))
	}
}

func (c *Controller) changed(ch *nodev1.InstanceChange) {
	if !c.actual.change(ch) {
		return // of a placement that has been given up
	}
	var events []*solov1.Event
	if kind := changeType(ch); kind != "" {
		events = append(events, &solov1.Event{
			Time: timestamppb.Now(), Service: ch.GetService(), Type: kind, Instance: ch.GetInstance().GetId(), Revision: ch.GetRevision(), Message: ch.GetReason(),
		})
	}
	c.report.change(ch.GetService(), ch.GetRevision(), events...)
	if ch.GetPlacementFailed() {
		c.dirty.add(ch.GetService())
	}
}

// changeType names what a change means to a watcher; empty for steps on the way.
func changeType(ch *nodev1.InstanceChange) string {
	i := ch.GetInstance()
	switch i.GetState() {
	case solov1.InstanceState_INSTANCE_STATE_READY:
		if i.GetRestarts() > 0 {
			return "restarted"
		}
		return "instance_ready"
	case solov1.InstanceState_INSTANCE_STATE_RESTARTING:
		return "restarting"
	case solov1.InstanceState_INSTANCE_STATE_FAILED:
		return "instance_failed"
	}
	return ""
}

func limitEvent(l *nodev1.LimitEvent) *solov1.Event {
	return &solov1.Event{
		Time: timestamppb.Now(), Service: l.GetService(), Type: "limit", Instance: l.GetInstance(),
		Message: fmt.Sprintf("%s reached its %s mark: %d of %d", l.GetLimit(), l.GetMark(), l.GetValue(), l.GetBound()),
		Attributes: map[string]string{
			"limit": l.GetLimit(), "mark": l.GetMark(), "action": l.GetAction(),
			"value": strconv.FormatUint(l.GetValue(), 10), "bound": strconv.FormatUint(l.GetBound(), 10),
		},
	}
}
