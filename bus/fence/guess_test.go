package fence_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/solo-os/solo/bus/bustest"
)

// try presents a key on a connection of its own; sign makes the signature of the nonce. It returns all
// that the server says after its greeting, and how long it took to say it and to hang up.
func try(t *testing.T, addr, id string, sign func(nonce []byte) string) (said string, took time.Duration) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var info struct{ Nonce string }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatal(err)
	}
	connect := fmt.Sprintf("CONNECT {\"nkey\":%q,\"sig\":%q,\"protocol\":1}\r\nPING\r\n", id, sign([]byte(info.Nonce)))
	begin := time.Now()
	if _, err := io.WriteString(c, connect); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), time.Since(begin)
}

func signing(t *testing.T, seed string) func([]byte) string {
	t.Helper()
	kp, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		t.Fatal(err)
	}
	return func(nonce []byte) string {
		sig, err := kp.Sign(nonce)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(sig)
	}
}

// Who guesses learns nothing: every key that is not let in gets the same answer at about the same cost,
// whether it is unknown, revoked or expired, narrow or wide, and whether or not it is proven.
func TestGuessingTellsNothing(t *testing.T) {
	w := bustest.Start(t)
	rules := make([]string, 64)
	for i := range rules {
		rules[i] = fmt.Sprintf("svc:alice/s%d=*", i)
	}
	live, wide, unknown := w.Grant(t, "svc:alice/*=*"), w.Grant(t, rules...), bustest.NewHandle(t)
	revoked, wideRevoked := w.Grant(t, "svc:alice/*=*"), w.Grant(t, rules...)
	below := w.GrantFrom(t, revoked.ID, time.Hour, "svc:alice/counter=call:get")
	expired := w.GrantFrom(t, w.Root.ID, 1, rules...)
	w.Revoke(t, revoked.ID)
	w.Revoke(t, wideRevoked.ID)
	other := signing(t, unknown.Seed)
	nonsense := func([]byte) string { return base64.RawURLEncoding.EncodeToString(make([]byte, 64)) }
	guesses := []struct {
		name, id string
		sign     func([]byte) string
		costs    bool // a signature is checked
	}{
		{"unknown", unknown.ID, signing(t, unknown.Seed), true},
		{"revoked", revoked.ID, signing(t, revoked.Seed), true},
		{"revoked, with many rules", wideRevoked.ID, signing(t, wideRevoked.Seed), true},
		{"below a revoked one", below.ID, signing(t, below.Seed), true},
		{"expired", expired.ID, signing(t, expired.Seed), true},
		{"live, signed by another", live.ID, other, true},
		{"live with many rules, signed by another", wide.ID, other, true},
		{"revoked, signed by another", revoked.ID, other, true},
		{"the kernel, signed by another", w.KernelID, other, true},
		{"live, signed with nothing", live.ID, nonsense, true},
		{"unknown, signed with nothing", unknown.ID, nonsense, true},
		{"live, no signature", live.ID, func([]byte) string { return "" }, false},
		{"unknown, no signature", unknown.ID, func([]byte) string { return "" }, false},
		{"no key at all", "U", nonsense, false},
	}
	const rounds = 60
	took := make([][]time.Duration, len(guesses))
	first, _ := try(t, w.Addr, guesses[0].id, guesses[0].sign)
	for range rounds {
		for i, g := range guesses {
			said, d := try(t, w.Addr, g.id, g.sign)
			if said != first {
				t.Fatalf("%s: the server says %q, and to others %q", g.name, said, first)
			}
			took[i] = append(took[i], d)
		}
	}
	if !strings.HasPrefix(first, "-ERR") {
		t.Errorf("the server says %q", first)
	}
	low, high := time.Duration(1<<62), time.Duration(0)
	for i, g := range guesses {
		slices.Sort(took[i])
		m := took[i][rounds/2]
		t.Logf("%-45s %s", g.name, m)
		if g.costs {
			low, high = min(low, m), max(high, m)
		}
	}
	if high >= 3*low {
		t.Errorf("the median cost lies between %s and %s", low, high)
	}
}
