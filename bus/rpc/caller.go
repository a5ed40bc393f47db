package rpc

import (
	"strings"

	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/proto/fault"
	"github.com/solo-os/solo/proto/subject"
)

// About reads the service that a request names in a field, and refuses one that is not within
// the object of the subject: the gate has checked that object and no other. value is
// `namespace/name`, `namespace/*` or `*/*`; empty is `*/*`. In the result, as in subjects,
// subject.None stands for any.
func (c Caller) About(field, value string) (subject.Service, error) {
	s := subject.Nothing()
	if value != "" {
		ns, name, ok := strings.Cut(value, "/")
		if !ok || (ns != "*" && !subject.ValidName(ns)) || (name != "*" && !subject.ValidName(name)) {
			return s, fault.Invalid(field, "%q is no service: want namespace/name, namespace/* or */*", value)
		}
		if ns != "*" {
			s.Namespace = ns
		}
		if name != "*" {
			s.Name = name
		}
	}
	if !Within(s, c.Service) && check.On(check.About) {
		return s, fault.Invalid(field, "%q is not what the subject is about (%s)", value, c.Service)
	}
	return s, nil
}

// AboutOne is About for requests that name exactly one service.
func (c Caller) AboutOne(field, value string) (subject.Service, error) {
	s, err := subject.ParseService(value)
	if err != nil {
		return s, fault.Invalid(field, "%v", err)
	}
	if !Within(s, c.Service) && check.On(check.About) {
		return s, fault.Invalid(field, "%q is not what the subject is about (%s)", value, c.Service)
	}
	return s, nil
}

// Within tells whether every service that s stands for is one that of stands for, where
// subject.None stands for any.
func Within(s, of subject.Service) bool {
	return (of.Namespace == subject.None || of.Namespace == s.Namespace) && (of.Name == subject.None || of.Name == s.Name)
}
