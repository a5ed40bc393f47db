package fence

import (
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/embed"
	"github.com/solo-os/solo/bus/stream"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/subject"
)

// Every permission on the bus is in this file. A permission names both sides, each with at
// least one pattern or an explicit refusal of all; patterns are checked before they reach the
// server, which would drop an invalid one without a word.

// Roles beside the components of package subject.
const (
	// Bootstrap makes streams and buckets, and does nothing else. It exists while the kernel boots.
	Bootstrap = "bootstrap"
)

// holder is for a key that asks: an agent, an operator, a service calling out. It may publish
// what its rules compile to, each subject ending in its own id (an acknowledgement of the audit
// trail has it further in), and listen in its own inbox.
func holder(id string, rules capability.Rules) (*server.Permissions, error) {
	publish, subscribe := rules.Subjects(id), []string{subject.InboxAll(id)}
	if !check.On(check.OwnID) {
		for i, s := range publish {
			publish[i] = strings.ReplaceAll(s, id, "*")
		}
	}
	if !check.On(check.PublishAllow) {
		publish = []string{"svc.>", "sys.>", "str.>", "_INBOX.>"}
	}
	if !check.On(check.Borders) {
		publish = append(publish, "$JS.>", "$KV.>", "rev.>")
	}
	if !check.On(check.OwnInbox) {
		subscribe = []string{"_INBOX.>"}
	}
	return compile(publish, subscribe, nil, nil)
}

// serving is for a key that answers for one revision of a service: one answer a request, at
// the address that the server itself made for it, and nothing else. It may listen to the
// calls of the service and revision in the service's queue group. The denials close what a
// `>` in a subscription would slip past an allowed `*`.
func serving(s subject.Service, revision uint64) (*server.Permissions, error) {
	calls, mapped := subject.CallServing(s), subject.RevisionServing(s, revision)
	q := " " + s.Queue()
	publish, listen, answers := []string{}, []string{calls + q, mapped + q}, 1
	if !check.On(check.ServingPublish) {
		publish = []string{"svc.>"}
	}
	if !check.On(check.ServingQueue) {
		listen = []string{calls, mapped}
	}
	if !check.On(check.OneAnswer) {
		answers = -1
	}
	return compile(publish, listen, []string{calls + ".>", mapped + ".>"}, &server.ResponsePermission{MaxMsgs: answers, Expires: embed.ReplyTime})
}

// component is for Solo's own processes in KERNEL: what the role's work takes, by name.
func component(role, id string) (*server.Permissions, error) {
	pub := []string{
		// Answers to callers in CALLER, and to each other. Inboxes cannot be guessed, and nothing
		// but an inbox is reachable by an answer, so a reply subject launders nothing.
		"_R_.>", "_INBOX.>",
	}
	sub := []string{subject.InboxAll(id)}
	for _, o := range subject.Ops() {
		if o.Scope == subject.Internal && (o.Verb == "" || o.Verb == role) {
			pub = append(pub, subject.Sys(o.Component, o.Op, subject.Service{Namespace: "*", Name: "*"}, id))
		}
	}
	answers := func() {
		sub = append(sub, subject.SysServing(role)+" "+role, subject.StrServing(role)+" "+role)
	}
	asks := func(ops ...string) {
		for _, op := range ops {
			pub = append(pub, subject.Fence(op, id))
		}
	}
	gate := func() {
		asks(subject.FenceJoin, subject.FenceTable)
		sub = append(sub, subject.GatePush(id), subject.GateLease)
		pub = append(pub, subject.AuditEvent(role, "*"))
	}
	frame := func() {
		gate()
		asks(subject.FenceReady)
		sub = append(sub, subject.ControlServing(id))
	}
	switch role {
	case Bootstrap:
		return compile([]string{"$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.INFO.*"}, sub, nil, nil)
	case subject.Kernel:
		answers()
		sub = append(sub, subject.FenceServing, subject.ControlServing(id))
		pub = append(pub, subject.GatePush("*"), subject.GateLease, subject.Control(subject.ControlHealth, "*"),
			subject.Control(subject.ControlDrain, "*"), subject.Control(subject.ControlEnd, "*"), subject.AuditEvent(role, "*"))
		pub = append(pub, reads(stream.Caps)...)
	case subject.Capmgr:
		frame()
		answers()
		asks(subject.FenceApply)
		pub = append(pub, subject.Caps)
		pub = append(pub, reads(stream.Caps)...)
		pub = append(pub, bucket(stream.Requests)...)
		pub = append(pub, consumers(stream.Audit)...)
	case subject.Registry:
		frame()
		answers()
		pub = append(pub, "evt.*.*.*")
		pub = append(pub, reads(stream.Events)...)
		pub = append(pub, bucket(stream.Registry)...)
		pub = append(pub, bucket(stream.Nodes)...)
		sub = append(sub, subject.Samples("*"))
	case subject.Resmon:
		frame()
		answers()
		pub = append(pub, subject.Samples("*"), subject.Control(subject.ControlMetrics, "*"), subject.Control(subject.ControlHealth, "*"))
		sub = append(sub, subject.EventAll)
	case subject.Deployer:
		frame()
		answers()
		asks(subject.FenceAdmit, subject.FenceDismiss)
		pub = append(pub, "log.*.*.*")
		pub = append(pub, reads(stream.Logs)...)
		pub = append(pub, bucket(stream.Requests)...)
		pub = append(pub, bucket(stream.Crashes)...)
		pub = append(pub, objects(stream.Artifacts)...)
	case subject.Audit:
		frame()
		answers()
		pub = append(pub, reads(stream.Audit)...)
	case subject.Gateway:
		frame()
	case subject.Runner:
		gate()
	case subject.Keeper:
		asks(subject.FenceJoin, subject.FenceTable)
		sub = append(sub, subject.GatePush(id), subject.GateLease)
		pub = append(pub, bucket(stream.State)...)
	default:
		return nil, fmt.Errorf("fence: no role %q", role)
	}
	if !check.On(check.RolePublish) {
		pub = append(pub, "$JS.API.>")
	}
	return compile(pub, sub, nil, nil)
}

