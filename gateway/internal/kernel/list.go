package kernel

import (
	"cmp"
	"context"
	"encoding/base64"
	"slices"

	"github.com/solo-os/solo/gateway/internal/holder"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
)

const (
	defaultPage = 100
	wholePage   = 1000
)

// List returns the services that the holder may list. A holder may ask the registry about the
// objects of its own rules only, so those decide what is asked; several answers are merged.
func (s *Server) List(ctx context.Context, req *solov1.ListRequest) (*solov1.ListResponse, error) {
	if ns := req.GetNamespace(); ns != "" && !subject.ValidName(ns) {
		return nil, fault.Invalid("namespace", "%q is no namespace: want 1-40 characters a-z, 0-9 and inner dashes, a letter first", ns)
	}
	objects, err := s.listable(ctx, req.GetNamespace())
	if err != nil {
		return nil, err
	}
	if len(objects) == 1 {
		resp := &solov1.ListResponse{}
		return resp, s.ask(ctx, subject.Registry, "list", objects[0], req, resp)
	}
	after, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
	if err != nil {
		return nil, fault.Invalid("page_token", "it is not one that List returned")
	}
	var all []*solov1.Service
	for _, of := range objects {
		page := &solov1.ListRequest{Namespace: req.GetNamespace(), PageSize: wholePage}
		for {
			resp := &solov1.ListResponse{}
			if err := s.ask(ctx, subject.Registry, "list", of, page, resp); err != nil {
				return nil, err
			}
			for _, x := range resp.GetServices() {
				if x.GetName() > string(after) {
					all = append(all, x)
				}
			}
			if page.PageToken = resp.GetNextPageToken(); page.PageToken == "" {
				break
			}
		}
	}
	slices.SortFunc(all, func(a, b *solov1.Service) int { return cmp.Compare(a.GetName(), b.GetName()) })
	all = slices.CompactFunc(all, func(a, b *solov1.Service) bool { return a.GetName() == b.GetName() })
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	out := &solov1.ListResponse{Services: all}
	if len(all) > size {
		out.Services = all[:size]
		out.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(all[size-1].GetName()))
	}
	return out, nil
}

// listable is the objects to ask about, none within another. A holder without the right gets
// the widest, so that its refusal is explained.
func (s *Server) listable(ctx context.Context, namespace string) ([]subject.Service, error) {
	rules, err := s.rules(ctx, from(ctx))
	if err != nil {
		return nil, err
	}
	widest := subject.Nothing()
	if namespace != "" {
		widest.Namespace = namespace
	}
	if rules.Allows(capability.ServiceObject(widest), "list") {
		return []subject.Service{widest}, nil
	}
	var out []subject.Service
	for _, r := range rules {
		one := capability.Rules{r}
		if r.Object.Kind != capability.Service || !one.Allows(r.Object, "list") {
			continue
		}
		of := subject.Service{Namespace: none(r.Object.A), Name: none(r.Object.B)}
		if namespace != "" {
			if of.Namespace != subject.None && of.Namespace != namespace {
				continue
			}
			of.Namespace = namespace
		}
		within := func(a, b subject.Service) bool {
			return capability.ServiceObject(b).Includes(capability.ServiceObject(a))
		}
		if slices.ContainsFunc(out, func(o subject.Service) bool { return within(of, o) }) {
			continue
		}
		out = slices.DeleteFunc(out, func(o subject.Service) bool { return within(o, of) })
		out = append(out, of)
	}
	if len(out) == 0 {
		out = append(out, widest)
	}
	return out, nil
}

func none(token string) string {
	if token == capability.Any {
		return subject.None
	}
	return token
}

// rules are the holder's own. A capability never changes, so they are asked for once a connection.
func (s *Server) rules(ctx context.Context, c *holder.Conn) (capability.Rules, error) {
	if rs, ok := c.Noted("rules").(capability.Rules); ok {
		return rs, nil
	}
	resp := &solov1.DescribeCapabilityResponse{}
	if err := s.ask(ctx, subject.Capmgr, "describe", subject.Nothing(), &solov1.DescribeCapabilityRequest{PageSize: 1}, resp); err != nil {
		return nil, err
	}
	rs, err := capability.ParseRules(resp.GetCapability().GetRules())
	if err != nil {
		return nil, fault.Internal(err, "the capability's rules cannot be read")
	}
	c.Note("rules", rs)
	return rs, nil
}
