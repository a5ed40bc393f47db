package attack

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/protobuf/proto"
)

// borders are attacks by somebody with a handle and a raw connection on what the server lets
// through.
func borders() []attack {
	const one = "a handle for one namespace"
	return []attack{
		{
			name: "another's service", has: one, tries: "to call a service in another", off: check.PublishAllow,
			run: crossing(func(t two) []string {
				return []string{subject.Call(t.theirs, "echo", t.attacker.id), subject.Call(t.theirs, "mark", t.attacker.id)}
			}),
		},
		{
			name: "system calls about another's service", has: one, tries: "to see, change or end it", off: check.PublishAllow,
			run: crossing(func(t two) (all []string) {
				for _, o := range subject.Ops() {
					if o.Scope == subject.OnService && !o.Stream {
						all = append(all, subject.Sys(o.Component, o.Op, t.theirs, t.attacker.id))
					}
				}
				return all
			}),
		},
		{
			name: "a component's subjects", has: one, tries: "to ask what only components may ask, with its own id", off: check.PublishAllow,
			run: crossing(func(t two) (all []string) {
				for _, o := range subject.Ops() {
					if o.Scope == subject.Internal {
						all = append(all, subject.Sys(o.Component, o.Op, t.mine, t.attacker.id))
					}
				}
				return append(all, subject.Fence(subject.FenceApply, t.attacker.id), subject.Fence(subject.FenceJoin, t.attacker.id),
					subject.GatePush(t.attacker.id), subject.GateLease, subject.Caps, "evt.x.y.z", "log.x.y.z", "audit.capmgr.grant", "$SYS.REQ.SERVER.PING")
			}),
		},
		{
			name: "odd subjects", has: "a handle for one operation", tries: "literal wildcards, dotted and empty tokens", off: check.PublishAllow,
			run: crossing(func(t two) []string {
				s, id := "svc."+t.theirs.Namespace+"."+t.theirs.Name, t.attacker.id
				return []string{
					s + ".*." + id, s + ".echo.x." + id, "svc.*.*.echo." + id, "svc." + t.mine.Namespace + ".>", s + ".echo.>",
					"sys.registry.list.*.*." + id, "sys.registry.status." + t.theirs.Namespace + ".*." + id, "sys.>", "_R_.>", "svc.*." + id,
				}
			}),
		},
		{name: "another's id", has: one, tries: "to revoke in the name of the operator", off: check.OwnID, run: anothersID},
		{name: "words in another's inbox", has: one, tries: "to put a message in a victim's inbox", off: check.PublishAllow, run: inject(func(t two) *nats.Msg {
			return &nats.Msg{Subject: subject.InboxPrefix(t.victim.id) + ".x"}
		})},
		{name: "trace destination", has: one, tries: "to have the server write to a victim's inbox", off: check.PublishAllow, run: inject(func(t two) *nats.Msg {
			return &nats.Msg{Subject: subject.Call(t.mine, "echo", t.attacker.id), Header: nats.Header{"Nats-Trace-Dest": {subject.InboxPrefix(t.victim.id) + ".trace"}}}
		})},
		{name: "listening in", has: one, tries: "to hear another's answers", off: check.OwnInbox, run: listen},
		{name: "reading a stream", has: one, tries: "MSG.GET and DIRECT.GET of capabilities and state", off: check.Borders, run: jetstream(
			js{"API.STREAM.MSG.GET.CAPS", `{"seq":1}`, nil}, js{"API.DIRECT.GET.CAPS", `{"seq":1}`, nil}, js{"API.DIRECT.GET.KV_registry.$KV.registry.x", ``, nil},
			js{"API.STREAM.INFO.CAPS", ``, nil}, js{"API.STREAM.INFO.CAPS", ``, nats.Header{"Nats-Request-Info": {`{"acc":"KERNEL"}`}}},
		)},
		{name: "push consumer", has: one, tries: "to have JetStream deliver to a subject of its choice", off: check.Borders, run: jetstream(
			js{"API.CONSUMER.CREATE.EVENTS.spy", `{"stream_name":"EVENTS","config":{"name":"spy","deliver_subject":"sys.capmgr.revoke.-.-.x","ack_policy":"none","deliver_policy":"all"}}`, nil},
			js{"API.CONSUMER.DURABLE.CREATE.EVENTS.spy", `{"stream_name":"EVENTS","config":{"durable_name":"spy","deliver_subject":"x","ack_policy":"none"}}`, nil},
		)},
		{name: "changing streams", has: one, tries: "to make, purge and delete streams", off: check.Borders, run: jetstream(
			js{"API.STREAM.PURGE.EVENTS", ``, nil}, js{"API.STREAM.DELETE.EVENTS", ``, nil}, js{"API.STREAM.CREATE.MINE", `{"name":"MINE","subjects":["mine.>"]}`, nil},
		)},
		{name: "headers that JetStream obeys", has: one, tries: "rollup, message ids, expectations, schedules in a bucket", off: check.Borders, run: buckets},
		{name: "around the rollout", has: "a handle for a service", tries: "to call one revision by its own subject", off: check.Borders, run: revision},
		{name: "an operation that is no name", has: "a handle for all operations of a service", tries: "to have a flag passed to a program", off: check.Tokens, run: flag},
	}
}

