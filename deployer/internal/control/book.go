package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

// entry is a registration as it was last read or written. reg is never changed.
type entry struct {
	reg *kernelv1.Registration
	kv  uint64
}

// book is this deployer's copy of the registrations. The registry is the truth, and every write is
// a compare-and-set there; a write that loses reads again.
type book struct {
	peer rpc.Peer

	mu sync.Mutex
	m  map[string]entry // mu; by name
}

func newBook(p rpc.Peer) *book { return &book{peer: p, m: map[string]entry{}} }

// load reads all registrations. Newer ones that are here already stay.
func (b *book) load(ctx context.Context) error {
	for after := ""; ; {
		var page kernelv1.AllRegistrationsResponse
		if err := b.call(ctx, "all", subject.Nothing(), &kernelv1.AllRegistrationsRequest{After: after}, &page); err != nil {
			return err
		}
		for _, r := range page.GetRegistrations() {
			b.learn(entry{r.GetRegistration(), r.GetKvRevision()})
			after = r.GetRegistration().GetName()
		}
		if !page.GetMore() || len(page.GetRegistrations()) == 0 {
			return nil
		}
	}
}

func (b *book) learn(e entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.kv > b.m[e.reg.GetName()].kv {
		b.m[e.reg.GetName()] = e
	}
}

// get returns what is known of a service.
func (b *book) get(name string) (entry, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, ok := b.m[name]
	return e, ok
}

// names are all services, sorted.
func (b *book) names() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]string, 0, len(b.m))
	for n := range b.m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// put writes a registration over the one at revision expected; 0 creates.
func (b *book) put(ctx context.Context, reg *kernelv1.Registration, expected uint64, events ...*solov1.Event) (entry, error) {
	s, err := subject.ParseService(reg.GetName())
	if err != nil {
		return entry{}, fault.Internal(err, "a registration without a name")
	}
	var resp kernelv1.PutRegistrationResponse
	err = b.call(ctx, "put", s, &kernelv1.PutRegistrationRequest{Registration: reg, Expected: expected, Events: events}, &resp)
	if err != nil {
		if fault.Is(err, fault.ReasonConflict) {
			b.refresh(ctx, s)
		}
		return entry{}, err
	}
	e := entry{reg, resp.GetKvRevision()}
	b.learn(e)
	return e, nil
}

// refresh reads one registration again after a lost write; what cannot be read now is read by the
// next full load.
func (b *book) refresh(ctx context.Context, s subject.Service) {
	var resp kernelv1.GetRegistrationResponse
	switch err := b.call(ctx, "get", s, &kernelv1.GetRegistrationRequest{Service: s.String()}, &resp); {
	case err == nil && resp.GetRegistration() != nil:
		b.learn(entry{resp.GetRegistration(), resp.GetKvRevision()})
	case fault.Is(err, fault.ReasonServiceNotFound):
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.m, s.String())
	}
}

// delete forgets a registration everywhere.
func (b *book) delete(ctx context.Context, e entry) error {
	s, err := subject.ParseService(e.reg.GetName())
	if err != nil {
		return err
	}
	if err := b.call(ctx, "delete", s, &kernelv1.DeleteRegistrationRequest{Service: e.reg.GetName(), Expected: e.kv}, &kernelv1.DeleteRegistrationResponse{}); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.m, e.reg.GetName())
	return nil
}

// keeps tells whether a kept revision of any service in a namespace has an artifact as its code or source.
func (b *book) keeps(namespace, sha string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, e := range b.m {
		if namespaceOf(name) == namespace && slices.ContainsFunc(e.reg.GetRevisions(), func(r *kernelv1.Revision) bool {
			return r.GetSourceSha256() == sha || r.GetCodeSha256() == sha
		}) {
			return true
		}
	}
	return false
}

// revision is one of the kept revisions, or nil.
func revision(reg *kernelv1.Registration, number uint64) *kernelv1.Revision {
	for _, r := range reg.GetRevisions() {
		if r.GetNumber() == number {
			return r
		}
	}
	return nil
}

const (
	// maxRevisions is how many revisions of a service are kept.
	maxRevisions = 10
	// maxRegistration bounds an encoded registration with its revisions. The bucket takes 1 MiB; what
	// is left is for what is written later: states, and texts of up to maxText.
	maxRegistration = 900 << 10
)