// reads is what it takes to read one stream through the JetStream API: information, single
// records, and consumers of one's own with their acknowledgements and flow control.
func reads(s string) []string {
	return []string{
		"$JS.API.STREAM.INFO." + s, "$JS.API.STREAM.MSG.GET." + s, "$JS.API.DIRECT.GET." + s, "$JS.API.DIRECT.GET." + s + ".>",
		"$JS.API.CONSUMER.CREATE." + s + ".*", "$JS.API.CONSUMER.CREATE." + s + ".*.>", "$JS.API.CONSUMER.INFO." + s + ".*",
		"$JS.API.CONSUMER.DELETE." + s + ".*", "$JS.API.CONSUMER.MSG.NEXT." + s + ".*", "$JS.ACK." + s + ".>", "$JS.FC." + s + ".>",
	}
}

// consumers is what it takes to make consumers of one stream for others, and to end them.
func consumers(s string) []string {
	return []string{
		"$JS.API.CONSUMER.CREATE." + s + ".*", "$JS.API.CONSUMER.INFO." + s + ".*", "$JS.API.CONSUMER.NAMES." + s, "$JS.API.CONSUMER.DELETE." + s + ".*",
	}
}

func bucket(b string) []string { return append(reads(stream.KVStream(b)), "$KV."+b+".>") }

// objects adds purging, by which chunks are dropped.
func objects(b string) []string {
	s := stream.ObjStream(b)
	return append(reads(s), "$JS.API.STREAM.PURGE."+s, "$O."+b+".>")
}

// compile checks a permission and makes it. publish may be empty, which refuses all; an empty
// subscribe side is an error, because the server would take it for everything.
func compile(publish, subscribe, denySubscribe []string, resp *server.ResponsePermission) (*server.Permissions, error) {
	if publish == nil || len(subscribe) == 0 {
		return nil, errors.New("fence: a permission with a side left open")
	}
	for _, s := range publish {
		if err := checkPattern(s); err != nil {
			return nil, fmt.Errorf("publish: %w", err)
		}
	}
	for _, side := range [][]string{subscribe, denySubscribe} {
		for _, s := range side {
			pattern, queue, queued := strings.Cut(s, " ")
			if err := checkPattern(pattern); err != nil {
				return nil, fmt.Errorf("subscribe: %w", err)
			}
			if queued && (queue == "" || strings.ContainsAny(queue, " \t\r\n*>")) {
				return nil, fmt.Errorf("fence: %q is no queue group", queue)
			}
		}
	}
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: subscribe, Deny: denySubscribe},
		Response:  resp,
	}, nil
}

func checkPattern(s string) error {
	if strings.ContainsAny(s, " \t\r\n") || !server.IsValidSubject(s) || s == ">" || strings.HasPrefix(s, "*") {
		return fmt.Errorf("fence: %q is no pattern for a permission", s)
	}
	return nil
}
