package registry

import (
	"context"
	"encoding/base64"
	"time"

	"github.com/solo-os/solo/bus/rpc"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/services/registry/internal/feed"
	"google.golang.org/protobuf/proto"
)

const (
	defaultPage = 100
	// pageBytes bounds the services of one page, well below what the bus carries.
	pageBytes = 1 << 20
)

func (r *Registry) status(_ context.Context, c rpc.Caller, req *solov1.StatusRequest) (*solov1.StatusResponse, error) {
	svc, err := c.AboutOne("service", req.GetService())
	if err != nil {
		return nil, err
	}
	e, ok := r.store.Get(svc)
	if !ok {
		return nil, r.notFound(c, svc)
	}
	if e.Err != nil {
		return nil, unreadable(e.Err)
	}
	return &solov1.StatusResponse{Service: r.view(e)}, nil
}

func (r *Registry) list(_ context.Context, c rpc.Caller, req *solov1.ListRequest) (*solov1.ListResponse, error) {
	of := c.Service
	if ns := req.GetNamespace(); ns != "" {
		if !subject.ValidName(ns) {
			return nil, fault.Invalid("namespace", "%q is no name: want a-z, 0-9 and inner dashes, a letter first, at most 40", ns)
		}
		if of.Namespace != subject.None && of.Namespace != ns {
			return nil, fault.Invalid("namespace", "%q is not what the subject is about (%s)", ns, c.Service)
		}
		of.Namespace = ns
	}
	after, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
	if err != nil {
		return nil, fault.Invalid("page_token", "it is not one that List returned")
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	entries := r.store.After(string(after), size+1, func(e entry) bool { return rpc.Within(e.Service, of) })
	resp, bytes := &solov1.ListResponse{}, 0
	for i, e := range entries {
		var v *solov1.Service
		if e.Err != nil {
			v = &solov1.Service{Name: e.Service.String(), Tier: tier, State: solov1.ServiceState_SERVICE_STATE_FAILED, LastError: e.Err.Error(), Etag: etag(e)}
		} else {
			v = r.view(e)
		}
		bytes += proto.Size(v)
		if i == size || i > 0 && bytes > pageBytes {
			resp.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(entries[i-1].Service.String()))
			break
		}
		resp.Services = append(resp.Services, v)
	}
	return resp, nil
}

func (r *Registry) watch(ctx context.Context, c rpc.Caller, req *solov1.WatchRequest, send func(*solov1.WatchResponse) error) error {
	of, err := c.About("service", req.GetService())
	if err != nil {
		return err
	}
	return feed.Read(ctx, r.o.JS, of, req.GetAfterSequence(), func(e *solov1.Event) error {
		return send(&solov1.WatchResponse{Event: e})
	})
}

func (r *Registry) resolve(_ context.Context, c rpc.Caller, req *kernelv1.ResolveRequest) (*kernelv1.ResolveResponse, error) {
	svc, err := c.AboutOne("service", req.GetService())
	if err != nil {
		return nil, err
	}
	e, ok := r.store.Get(svc)
	if !ok {
		return &kernelv1.ResolveResponse{}, nil
	}
	if e.Err != nil {
		return nil, unreadable(e.Err)
	}
	v := r.view(e)
	return &kernelv1.ResolveResponse{Exists: true, State: v.GetState(), LastError: v.GetLastError(), Operations: v.GetManifest().GetOperations()}, nil
}

func (r *Registry) get(_ context.Context, _ rpc.Caller, req *kernelv1.GetRegistrationRequest) (*kernelv1.GetRegistrationResponse, error) {
	svc, err := subject.ParseService(req.GetService())
	if err != nil {
		return nil, fault.Invalid("service", "%v", err)
	}
	e, ok := r.store.Get(svc)
	if !ok {
		return nil, unknown(svc)
	}
	if e.Err != nil {
		return nil, unreadable(e.Err)
	}
	return &kernelv1.GetRegistrationResponse{Registration: e.Registration, KvRevision: e.Revision}, nil
}

// all pages by name. What is unreadable is left out: nobody may act on it.
func (r *Registry) all(_ context.Context, _ rpc.Caller, req *kernelv1.AllRegistrationsRequest) (*kernelv1.AllRegistrationsResponse, error) {
	const page = 500
	resp, bytes := &kernelv1.AllRegistrationsResponse{}, 0
	for i, e := range r.store.After(req.GetAfter(), page+1, func(e entry) bool { return e.Err == nil }) {
		g := &kernelv1.GetRegistrationResponse{Registration: e.Registration, KvRevision: e.Revision}
		bytes += proto.Size(g)
		if i == page || i > 0 && bytes > pageBytes {
			resp.More = true
			break
		}
		resp.Registrations = append(resp.Registrations, g)
	}
	return resp, nil
}

func (r *Registry) put(ctx context.Context, _ rpc.Caller, req *kernelv1.PutRegistrationRequest) (*kernelv1.PutRegistrationResponse, error) {
	svc, err := subject.ParseService(req.GetRegistration().GetName())
	if err != nil {
		return nil, fault.Invalid("registration.name", "%v", err)
	}
	if err := checkEvents(svc, req.GetEvents()); err != nil {
		return nil, err
	}
	var stored func(context.Context) error
	rev, err := r.store.Put(ctx, req.GetRegistration(), req.GetExpected(), func(before, now entry) {
		stored = r.outbox.Add(ctx, transition(before, now, req.GetEvents()))
	})
	if err != nil {
		return nil, err
	}
	r.await(ctx, stored)
	return &kernelv1.PutRegistrationResponse{KvRevision: rev}, nil
}

func (r *Registry) delete(ctx context.Context, _ rpc.Caller, req *kernelv1.DeleteRegistrationRequest) (*kernelv1.DeleteRegistrationResponse, error) {
	svc, err := subject.ParseService(req.GetService())
	if err != nil {
		return nil, fault.Invalid("service", "%v", err)
	}
	var stored func(context.Context) error
	err = r.store.Delete(ctx, svc, req.GetExpected(), func(before entry) {
		stored = r.outbox.Add(ctx, removed(before))
	})
	if err != nil {
		return nil, err
	}
	r.await(ctx, stored)
	return &kernelv1.DeleteRegistrationResponse{}, nil
}

func (r *Registry) report(ctx context.Context, c rpc.Caller, req *kernelv1.ReportRequest) (*kernelv1.ReportResponse, error) {
	if !validNode(req.GetNode()) {
		return nil, fault.Invalid("node", "%q is no node name: want 1-64 letters, digits, - and _", req.GetNode())
	}
	if err := checkEvents(subject.Nothing(), req.GetEvents()); err != nil {
		return nil, err
	}
	r.live.Report(c.ID, req)
	r.await(ctx, r.outbox.Add(ctx, req.GetEvents()))
	return &kernelv1.ReportResponse{}, nil
}

// eventPatience is how long a writer's answer waits for its events to be stored. The write
// itself is done, so it is answered as done whatever becomes of them.
const eventPatience = 2 * time.Second

func (r *Registry) await(ctx context.Context, stored func(context.Context) error) {
	if stored == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, eventPatience)
	defer cancel()
	if err := stored(ctx); err != nil {
		r.o.Log.Warn("events are late", "error", err)
	}
}