// crossing publishes subjects that the attacker's rules do not compile to. The effect is any
// answer from the other side of the server, be it a refusal by a gate.
func crossing(subjects func(two) []string) func(context.Context, *scene) (bool, error) {
	return func(ctx context.Context, s *scene) (bool, error) {
		t, err := s.two(ctx)
		defer t.close()
		if err != nil {
			return false, err
		}
		if err := t.legitimate(ctx); err != nil {
			return false, err
		}
		crossed := 0
		for _, subj := range subjects(t) {
			taken, answer, err := send(ctx, t.raw, nats.NewMsg(subj))
			if err != nil {
				return false, fmt.Errorf("%s: %w", subj, err)
			}
			if taken && answer != nil && !nobody(answer) {
				crossed++
			}
		}
		return crossed > 0, t.legitimate(ctx)
	}
}

// nobody tells whether an answer is the server's own, that nobody listens.
func nobody(m *nats.Msg) bool { return m.Header.Get("Status") == "503" }

func anothersID(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	if _, err := t.victim.call(ctx, t.theirs, "echo", ""); err != nil {
		return false, err
	}
	b, err := proto.Marshal(&solov1.RevokeCapabilityRequest{Id: t.victim.id})
	if err != nil {
		return false, err
	}
	m := nats.NewMsg(subject.Sys(subject.Capmgr, "revoke", subject.Nothing(), s.root.id))
	m.Data = b
	if _, _, err := send(ctx, t.raw, m); err != nil {
		return false, err
	}
	_, err = t.victim.call(ctx, t.theirs, "echo", "")
	return err != nil, t.legitimate(ctx)
}

// inject has the attacker send a message, and the victim listen in all of its inbox.
func inject(message func(two) *nats.Msg) func(context.Context, *scene) (bool, error) {
	return func(ctx context.Context, s *scene) (bool, error) {
		t, err := s.two(ctx)
		defer t.close()
		if err != nil {
			return false, err
		}
		v, err := s.Raw(ctx, t.victim.seed)
		if err != nil {
			return false, err
		}
		defer v.Close()
		inbox, err := v.SubscribeSync(subject.InboxAll(t.victim.id))
		if err != nil {
			return false, err
		}
		if err := v.FlushWithContext(ctx); err != nil {
			return false, err
		}
		if err := t.raw.PublishMsg(message(t)); err != nil {
			return false, err
		}
		// When both have had their answers, what was to come has come.
		if err := errors.Join(t.legitimate(ctx), v.FlushWithContext(ctx)); err != nil {
			return false, err
		}
		n, _, err := inbox.Pending()
		return n > 0, err
	}
}

