package attack

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/proto/subject"
)

func borders() []attack {
	return []attack{
		{
			name: "another's service", has: "a handle for one namespace", tries: "to call a service in another", off: check.PublishAllow,
			run: crossing(func(t two) []string { return []string{subject.Call(t.theirs, "echo", t.attacker.id)} }),
		},
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
		all := subjects(t)
		for _, subj := range all {
			taken, answer, err := send(ctx, t.raw, nats.NewMsg(subj))
			if err != nil {
				return false, err
			}
			if taken && answer != nil && !nobody(answer) {
				crossed++
			}
		}
		return crossed > 0, errors.Join(t.legitimate(ctx))
	}
}

// nobody tells whether an answer is the server's own, that nobody listens.
func nobody(m *nats.Msg) bool { return m.Header.Get("Status") == "503" }
