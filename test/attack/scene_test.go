package attack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/check"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"github.com/solo-os/solo/test/world"
	"google.golang.org/protobuf/types/known/durationpb"
)

// scene is a running Solo and those who are in it.
type scene struct {
	*world.World
	off  check.Name // the check it goes without
	root holder
	tool string
	dir  string // for files and pipes
	n    int    // names given so far
	stop func() // ends it; the end of its test does so too
}

// holder is somebody with a handle.
type holder struct {
	seed, id string
	*world.Client
}

// start boots Solo; off is the check that it goes without, empty for the build that is shipped.
func (b builds) start(t *testing.T, off check.Name) *scene {
	t.Helper()
	home, err := os.MkdirTemp("", "solo-")
	if err != nil {
		t.Fatal(err)
	}
	log, o := &tail{}, world.Options{Bin: b.full, Home: home, Env: []string{"SOLO_WARM_BUILDS=false"}}
	if off != "" {
		o.Bin, o.Env = b.weak, append(o.Env, check.Variable+"="+string(off))
	}
	o.Log = log
	w, err := world.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{World: w, off: off, tool: b.tool, dir: filepath.Join(home, "x")}
	s.stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
		defer cancel()
		if s.root.Client != nil {
			_ = s.root.Close() // what it is connected to ends next
		}
		if off == "" { // what is shipped ends well whatever was done to it
			if err := w.Stop(ctx); err != nil {
				t.Errorf("stop: %v", err)
			}
			if err := w.Gone(ctx); err != nil {
				t.Error(err)
			}
		}
		if _, err := w.KillAll(ctx); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of the kernel's log:\n%s", log)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	ctx, cancel := context.WithTimeout(t.Context(), attackTime)
	defer cancel()
	if _, err := w.Start(ctx); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	seed, err := world.Handle(filepath.Join(home, "root.nk"))
	if err != nil {
		t.Fatal(err)
	}
	if s.root, err = s.holder(seed); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *scene) holder(seed string) (holder, error) {
	kp, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return holder{}, err
	}
	id, err := kp.PublicKey()
	if err != nil {
		return holder{}, err
	}
	c, err := s.Client(seed)
	return holder{seed, id, c}, err
}

// name is one that nobody has yet.
func (s *scene) name(prefix string) string {
	s.n++
	return fmt.Sprintf("%s%d", prefix, s.n)
}

// path of a file that is not there yet.
func (s *scene) path() string { return filepath.Join(s.dir, s.name("f")) }

// newKey is a key that was granted nothing.
func newKey() (seed, id string, err error) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		return "", "", err
	}
	b, err := kp.Seed()
	if err != nil {
		return "", "", err
	}
	id, err = kp.PublicKey()
	return string(b), id, err
}

// grant makes a holder from another, for an hour or as long as that one has left.
func (s *scene) grant(ctx context.Context, from holder, depth uint32, rules ...string) (holder, error) {
	return s.grantFor(ctx, from, depth, 0, rules...)
}

func (s *scene) grantFor(ctx context.Context, from holder, depth uint32, ttl time.Duration, rules ...string) (holder, error) {
	seed, id, err := newKey()
	if err != nil {
		return holder{}, err
	}
	req := &solov1.GrantCapabilityRequest{Rules: rules, Depth: depth, PublicKey: id}
	if ttl > 0 {
		req.Ttl = durationpb.New(ttl)
	}
	if _, err := from.GrantCapability(ctx, req); err != nil {
		return holder{}, fmt.Errorf("grant %v: %w", rules, err)
	}
	return s.holder(seed)
}

func (s *scene) revoke(ctx context.Context, id string) error {
	_, err := s.root.RevokeCapability(ctx, &solov1.RevokeCapabilityRequest{Id: id})
	return err
}

// service deploys the tool in a namespace of its own, or under a given name.
func (s *scene) service(ctx context.Context, name string) (subject.Service, error) {
	if name == "" {
		name = s.name("n") + "/tool"
	}
	if r := s.Solo(ctx, "", "deploy", name, s.tool, "--format", "binary", "--protocol", "stdio"); r.Code != 0 {
		return subject.Service{}, fmt.Errorf("deploy %s: %s", name, r.Err)
	}
	return subject.ParseService(name)
}

// mark is a call that leaves a byte in a file.
func (h holder) call(ctx context.Context, of subject.Service, op, payload string) (string, error) {
	r, err := h.Call(ctx, &solov1.CallRequest{Service: of.String(), Op: op, Body: &solov1.CallRequest_Text{Text: payload}})
	return r.GetText(), err
}

// marks is how many bytes are in a file.
func marks(file string) (int, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	return len(b), err
}

// two are a victim with a service, and an attacker with another.
type two struct {
	victim, attacker holder
	theirs, mine     subject.Service
	raw              *world.Raw // the attacker's
}

func (s *scene) two(ctx context.Context) (t two, err error) {
	if t.theirs, err = s.service(ctx, ""); err != nil {
		return t, err
	}
	if t.mine, err = s.service(ctx, ""); err != nil {
		return t, err
	}
	if t.victim, err = s.grant(ctx, s.root, 2, "svc:"+t.theirs.Namespace+"/*=*"); err != nil {
		return t, err
	}
	if t.attacker, err = s.grant(ctx, s.root, 2, "svc:"+t.mine.Namespace+"/*=*"); err != nil {
		return t, err
	}
	t.raw, err = s.Raw(ctx, t.attacker.seed)
	return t, err
}

func (t two) close() {
	for _, h := range []holder{t.victim, t.attacker} {
		if h.Client != nil {
			_ = h.Close() // the test is over
		}
	}
	if t.raw != nil {
		t.raw.Close()
	}
}

// legitimate is the attacker's own business, which must go on working.
func (t two) legitimate(ctx context.Context) error {
	m, err := t.raw.RequestWithContext(ctx, subject.Call(t.mine, "echo", t.attacker.id), []byte("mine"))
	if err != nil || string(m.Data) != "mine" {
		return fmt.Errorf("the attacker's own call: %v %v", m, err)
	}
	return nil
}

// send publishes a message and tells whether the server took it. Its refusal comes before the
// answer to the flush, but by a callback of its own, so it is waited for where a no is expected.
func send(ctx context.Context, r *world.Raw, m *nats.Msg) (taken bool, answer *nats.Msg, err error) {
	inbox := m.Reply
	if inbox == "" {
		inbox = r.NewInbox()
		m.Reply = inbox
	}
	sub, err := r.SubscribeSync(inbox)
	if err != nil {
		return false, nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	got := make(chan *nats.Msg, 1)
	wait, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	go func() {
		if m, err := sub.NextMsgWithContext(wait); err == nil {
			got <- m
		}
		close(got)
	}()
	if err := r.PublishMsg(m); err != nil {
		return false, nil, err
	}
	for {
		select {
		case why := <-r.Refused:
			if strings.Contains(why, m.Subject) || strings.Contains(why, "ublish") {
				stop()
				<-got
				return false, nil, nil
			}
		case m, ok := <-got:
			if !ok {
				return true, nil, nil
			}
			return true, m, nil
		}
	}
}