func listen(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	var subs []*nats.Subscription
	for _, pattern := range []string{
		"_INBOX.>", "_INBOX.*.>", "_INBOX.*.*.*", "_INBOX." + t.victim.id + ".>", ">", "svc.>", "_R_.>", "sys.>", "str.>", "rev.>",
		"svc." + t.mine.Namespace + ".tool.*.*", "$JS.>", "$KV.>", "$SYS.>", "evt.>", "audit.>",
	} {
		sub, err := t.raw.SubscribeSync(pattern)
		if err != nil {
			return false, err
		}
		subs = append(subs, sub)
	}
	if err := t.raw.FlushWithContext(ctx); err != nil {
		return false, err
	}
	v, err := s.Raw(ctx, t.victim.seed)
	if err != nil {
		return false, err
	}
	defer v.Close()
	const secret = "for the victim alone"
	if m, err := v.RequestWithContext(ctx, subject.Call(t.theirs, "echo", v.ID), []byte(secret)); err != nil || string(m.Data) != secret {
		return false, fmt.Errorf("the victim's call: %v %v", m, err)
	}
	if err := t.legitimate(ctx); err != nil {
		return false, err
	}
	for _, sub := range subs {
		for {
			m, err := sub.NextMsg(1) // what came has come
			if err != nil {
				break
			}
			if string(m.Data) == secret {
				return true, nil
			}
		}
	}
	return false, nil
}

// js is a request to JetStream.
type js struct {
	subject, body string
	header        nats.Header
}

// jetstream makes requests under every prefix by which a client might reach JetStream. The
// effect is an answer that is no refusal of the request's form.
func jetstream(requests ...js) func(context.Context, *scene) (bool, error) {
	return func(ctx context.Context, s *scene) (bool, error) {
		t, err := s.two(ctx)
		defer t.close()
		if err != nil {
			return false, err
		}
		observed := false
		for _, r := range requests {
			for _, prefix := range []string{"$JS.", "$JS.kernel.", "$JS.KERNEL.", "$JS.audit."} {
				_, answer, err := send(ctx, t.raw, &nats.Msg{Subject: prefix + r.subject, Data: []byte(r.body), Header: r.header})
				if err != nil {
					return false, err
				}
				observed = observed || answer != nil && !nobody(answer) && !strings.Contains(string(answer.Data), `"error"`)
			}
		}
		return observed, t.legitimate(ctx)
	}
}

func buckets(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	observed := false
	for _, h := range []nats.Header{
		{"Nats-Rollup": {"all"}},
		{"Nats-Msg-Id": {"1"}},
		{"Nats-Expected-Last-Subject-Sequence": {"0"}},
		{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {"$KV.registry.y"}},
		{"KV-Operation": {"PURGE"}},
	} {
		for _, subj := range []string{"$KV.registry.x", "$KV.state.x", "$KV.requests.x", "$O.artifacts.M.x"} {
			_, answer, err := send(ctx, t.raw, &nats.Msg{Subject: subj, Header: h, Data: []byte("x")})
			if err != nil {
				return false, err
			}
			observed = observed || answer != nil && strings.Contains(string(answer.Data), `"seq"`)
		}
	}
	// The same headers on a message that the attacker may send change nothing.
	m := nats.NewMsg(subject.Call(t.mine, "echo", t.attacker.id))
	m.Header = nats.Header{"Nats-Rollup": {"all"}, "Nats-Msg-Id": {"1"}, "Nats-Schedule-Target": {"x"}}
	m.Data = []byte("mine")
	if r, err := t.raw.RequestMsgWithContext(ctx, m); err != nil || string(r.Data) != "mine" || len(r.Header["Nats-Rollup"]) > 0 {
		return observed, fmt.Errorf("a call with headers: %v %v", r, err)
	}
	return observed, nil
}

func revision(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	observed := false
	for n := range 3 {
		m := nats.NewMsg(fmt.Sprintf("rev.%s.%s.%d.echo.%s", t.mine.Namespace, t.mine.Name, n, t.attacker.id))
		m.Data = []byte("round about")
		_, answer, err := send(ctx, t.raw, m)
		if err != nil {
			return false, err
		}
		observed = observed || answer != nil && string(answer.Data) == "round about"
	}
	return observed, t.legitimate(ctx)
}

func flag(ctx context.Context, s *scene) (bool, error) {
	t, err := s.two(ctx)
	defer t.close()
	if err != nil {
		return false, err
	}
	observed := false
	for _, op := range []string{"--help", "-rf", "*", "UPPER", "../x", strings.Repeat("x", 100)} {
		_, answer, err := send(ctx, t.raw, nats.NewMsg("svc."+t.mine.Namespace+".tool."+op+"."+t.attacker.id))
		if err != nil {
			return false, err
		}
		observed = observed || answer != nil && strings.HasPrefix(string(answer.Data), "ran ")
	}
	return observed, t.legitimate(ctx)
}
