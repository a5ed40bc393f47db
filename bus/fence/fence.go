// Package fence decides who may connect to the bus and as what, and makes changes of
// capabilities take force on a whole node.
//
// Every connection proves a key by signing the server's nonce. The key is that of a component
// (an Identity, given out by the kernel) or of a live capability; the account and the
// permissions follow from it alone, and the connection ends when the capability expires.
//
// When Apply returns, the fence and every gate of the node know the events: a gate that does
// not answer within AckTime is cut off, reported as hung, and the end of its process or of its lease waited
// for, whichever comes first. The live connections of what died are closed.
//
// Lock order: an id's turn, then applying, then mu; mu is held while the server registers a connection and while
// capabilities die, so a connection is either refused or known to the one who cuts. mu comes
// before the server's own locks and before the table's.
package fence

import (
	"encoding/base64"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/embed"
	"github.com/solo-os/solo/bus/gate"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	"github.com/solo-os/solo/proto/subject"
)

// Bus is what the fence needs of the server.
type Bus interface {
	Account(name string) (*server.Account, error)
	Alive(cid uint64) bool
	Kick(cid uint64) bool
}

var _ Bus = (*embed.Server)(nil)

// Identity is a process of Solo's own.
type Identity struct {
	// Role is a component name, runner, keeper or Bootstrap.
	Role string
	// Namespace that a runner hosts, for logs.
	Namespace string
}

// Options of a Fence.
type Options struct {
	Log *slog.Logger
	// Ready hears of a component that does its work. It must not block. May be nil.
	Ready func(id string, who Identity, addresses map[string]string)
	// Refused hears of keys that were not let in, and why; id is empty where no key was proven. It must
	// not block. May be nil.
	Refused func(id, reason string)
	// Hung hears of a gate that did not acknowledge a change within AckTime and was cut off: its process is
	// to be killed. Its answer is not waited for longer than that process lives. It must not block. May be nil.
	Hung func(id string, who Identity)
}

// Fence is safe for concurrent use.
type Fence struct {
	o     Options
	table *gate.Table

	applying sync.Mutex // one change after the other, in order
	turns    *turns     // an id's connections, one after the other

	mu         sync.Mutex
	bus        Bus                            // mu; nil until Attach
	identities map[string]Identity            // mu
	conns      map[uint64]string              // mu; id by connection
	byID       map[string]map[uint64]struct{} // mu
	joined     map[string]process             // mu; gates that hold a lease
	events     []*kernelv1.CapEvent           // mu; all of them, by sequence-1
	open       bool                           // mu; holders may connect

	lease atomic.Int64 // the last deadline given to gates; renewed without waiting for mu

	service *service // set by Serve
	nc      *nats.Conn
}

var _ server.Authentication = (*Fence)(nil)

// New returns a fence that lets nobody in until it is attached and knows identities.
func New(o Options) *Fence {
	return &Fence{
		o: o, table: gate.NewTable(), turns: &turns{m: map[string]*turn{}}, identities: map[string]Identity{}, conns: map[uint64]string{},
		byID: map[string]map[uint64]struct{}{}, joined: map[string]process{},
	}
}

// Table is the node's own replica of the capabilities.
func (f *Fence) Table() *gate.Table { return f.table }

// Attach gives the fence the server that it guards.
func (f *Fence) Attach(b Bus) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bus = b
	f.renew()
}

// Load brings in events at boot, before anyone joins.
func (f *Fence) Load(ev *kernelv1.CapEvent) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.table.Apply([]*kernelv1.CapEvent{ev}); err != nil {
		return err
	}
	f.events = append(f.events, ev)
	return nil
}

// Open lets holders in or keeps them out. Keeping them out does not close their connections.
// Components and the keys of services are let in all the same.
func (f *Fence) Open(open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = open
}

// ID is the key behind a connection, or empty.
func (f *Fence) ID(cid uint64) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns[cid]
}

// Check decides about one CONNECT. It is called by the server.
func (f *Fence) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	id := o.Nkey
	proven := c.Kind() == server.CLIENT && subject.ValidID(id) && (signed(id, o.Sig, c.GetNonce()) || !check.On(check.Signature))
	reason := unauthenticated
	if proven {
		reason = f.check(c, id)
	}
	if reason == "" {
		return true
	}
	if f.o.Refused != nil {
		if !proven {
			id = "" // whoever it was may have named somebody else
		}
		f.o.Refused(id, reason)
	}
	return false
}

// unauthenticated is the reason of a connection that has proven no key.
const unauthenticated = "UNAUTHENTICATED"

// check decides about a connection that has proven the key of id. What the key may do is compiled
// first, which may take a while; whether it is alive is decided under the lock.
func (f *Fence) check(c server.ClientAuthentication, id string) (refused string) {
	defer f.turns.take(id)()
	u, reason := f.compiled(id)
	if reason != "" {
		return reason
	}
	cid := c.GetID()
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, again := f.conns[cid]; again && check.On(check.OneConnect) || f.bus == nil {
		return unauthenticated // one CONNECT a connection
	}
	if reason := f.alive(id, u.kind); reason != "" {
		return reason
	}
	if !check.On(check.Register) {
		f.unlocked()
	}
	c.RegisterUser(u.User)
	f.prune(id)
	f.conns[cid] = id
	if f.byID[id] == nil {
		f.byID[id] = map[uint64]struct{}{}
	}
	f.byID[id][cid] = struct{}{}
	return ""
}

func signed(id, sig string, nonce []byte) bool {
	b, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil {
		if b, err = base64.StdEncoding.DecodeString(sig); err != nil {
			return false
		}
	}
	key, err := nkeys.FromPublicKey(id)
	return err == nil && len(nonce) > 0 && key.Verify(nonce, b) == nil
}

