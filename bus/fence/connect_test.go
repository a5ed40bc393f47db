package fence_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/solo-os/solo/bus/bustest"
)

// What a connection says of itself without proving it is not held against whom it names.
func TestARefusalIsNobodysUntilAKeyIsProven(t *testing.T) {
	w := bustest.Start(t)
	alice := w.Grant(t, "svc:alice/*=*")
	c, err := net.Dial("tcp", w.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(c, "CONNECT {\"nkey\":%q,\"sig\":\"AAAA\",\"verbose\":false}\r\nPING\r\n", alice.ID); err != nil {
		t.Fatal(err)
	}
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "Authorization Violation") {
		t.Fatalf("%q %v", line, err)
	}
	gone := w.GrantFrom(t, w.Root.ID, 1, "svc:alice/*=*")
	if _, err := w.TryDial(t, gone); err == nil {
		t.Fatal("an expired handle connected")
	}
	got := map[string]string{}
	for _, x := range w.Refusals() {
		got[x.ID] = x.Reason
	}
	if len(got) != 2 || got[""] != "UNAUTHENTICATED" || got[gone.ID] != "EXPIRED" {
		t.Errorf("%v", got)
	}
}

// While many connect with a handle of many rules, leases are renewed and others connect.
func TestManyWideConnectsDoNotHoldUpTheNode(t *testing.T) {
	w := bustest.Start(t)
	rules := make([]string, 64)
	for i := range rules {
		rules[i] = fmt.Sprintf("svc:alice/s%d=*", i)
	}
	wide, other := w.Grant(t, rules...), w.Grant(t, "svc:bob/*=*")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if nc, err := w.TryDial(t, wide); err == nil {
					nc.Close()
				}
			}
		})
	}
	for range 50 {
		nc, err := w.TryDial(t, other)
		if err != nil {
			t.Errorf("another holder cannot connect: %v", err)
			break
		}
		nc.Close()
		if !w.Fence.Table().Leased() {
			t.Error("the lease has run out")
		}
	}
	close(stop)
	wg.Wait()
}
