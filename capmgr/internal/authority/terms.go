package authority

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/check"
	"github.com/solo-os/solo/bus/gate"
	"github.com/solo-os/solo/capmgr/internal/budget"
	"github.com/solo-os/solo/proto/capability"
	"github.com/solo-os/solo/proto/fault"
	kernelv1 "github.com/solo-os/solo/proto/solo/kernel/v1"
	solov1 "github.com/solo-os/solo/proto/solo/v1"
	"github.com/solo-os/solo/proto/subject"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// defaultTTL is the life time of a grant that names none.
	defaultTTL = time.Hour
	// maxTTL bounds the life time of a grant.
	maxTTL = 100 * 365 * 24 * time.Hour
)

// terms is what a grant asks for, read and found well-formed.
type terms struct {
	rules  capability.Rules
	ttl    time.Duration // 0: the default, cut to what the parent has
	depth  uint32
	budget *solov1.Budget
	label  string
	key    string // empty: one is made
}

// unbudgeted is the same without a budget.
func (t terms) unbudgeted() terms {
	t.budget = nil
	return t
}

func readTerms(req *solov1.GrantCapabilityRequest) (terms, error) {
	t := terms{ttl: req.GetTtl().AsDuration(), depth: req.GetDepth(), budget: req.GetBudget(), label: req.GetLabel(), key: req.GetPublicKey()}
	var err error
	if t.rules, err = readRules(req.GetRules()); err != nil {
		return t, err
	}
	if req.GetTtl() != nil && (t.ttl <= 0 || t.ttl > maxTTL) {
		return t, fault.Invalid("ttl", "want more than nothing and at most 100 years")
	}
	if !utf8.ValidString(t.label) || strings.ContainsFunc(t.label, unicode.IsControl) {
		return t, fault.Invalid("label", "want text without control characters")
	}
	if t.key != "" && !validKey(t.key) {
		return t, fault.Invalid("public_key", "want the public key of a user nkey: U and 55 more characters")
	}
	return t, nil
}

func readRules(ss []string) (capability.Rules, error) {
	if len(ss) > capability.MaxRules {
		return nil, fault.Invalid("rules", "%d of them: at most %d", len(ss), capability.MaxRules)
	}
	rules := make(capability.Rules, 0, len(ss))
	for i, s := range ss {
		r, err := capability.ParseRule(s)
		if err != nil {
			return nil, fault.Invalid("rules["+strconv.Itoa(i)+"]", "%v", err)
		}
		rules = append(rules, r)
	}
	if err := rules.CheckSize(); err != nil {
		return nil, fault.Invalid("rules", "%v", err)
	}
	return rules, nil
}

func validKey(id string) bool { return subject.ValidID(id) && nkeys.IsValidPublicUserKey(id) }

// attenuate makes the record that a live holder may grant on these terms, or says why not.
// The record's id is left to the caller.
func attenuate(b budget.Tree, parent string, want terms, now time.Time) (*kernelv1.CapRecord, error) {
	t := b.Table
	v, ok := t.Get(parent)
	if err := live(v, ok); err != nil {
		return nil, err
	}
	have := v.Record.GetDepth()
	switch {
	case !check.On(check.Depth):
	case have == 0:
		return nil, fault.New(codes.PermissionDenied, fault.ReasonGrantDepth, "capability %s may not grant: its depth is 0", parent).
			With("max_depth", "none").Next("ask whoever granted it for one with --depth 1 or more")
	case want.depth >= have:
		return nil, fault.New(codes.PermissionDenied, fault.ReasonGrantDepth, "depth: %d asked, at most %d can be granted from a capability of depth %d", want.depth, have-1, have).
			With("max_depth", strconv.FormatUint(uint64(have-1), 10)).AddField("depth", "at most %d", have-1)
	}
	if missing := v.Rules.Missing(want.rules); len(missing) > 0 && check.On(check.Subset) {
		return nil, tooWide(t, "rules", parent, missing)
	}
	expires, err := expiry(v, want.ttl, b.Lifetime(parent), now)
	if err != nil {
		return nil, err
	}
	if err := affordable(b, parent, want.budget); err != nil {
		return nil, err
	}
	return &kernelv1.CapRecord{
		Parent: parent, Label: want.label, Rules: want.rules.Strings(), ExpiresAt: timestamppb.New(expires),
		Depth: want.depth, Budget: want.budget, Kind: kernelv1.CapKind_CAP_KIND_HOLDER,
	}, nil
}

// expiry is when a grant ends: by its own ttl, or after an hour, within what the parent has left and
// the lifetime that a budget sets; lifetime is 0 where none does.
func expiry(parent gate.View, ttl, lifetime time.Duration, now time.Time) (time.Time, error) {
	if lifetime > 0 && ttl > lifetime {
		return now, fault.New(codes.PermissionDenied, fault.ReasonGrantBudget, "ttl: %s asked, at most %s: the granting capability's budget lets nothing live longer", ttl, lifetime).
			With("max_ttl", lifetime.String()).AddField("ttl", "at most %s", lifetime)
	}
	if ttl == 0 {
		at := now.Add(defaultTTL)
		if lifetime > 0 {
			at = now.Add(min(defaultTTL, lifetime))
		}
		if !parent.Expires.IsZero() && parent.Expires.Before(at) {
			at = parent.Expires
		}
		return at, nil
	}
	at := now.Add(ttl)
	if !parent.Expires.IsZero() && at.After(parent.Expires) {
		longest := parent.Expires.Sub(now).Truncate(time.Second)
		return at, fault.New(codes.PermissionDenied, fault.ReasonGrantExpiry, "ttl: %s asked, at most %s is left of the granting capability, which ends at %s", ttl, longest, parent.Expires.UTC().Format(time.RFC3339)).
			With("max_ttl", longest.String()).AddField("ttl", "at most %s", longest)
	}
	return at, nil
}