// user is what an id may do, compiled.
type user struct {
	*server.User
	kind identityKind
}

// identityKind is what an id was known as when it was compiled.
type identityKind uint8

const (
	componentKey identityKind = iota
	holderKey
	serviceKey
)

// alive says why an id may not connect at this moment, if so. mu is held.
func (f *Fence) alive(id string, k identityKind) string {
	_, known := f.identities[id]
	switch {
	case k == componentKey && !known, k != componentKey && known:
		return gate.Unknown.String()
	case k == componentKey:
		return ""
	case !f.table.Leased():
		return gate.NoLease.String()
	case k == holderKey && !f.open:
		return "CLOSED"
	}
	if d := f.table.Live(id); d != gate.Allowed && (d != gate.Revoked || check.On(check.Liveness)) {
		return d.String()
	}
	return ""
}

// compiled is what an id may do, or says why it may not connect.
func (f *Fence) compiled(id string) (user, string) {
	f.mu.Lock()
	who, known := f.identities[id]
	b := f.bus
	f.mu.Unlock()
	if b == nil {
		return user{}, unauthenticated
	}
	u := user{User: &server.User{Username: id}}
	account := embed.Kernel
	var err error
	if known {
		u.Permissions, err = component(who.Role, id)
	} else {
		v, known := f.table.Get(id)
		if !known {
			return user{}, gate.Unknown.String()
		}
		if v.State != gate.Allowed && (v.State != gate.Revoked || check.On(check.Liveness)) {
			return user{}, v.State.String()
		}
		u.kind = serviceKey
		if check.On(check.Expiry) {
			u.ConnectionDeadline = f.ends(v.Expires)
		}
		if v.Record.GetKind() == kernelv1.CapKind_CAP_KIND_HOLDER {
			u.kind = holderKey
		}
		account, u.Permissions, err = f.capability(id, v)
	}
	if err != nil {
		f.o.Log.Error("a key is known but what it may do cannot be compiled", "id", id, "error", err)
		return user{}, "INTERNAL"
	}
	if u.Account, err = b.Account(account); err != nil || u.Account == nil || u.Permissions == nil {
		f.o.Log.Error("a connection has no account or no permissions", "id", id, "account", account, "error", err)
		return user{}, "INTERNAL"
	}
	return u, ""
}

// ends is when the server is to end a connection by its own clock, which may have been set back.
func (f *Fence) ends(expires time.Time) time.Time {
	if expires.IsZero() {
		return expires
	}
	return time.Now().Add(expires.Sub(f.table.Now()))
}

var errNoKey = errors.New("this kind of capability has no key")

// capability compiles a live capability.
func (f *Fence) capability(id string, v gate.View) (account string, p *server.Permissions, err error) {
	switch v.Record.GetKind() {
	case kernelv1.CapKind_CAP_KIND_HOLDER:
		p, err = holder(id, v.Rules)
		return embed.Caller, p, err
	case kernelv1.CapKind_CAP_KIND_BOUND:
		parent, ok := f.table.Get(v.Record.GetParent())
		if !ok {
			return "", nil, errNoKey
		}
		switch parent.Record.GetKind() {
		case kernelv1.CapKind_CAP_KIND_SERVICE:
			p, err = holder(id, parent.Rules)
			return embed.Caller, p, err
		case kernelv1.CapKind_CAP_KIND_SERVING:
			s, err := subject.ParseService(parent.Record.GetService())
			if err != nil {
				return "", nil, err
			}
			p, err = serving(s, v.Record.GetRevision())
			return embed.Service, p, err
		}
	}
	return "", nil, errNoKey
}

// unlocked lets everybody else go on for a moment between the decision about a connection and
// its registration, in builds that have the check off. mu is held before and after.
func (f *Fence) unlocked() {
	f.mu.Unlock()
	defer f.mu.Lock()
	time.Sleep(20 * time.Millisecond)
}

// Cut closes every connection of the ids and returns how many there were.
func (f *Fence) Cut(ids ...string) (n int) {
	f.mu.Lock()
	var cids []uint64
	for _, id := range ids {
		for cid := range f.byID[id] {
			cids = append(cids, cid)
			delete(f.conns, cid)
		}
		delete(f.byID, id)
	}
	b := f.bus
	f.mu.Unlock()
	if !check.On(check.Cut) {
		return 0
	}
	for _, cid := range cids {
		if b.Kick(cid) {
			n++
		}
	}
	return n
}

// CutHolders closes the connections of everyone but components and services' answering keys,
// for the end of the node.
func (f *Fence) CutHolders() int {
	f.mu.Lock()
	var ids []string
	for id := range f.byID {
		if _, ours := f.identities[id]; ours {
			continue
		}
		if v, ok := f.table.Get(id); !ok || v.Record.GetKind() == kernelv1.CapKind_CAP_KIND_HOLDER {
			ids = append(ids, id)
		}
	}
	f.mu.Unlock()
	return f.Cut(ids...)
}

// prune forgets connections of one id that have ended by themselves. mu is held.
func (f *Fence) prune(id string) {
	for cid := range f.byID[id] {
		if !f.bus.Alive(cid) {
			delete(f.byID[id], cid)
			delete(f.conns, cid)
		}
	}
	if len(f.byID[id]) == 0 {
		delete(f.byID, id)
	}
}

// sweep is prune for all.
func (f *Fence) sweep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.byID {
		f.prune(id)
	}
}

// Counts tells how many connections are live and how many gates hold a lease.
func (f *Fence) Counts() (connections, gates int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns), len(f.joined)
}
