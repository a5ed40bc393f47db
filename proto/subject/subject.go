// Package subject builds and parses every subject on Solo's bus, the literal shape in the
// comment of each function. The id of the capability behind a message is always the last
// token, and the server lets a holder publish only subjects that end in its own id: so a
// parsed subject is the server's own statement of who asks. Parsing is by exact token count
// and refuses wildcards and empty tokens.
package subject

import (
	"errors"
	"fmt"
	"strings"
)

// None stands where a system call has no namespace or no service: "any", or "does not apply".
const None = "-"

// ErrSubject is wrapped by every parse error.
var ErrSubject = errors.New("not a subject of this kind")

// Service names a service.
type Service struct {
	// Both are names in the sense of ValidName, or None in system calls.
	Namespace, Name string
}

// String is `namespace/name`.
func (s Service) String() string { return s.Namespace + "/" + s.Name }

// Queue is the queue group of all instances of the service, the only one in which the server
// lets them listen: `namespace/name`.
func (s Service) Queue() string { return s.String() }

// ParseService reads `namespace/name`.
func ParseService(s string) (Service, error) {
	ns, name, ok := strings.Cut(s, "/")
	if !ok || !ValidName(ns) || !ValidName(name) {
		return Service{}, fmt.Errorf("%q is no service name: want namespace/name, each of 1-40 characters a-z, 0-9 and inner dashes, a letter first", s)
	}
	return Service{ns, name}, nil
}

// ValidName tells whether s is [a-z]([a-z0-9-]{0,38}[a-z0-9])?
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > 40 || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !lowerDigit(c) && c != '-' {
			return false
		}
	}
	return true
}

// ValidOp tells whether s is [a-z][a-z0-9_-]{0,62}
func ValidOp(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !lowerDigit(c) && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// ValidID tells whether s has the shape of a user public key: U and 55 characters of base32.
func ValidID(s string) bool {
	if len(s) != 56 || s[0] != 'U' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

func lowerDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

// Call is svc.<ns>.<service>.<op>.<id>: a call to a service.
func Call(s Service, op, id string) string {
	return "svc." + s.Namespace + "." + s.Name + "." + op + "." + id
}

// CallServing is svc.<ns>.<service>.*.*: what the instances of a service subscribe.
func CallServing(s Service) string { return "svc." + s.Namespace + "." + s.Name + ".*.*" }

// RevisionServing is rev.<ns>.<service>.<revision>.*.*: what one revision subscribes during a
// rollout, where weighted mappings lead.
func RevisionServing(s Service, revision uint64) string {
	return fmt.Sprintf("rev.%s.%s.%d.*.*", s.Namespace, s.Name, revision)
}

// CallMessage is a parsed call.
type CallMessage struct {
	Service Service
	Op, ID  string
}

// ParseCall reads what Call builds, or rev.<ns>.<service>.<revision>.<op>.<id>.
func ParseCall(s string) (CallMessage, error) {
	var t [6]string
	n := split(s, t[:])
	switch {
	case n == 5 && t[0] == "svc":
	case n == 6 && t[0] == "rev" && digits(t[3]):
		t[3], t[4] = t[4], t[5]
	default:
		return CallMessage{}, bad(s, "svc.<ns>.<service>.<op>.<id>")
	}
	if !ValidName(t[1]) || !ValidName(t[2]) || !ValidOp(t[3]) || !ValidID(t[4]) {
		return CallMessage{}, bad(s, "svc.<ns>.<service>.<op>.<id>")
	}
	return CallMessage{Service{t[1], t[2]}, t[3], t[4]}, nil
}

// System is a parsed system call.
type System struct {
	// Stream is true for str, false for sys.
	Stream        bool
	Component, Op string
	Service       Service
	ID            string
}

// Sys is sys.<component>.<op>.<ns>.<service>.<id>: one question, one answer.
func Sys(component, op string, s Service, id string) string {
	return "sys." + component + "." + op + "." + s.Namespace + "." + s.Name + "." + id
}

// Str is str.<component>.<op>.<ns>.<service>.<id>: one question, many answers and an end mark.
func Str(component, op string, s Service, id string) string {
	return "str." + component + "." + op + "." + s.Namespace + "." + s.Name + "." + id
}

// Nothing is the object of system calls that have none.
func Nothing() Service { return Service{None, None} }

// SysServing is sys.<component>.>: what a component subscribes. Parsing counts the tokens.
func SysServing(component string) string { return "sys." + component + ".>" }

// StrServing is str.<component>.>
func StrServing(component string) string { return "str." + component + ".>" }

// ParseSystem reads what Sys and Str build.
func ParseSystem(s string) (System, error) {
	var t [6]string
	if split(s, t[:]) != 6 || (t[0] != "sys" && t[0] != "str") {
		return System{}, bad(s, "sys.<component>.<op>.<ns>.<service>.<id>")
	}
	if !ValidName(t[1]) || !ValidOp(t[2]) || !nameOrNone(t[3]) || !nameOrNone(t[4]) || !ValidID(t[5]) {
		return System{}, bad(s, "sys.<component>.<op>.<ns>.<service>.<id>")
	}
	return System{t[0] == "str", t[1], t[2], Service{t[3], t[4]}, t[5]}, nil
}

// InboxPrefix is _INBOX.<id>: the only place where a holder may listen.
func InboxPrefix(id string) string { return "_INBOX." + id }

// InboxAll is _INBOX.<id>.>
func InboxAll(id string) string { return "_INBOX." + id + ".>" }

func nameOrNone(s string) bool { return s == None || ValidName(s) }

func digits(s string) bool {
	if s == "" || len(s) > 20 {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// split cuts s at dots into t and returns the count, or -1 when there are more than len(t).
func split(s string, t []string) int {
	n := 0
	for {
		if n == len(t) {
			return -1
		}
		i := strings.IndexByte(s, '.')
		if i < 0 {
			t[n] = s
			return n + 1
		}
		t[n], s = s[:i], s[i+1:]
		n++
	}
}

func bad(s, want string) error {
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return fmt.Errorf("%w: %q, want %s", ErrSubject, s, want)
}