// addRevision gives a revision the next number and keeps it; the oldest go, by count and by size. What
// runs is kept, however old. It refuses a manifest for which there is no room beside that; nothing has
// been touched then, and reg is to be thrown away.
func addRevision(reg *kernelv1.Registration, r *kernelv1.Revision) error {
	reg.LastRevision++
	r.Number = reg.LastRevision
	reg.Revisions = append(reg.Revisions, r)
	for len(reg.Revisions) > maxRevisions || proto.Size(reg) > maxRegistration {
		i := 0
		if reg.Revisions[0].GetNumber() == reg.GetRevision() {
			i = 1
		}
		if i == len(reg.Revisions)-1 {
			return tooLarge(reg, r.GetManifest())
		}
		reg.Revisions = slices.Delete(reg.Revisions, i, i+1)
	}
	return nil
}

// tooLarge is the fault for a manifest that does not fit, and names the field that takes most of it.
func tooLarge(reg *kernelv1.Registration, m *solov1.Manifest) error {
	most, size := "manifest", 0
	m.ProtoReflect().Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		one := m.ProtoReflect().New()
		one.Set(d, v)
		if n := proto.Size(one.Interface()); n > size {
			most, size = "manifest."+string(d.Name()), n
		}
		return true
	})
	return fault.New(codes.InvalidArgument, fault.ReasonTooLarge, "%s: it has %d bytes; a service and its running revision are kept in %d KiB together, and this manifest takes %d bytes", most, size, maxRegistration>>10, proto.Size(m)).
		AddField(most, "%d bytes are too many", size).
		Next("make it smaller; where %s runs with a large manifest too, kill it first and then deploy", reg.GetName())
}

// wanted tells whether a registration asks for a running placement.
func wanted(reg *kernelv1.Registration) bool {
	return reg.GetDesiredRunning() && reg.GetState() != solov1.ServiceState_SERVICE_STATE_FAILED && revision(reg, reg.GetRevision()) != nil
}

func event(reg *kernelv1.Registration, kind, format string, args ...any) *solov1.Event {
	return &solov1.Event{Time: timestamppb.Now(), Service: reg.GetName(), Type: kind, Revision: reg.GetRevision(), Message: fmt.Sprintf(format, args...)}
}

// view is a service as its own holder sees it right after an operation.
func (c *Controller) view(e entry) *solov1.Service {
	s := &solov1.Service{
		Name: e.reg.GetName(), Tier: "user", State: e.reg.GetState(), Revision: e.reg.GetRevision(), Rollout: e.reg.GetRollout(),
		Enforcement: e.reg.GetEnforcement(), LastError: e.reg.GetLastError(), Etag: etag(e),
	}
	r := revision(e.reg, e.reg.GetRevision())
	if r == nil && len(e.reg.GetRevisions()) > 0 {
		r = e.reg.GetRevisions()[len(e.reg.GetRevisions())-1]
	}
	if r != nil {
		s.Manifest, s.CodeSha256, s.DeployedBy, s.DeployedAt = r.GetManifest(), r.GetCodeSha256(), r.GetDeployedBy(), r.GetDeployedAt()
	}
	if p := c.actual.find(s.GetName(), e.reg.GetRevision()); p != nil {
		s.Instances = p.GetInstances()
	}
	if id := e.reg.GetServiceId(); id != "" {
		v, ok := c.o.Table.Get(id)
		for _, rule := range s.GetManifest().GetGrants() {
			g := &solov1.ServiceGrant{Rule: rule, CapabilityId: id, Live: ok && c.live(id)}
			if ok && !v.Expires.IsZero() {
				g.ExpiresAt = timestamppb.New(v.Expires)
			}
			s.Grants = append(s.Grants, g)
		}
	}
	return s
}

// etag names the state of a registration, as the registry does.
func etag(e entry) string { return strconv.FormatUint(e.kv, 10) }

func notFound(name string) error {
	return fault.New(codes.NotFound, fault.ReasonServiceNotFound, "there is no service %s", name).With("object", "svc:"+name).Next("deploy it first; `solo ps` lists what there is")
}

// call asks the registry, again for a moment where it is not there: it may be restarting.
func (b *book) call(ctx context.Context, op string, s subject.Service, req, resp proto.Message) error {
	return patient(ctx, func() error { return b.peer.Call(ctx, subject.Registry, op, s, req, resp) })
}

// patience is how long a component that is just being restarted is waited for.
const patience = 5 * time.Second

// patient repeats f while nobody answers at all, so nothing can have happened.
func patient(ctx context.Context, f func() error) error {
	begun := time.Now()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		err := f()
		if err == nil || !absent(err) || time.Since(begun) > patience {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}

// absent tells whether nobody served the request.
func absent(err error) bool { return errors.Is(err, nats.ErrNoResponders) }
