package registry

import (
	"fmt"
	"strconv"
	"strings"

	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/services/registry/internal/feed"
	"github.com/solo-os/solo/services/registry/internal/store"
)

type entry = store.Entry

// checkEvents completes the events of a request and refuses those that cannot be published,
// before anything of the request takes effect.
func checkEvents(svc subject.Service, events []*solov1.Event) error {
	for i, e := range events {
		if err := feed.Check("events["+strconv.Itoa(i)+"]", svc, e); err != nil {
			return err
		}
	}
	return nil
}

// transition is what a write tells: the writer's own events, or, where it brought none and
// the state changed, one named after the new state.
func transition(before, now entry, events []*solov1.Event) []*solov1.Event {
	state := now.Registration.GetState()
	if len(events) > 0 || before.Registration.GetState() == state {
		return events
	}
	return own(now, strings.ToLower(strings.TrimPrefix(state.String(), "SERVICE_STATE_")), now.Registration.GetLastError())
}

// removed tells that a registration is forgotten.
func removed(before entry) []*solov1.Event {
	return own(before, "removed", fmt.Sprintf("%s and what was registered of it are gone", before.Service))
}

func own(e entry, kind, message string) []*solov1.Event {
	ev := &solov1.Event{Type: kind, Revision: e.Registration.GetRevision(), Message: message}
	if feed.Check("", e.Service, ev) != nil {
		return nil // a state this version has no name for
	}
	return []*solov1.Event{ev}
}
